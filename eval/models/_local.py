"""Models that are loaded in this process, and how they decode."""

from abc import abstractmethod
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from eval.models.base import Answerer

# Settings of a generation config that do not shape the text of an answer, or that decoding takes from elsewhere.
NOT_DECODING = frozenset(
    [
        *("bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "use_cache"),
        *("output_attentions", "output_hidden_states", "output_logits", "output_scores"),
        "return_dict_in_generate",
    ]
)


class LocalModel(Answerer):
    """A loaded model with its processor.

    Args:
        model: The model, with a `generate`.
        processor: Its processor.
        model_id: Its identity, such as `alm.checkpoint.model_id_of`.
        max_new_tokens: Length limit of an answer in tokens.
        options: Settings of `generate` in place of greedy decoding.
        home: Its directory.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        model_id: str,
        max_new_tokens: int = 64,
        options: Mapping[str, Any] | None = None,
        home: Path | None = None,
    ) -> None:
        self._model, self._processor, self._options = model, processor, dict(options or {})
        self.model_id, self.max_new_tokens, self.home = model_id, max_new_tokens, home
        self._prepare()
        self.notes = ignored_settings(model, self.decoding)

    @abstractmethod
    def _prepare(self) -> None:
        """Set `sample_rate`, `decoding` and `differs`."""


def check_decoding(options: Mapping[str, Any]) -> None:
    """Reject settings that `transformers.GenerationConfig` does not have, which it would keep and ignore.

    Raises:
        ConfigError: Names the setting and the nearest valid one.
    """
    if not options:
        return
    known = _settings()
    for key in options:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"decoding.{key}: not a setting of transformers.GenerationConfig{hint}")


def _settings() -> list[str]:
    """The settings of a generation config."""
    from transformers import GenerationConfig

    defaults: Any = GenerationConfig
    return [key for key in defaults().to_dict() if not key.startswith("_")]


def ignored_settings(model: Any, decoding: Mapping[str, Any]) -> list[str]:
    """A note that names the settings of the LLM's generation config that this evaluation does not apply."""
    config = model.generation_config.to_diff_dict()
    known = _settings()  # loading leaves its own options there, such as trust_remote_code
    ignored = {
        key: value
        for key, value in sorted(config.items())
        if key in known and key not in decoding and key not in NOT_DECODING
    }
    if not ignored:
        return []
    named = ", ".join(f"{key}={value}" for key, value in ignored.items())
    return [
        f"Decoding ignores {named} of the LLM's generation_config.json; see 'decoding' for what was applied."
    ]
