"""The audio-language model's config: the configs of encoder, projector and LLM, and where the LLM's weights are."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from alm.auto import AUTO_MAP
from alm.common.errors import CheckpointError, UserError, shown
from alm.common.json_text import read_json_object
from alm.common.pretrained import check_sizes, from_pretrained, typed_errors
from alm.policy import check_lora
from encoders import config_from_dict
from projectors.registry import projector_config

AUDIO_TOKEN = "<|audio|>"
ATTENTION_PARTS = frozenset({"", "text_config", "encoder"})
"""Parts of the model for which `attn_implementation` can be given by name."""


class AudioLanguageConfig(PreTrainedConfig):
    """Config of `alm.model.AudioLanguageModel`.

    Args:
        encoder: The encoder's own config as a dictionary (`model_class` picks the class).
        projector: The projector's config as a dictionary (`name` picks the class).
        text_config: The causal LLM's config.
        llm: Where the LLM's base weights are: a Hub id, or a directory (relative to the model's own directory). None:
            they are stored in this model's own safetensors file.
        llm_revision: Hub revision of `llm`.
        llm_sha256: Content hash of a local `llm` directory's weights, checked on load.
        llm_config_sha256: Hash of the values of its config.json, checked on load.
        llm_bits: 4 or 8 to quantise a referenced LLM while loading it (bitsandbytes); None does not quantise.
        encoder_lora: peft `LoraConfig` values of the encoder's adapters, or None.
        llm_lora: peft `LoraConfig` values of the LLM's adapters, or None.
        audio_token: Placeholder in prompts; its embedding is always replaced by audio.
        audio_token_id: The placeholder's id in the tokenizer; may lie outside the LLM's vocabulary.
        loss_chunk: Supervised positions whose logits are computed at once in training; 0 for all.
        base_models: Name and licence of what `encoder` and `llm` were loaded from, for the model card.
        training: The stages of training, oldest first, for the model card: `stage`, `steps`, the policy and number of
            trained parameters of each part, and `data`, the sources with their numbers of records.
    """

    model_type = "audio_language"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        projector: dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        llm: str | None = None,
        llm_revision: str | None = None,
        llm_sha256: str | None = None,
        llm_config_sha256: str | None = None,
        llm_bits: int | None = None,
        encoder_lora: dict[str, Any] | None = None,
        llm_lora: dict[str, Any] | None = None,
        audio_token: str = AUDIO_TOKEN,
        audio_token_id: int | None = None,
        loss_chunk: int = 1024,
        base_models: dict[str, dict[str, str]] | None = None,
        training: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.encoder = encoder
        self.projector = projector
        self.text_config = text_config
        self.llm = llm
        self.llm_revision = llm_revision
        self.llm_sha256 = llm_sha256
        self.llm_config_sha256 = llm_config_sha256
        self.llm_bits = llm_bits
        self.encoder_lora = encoder_lora
        self.llm_lora = llm_lora
        self.audio_token = audio_token
        self.audio_token_id = audio_token_id
        self.loss_chunk = loss_chunk
        self.base_models = base_models
        self.training = training
        # Written by `AudioLanguageModel.save_pretrained`, never copied to another directory.
        for key in ("config_sha256", "weights_header_sha256", "weights_sha256"):
            kwargs.pop(key, None)
        kwargs.setdefault("tie_word_embeddings", False)  # the LLM ties its own
        super().__init__(**kwargs)

    def forget_llm(self) -> None:
        """Make the LLM a part of the model, no longer a reference."""
        self.llm = self.llm_revision = self.llm_sha256 = self.llm_config_sha256 = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """See `transformers`. Imports the model class too: the Auto classes read the config before they look for it."""
        importlib.import_module("alm.model")
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoConfig") -> None:
        """Do nothing: a saved directory names the installed toolkit, not a copy of its code."""

    @property
    def _attn_implementation(self) -> str | None:
        return self._attn_implementation_internal

    @_attn_implementation.setter
    def _attn_implementation(self, value: str | dict[str, Any] | None) -> None:
        """Keep the encoder's attention implementation as well: its config is not a `transformers` config."""
        if isinstance(value, dict) and (unknown := value.keys() - ATTENTION_PARTS):
            raise UserError(
                f"attn_implementation: unknown part {sorted(map(str, unknown))[0]!r}; expected text_config or encoder"
            )
        self._attn_encoder = value.get("encoder") if isinstance(value, dict) else value
        PreTrainedConfig._attn_implementation.fset(self, value)  # type: ignore[attr-defined]

    def to_dict(self) -> dict[str, Any]:
        """All values of config.json."""
        values: dict[str, Any] = super().to_dict()
        values.pop("_attn_encoder", None)
        return values

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The LLM's config; generation and the trainer read vocabulary and layer counts from it."""
        return self.text_config if self.text_config is not None else self


def read_config_values(folder: Path) -> dict[str, Any]:
    """Read the values of a model directory's config.json.

    Raises:
        CheckpointError: The file is missing or broken.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(f"{folder}: config.json is missing; expected an audio-language model directory")
    return read_json_object(path, CheckpointError, constants=True)


def read_model_config(
    folder: Path, trust_remote_code: bool = False, values: dict[str, Any] | None = None
) -> AudioLanguageConfig:
    """Read and validate the config.json of a model directory; a relative path to its LLM is resolved.

    Args:
        folder: The directory.
        trust_remote_code: Take the LLM's classes from Python code in the directory of a referenced LLM, or in this
            one.
        values: The contents of config.json, if it was read before.

    Raises:
        CheckpointError: The file is missing or broken; names the key.
    """
    path = folder / "config.json"
    values = read_config_values(folder) if values is None else dict(values)
    model_type = values.pop("model_type", None)
    if model_type != AudioLanguageConfig.model_type:
        raise CheckpointError(
            f"{path}: model_type is {model_type!r}, expected '{AudioLanguageConfig.model_type}'"
        )
    check_sizes(values, str(path))
    check_values(values, str(path))
    for key in _REQUIRED:
        if key not in values:
            raise CheckpointError(f"{path}: {key} is missing; restore the file")
    for key in values.keys() - _SCHEMA.keys():
        if near := get_close_matches(key, _SCHEMA, n=1, cutoff=0.8):
            raise CheckpointError(f"{path}: unknown key '{key}'; did you mean '{near[0]}'?")
    pin = values.pop("config_sha256", None)
    if pin is not None and pin != computing_sha256(values):
        raise CheckpointError(
            f"{path}: was changed after the weights were saved (config_sha256); restore the file, or remove "
            "config_sha256 if the change is intended"
        )
    with typed_errors(str(path)):
        config_from_dict(values["encoder"], f"{path}: encoder")
        projector_config(values["projector"])
        for key in ("encoder_lora", "llm_lora"):
            if values.get(key) is not None:
                check_lora(values[key], f"{path}: {key}")
        llm = values.get("llm")
        if llm is not None and not Path(llm).is_absolute() and os.path.isdir(folder / llm):
            values["llm"] = llm = str((folder / llm).resolve())
        if llm is not None and trust_remote_code:
            values["text_config"] = from_pretrained(
                AutoConfig,
                llm,
                role="text_config",
                trust_remote_code=True,
                revision=values.get("llm_revision"),
            )
        elif trust_remote_code and "auto_map" in values["text_config"]:
            values["text_config"] = _own_text_config(values["text_config"], folder)
        elif values["text_config"].get("model_type") not in CONFIG_MAPPING:
            raise CheckpointError(
                f"{path}: text_config: transformers has no model_type "
                f"{shown(values['text_config'].get('model_type'), 80)}; if it is Python code that comes with the LLM, "
                "and you trust its author, set trust_remote_code: true (`alm ask`: --trust-remote-code)"
            )
        return AudioLanguageConfig(**values)


def _own_text_config(values: dict[str, Any], folder: Path) -> PreTrainedConfig:
    """The config of an LLM whose Python code lies in a model directory; `AutoModelForCausalLM` then knows its class."""
    # Not at the top: this module is imported while transformers is still making its Auto classes of models (alm.auto)
    from transformers import AutoModelForCausalLM

    own: dict[str, Any] = {
        name: get_class_from_dynamic_module(values["auto_map"][name], str(folder))
        for name in ("AutoConfig", "AutoModelForCausalLM")
    }
    AutoModelForCausalLM.register(own["AutoConfig"], own["AutoModelForCausalLM"], exist_ok=True)
    for name, found in own.items():
        found.register_for_auto_class(name)  # saving the model then copies this code
    config: PreTrainedConfig = own["AutoConfig"].from_dict(values)
    return config


def check_values(values: dict[str, Any], where: str) -> None:
    """Validate values of a config, one by one.

    Raises:
        CheckpointError: Names the first wrong one.
    """
    for key, (expected, is_valid) in _SCHEMA.items():
        if key in values and not is_valid(values[key]):
            raise CheckpointError(
                f"{where}: {key} is {str(values[key])[:80]!r}, expected {expected}; correct it"
            )


def computing_sha256(values: dict[str, Any]) -> str:
    """Hash of the values of a config.json that results depend on.

    An edited or damaged value may fit all weights and still change every answer, for example the encoder's
    normalisation or the LLM's `rms_norm_eps`. The text_config of a referenced LLM is not used and not part of it.
    """
    keys = ["encoder", "projector", "encoder_lora", "llm_lora", "audio_token", "audio_token_id"]
    keys += ["text_config"] if values.get("llm") is None else []
    text = json.dumps({key: values.get(key) for key in keys}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_sha256(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 4096 and value.isprintable()


def _is_base_models(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(base, dict) and all(map(_is_name, base.values())) for base in value.values()
    )


def _is_training(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_stage, value))


def _is_stage(value: Any) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("data", []), list):
        return False
    counts = value.get("parameters", {})
    return (
        _is_whole(value.get("steps", 0))
        and isinstance(counts, dict)
        and all(map(_is_whole, counts.values()))
        and all(
            isinstance(one, dict) and _is_name(one.get("name")) and _is_whole(one.get("records"))
            for one in value.get("data", [])
        )
    )


def _or_null(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_valid(value)


_SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "encoder": ("the encoder's config", lambda value: isinstance(value, dict)),
    "projector": ("the projector's config", lambda value: isinstance(value, dict)),
    "text_config": ("the LLM's config", lambda value: isinstance(value, dict)),
    "llm": ("a directory, a Hub id or null", _or_null(_is_name)),
    "llm_revision": ("a Hub revision or null", _or_null(_is_name)),
    "llm_sha256": ("64 hexadecimal digits or null", _or_null(_is_sha256)),
    "llm_config_sha256": ("64 hexadecimal digits or null", _or_null(_is_sha256)),
    "llm_bits": ("4, 8 or null", lambda value: value is None or _is_whole(value) and value in (4, 8)),
    "encoder_lora": ("adapter settings or null", _or_null(lambda value: isinstance(value, dict))),
    "llm_lora": ("adapter settings or null", _or_null(lambda value: isinstance(value, dict))),
    "audio_token": ("the placeholder's text", _is_name),
    "audio_token_id": ("a token id", lambda value: _is_whole(value) and value >= 0),
    "loss_chunk": ("a whole number from 0", lambda value: _is_whole(value) and value >= 0),
    "base_models": ("names and licences by part, or null", _or_null(_is_base_models)),
    "training": ("a list of stages or null", _or_null(_is_training)),
    "weights_header_sha256": ("64 hexadecimal digits or null", _or_null(_is_sha256)),
    "weights_sha256": ("64 hexadecimal digits or null", _or_null(_is_sha256)),
    "config_sha256": ("64 hexadecimal digits or null", _or_null(_is_sha256)),
    "auto_map": ("the classes of this toolkit", lambda value: value == AUTO_MAP),
    # If true, `generate` would expect an encoder-decoder LLM.
    "is_encoder_decoder": ("false", lambda value: value is False),
}
_REQUIRED = ("encoder", "projector", "text_config", "audio_token_id")
_NOT_OWN = {
    "auto_map", "base_models", "config_sha256", "is_encoder_decoder", "text_config", "training",
    "weights_header_sha256", "weights_sha256",
}  # fmt: skip
OWN_KEYS = tuple(_SCHEMA.keys() - _NOT_OWN)
"""Values of the model's own config; those of the LLM are in its text_config."""


AutoConfig.register(AudioLanguageConfig.model_type, AudioLanguageConfig, exist_ok=True)
