"""Decoding settings of local models."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from alm.common.errors import ConfigError

# Settings of a generation config that do not shape the text of an answer, or that decoding takes from elsewhere.
NOT_DECODING = frozenset(
    ["bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "use_cache"]
)


def check_decoding(options: Mapping[str, Any]) -> None:
    """Reject settings that `transformers.GenerationConfig` does not have, which it would keep and ignore.

    Raises:
        ConfigError: Names the setting and the nearest valid one.
    """
    if not options:
        return
    from transformers import GenerationConfig

    defaults: Any = GenerationConfig
    known = [key for key in defaults().to_dict() if not key.startswith("_")]
    for key in options:
        if key not in known:
            near = get_close_matches(str(key), known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"decoding.{key}: not a setting of transformers.GenerationConfig{hint}")


def ignored_settings(model: Any, decoding: Mapping[str, Any]) -> list[str]:
    """A note that names what the LLM's generation config sets and this evaluation does not apply."""
    config = model.generation_config.to_diff_dict()
    ignored = {
        key: value
        for key, value in sorted(config.items())
        if key not in decoding and key not in NOT_DECODING and not key.startswith("_")
    }
    if not ignored:
        return []
    named = ", ".join(f"{key}={value}" for key, value in ignored.items())
    return [
        f"Decoding ignores {named} of the LLM's generation_config.json; see 'decoding' for what was applied."
    ]
