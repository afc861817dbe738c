"""Decoding settings: defaults, settings from the model's generation config, and validation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alm.common.errors import CheckpointError, UserError

MAX_NEW_TOKENS = 64

# Settings of an LLM's generation_config.json that sampling follows: name to (valid values, test).
_SAMPLING: dict[str, tuple[str, Callable[[float], bool]]] = {
    "temperature": ("a number above 0", lambda value: value > 0),
    "top_k": ("0 (disabled) or a whole number above", lambda value: value >= 0 and value == int(value)),
    "top_p": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "min_p": ("a number from 0 to 1", lambda value: 0 <= value <= 1),
    "typical_p": ("a number above 0, at most 1", lambda value: 0 < value <= 1),
    "epsilon_cutoff": ("a number from 0 to 1", lambda value: 0 <= value < 1),
    "eta_cutoff": ("a number from 0 to 1", lambda value: 0 <= value < 1),
    "repetition_penalty": ("a number above 0", lambda value: value > 0),
    "no_repeat_ngram_size": (
        "0 (disabled) or a whole number above",
        lambda value: value >= 0 and value == int(value),
    ),
}


def decoding_settings(
    model: Any, processor: Any, max_new_tokens: int = MAX_NEW_TOKENS, **options: Any
) -> dict[str, Any]:
    """All settings on which an answer depends, besides weights and prompt, as JSON values.

    Greedy decoding and beam search are neutral: the LLM's generation_config.json contributes its stop tokens and
    nothing else, so no repetition penalty or suppressed token changes an evaluation. With `do_sample=True` the LLM's
    own sampling settings (temperature, top_p, repetition_penalty, ...) apply as well.

    Args:
        model: An `alm.model.AudioLanguageModel`.
        processor: Its processor, which knows the chat template's end of turn.
        max_new_tokens: Length limit of an answer in tokens.
        **options: Settings of the caller; they override all others.

    Returns:
        Arguments of `transformers.GenerationConfig`. The default is greedy decoding.

    Raises:
        UserError: A setting is out of its range.
    """
    own = {}
    if options.get("do_sample"):
        own = {key: getattr(model.generation_config, key, None) for key in _SAMPLING}
    settings = {
        **{key: value for key, value in own.items() if value is not None},
        "do_sample": False,
        "num_beams": 1,
        "eos_token_id": _stop_tokens(model, processor),
        "pad_token_id": processor.tokenizer.pad_token_id,
        "max_new_tokens": max_new_tokens,
        **options,
    }
    _check_sampling(settings, "decoding", UserError)
    return settings


def take_stop_tokens(model: Any, processor: Any) -> None:
    """Add the chat template's end-of-turn tokens to the stop tokens of a model's own generation config.

    A call of `generate` without settings then gives the same answers as this package.

    Args:
        model: The model.
        processor: Its processor.
    """
    model.generation_config.eos_token_id = _stop_tokens(model, processor)
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id


def _stop_tokens(model: Any, processor: Any) -> list[int]:
    own = model.generation_config.eos_token_id
    return sorted(
        {*processor.stop_token_ids, *(own if isinstance(own, list) else [] if own is None else [own])}
    )


# What greedy decoding does where nothing else is asked for.
_GREEDY = {"do_sample": False, "num_beams": 1, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
# Settings of a generation config that never changed a greedy answer, or that the model's files determine.
_NO_EFFECT = frozenset(
    [
        "do_sample",
        "num_beams",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
    ]
    + ["bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "max_length", "use_cache"]
)


def beyond_greedy(model: Any, processor: Any, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """The settings that can make answers differ from those of neutral greedy decoding with the same model.

    Args:
        model: The model.
        processor: Its processor.
        settings: Result of `decoding_settings`; None stands for greedy decoding. `max_new_tokens` is ignored.

    Returns:
        Empty for neutral greedy decoding. The key `generation_config` holds settings of the LLM's
        generation_config.json that earlier versions applied in greedy decoding: their answers are not reused.
    """
    default = {**decoding_settings(model, processor), **_GREEDY}
    own = model.generation_config.to_diff_dict()
    applied_once = {
        key: repr(value)
        for key, value in own.items()
        if key not in _NO_EFFECT
        and not key.startswith("_")
        and value is not None
        and value != _GREEDY.get(key)
    }
    changed = {
        key: value
        for key, value in (settings or {}).items()
        if key != "max_new_tokens" and (key not in default or value != default[key])
    }
    return changed | ({"generation_config": applied_once} if applied_once else {})


@contextmanager
def decoding_with(model: Any, settings: dict[str, Any]) -> Iterator[Any]:
    """Make these decoding settings the only ones of a model; yields them as a `GenerationConfig`.

    `transformers` fills every setting that is not given from the model's own generation_config.
    """
    from transformers import GenerationConfig

    own = model.generation_config
    config = GenerationConfig(**settings)
    model.generation_config = config
    try:
        yield config
    finally:
        model.generation_config = own


def check_generation_config(config: Any, where: str) -> None:
    """Validate the settings of a generation_config.json that this package uses.

    Args:
        config: The `GenerationConfig`.
        where: Its file, for messages.

    Raises:
        CheckpointError: A setting has the wrong type or is out of its range.
    """
    _check_sampling(config.to_dict(), where, CheckpointError)
    for key in ("eos_token_id", "bos_token_id", "pad_token_id"):
        value = getattr(config, key, None)
        values = value if isinstance(value, list) and value and key == "eos_token_id" else [value]
        if value is not None and not all(map(_is_token_id, values)):
            expected = "a token id or a list of them" if key == "eos_token_id" else "a token id"
            raise CheckpointError(f"{where}: {key} is {value!r}, expected {expected}; correct the file")


def _is_token_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _check_sampling(settings: dict[str, Any], where: str, error_type: type[UserError]) -> None:
    for key, (expected, is_valid) in _SAMPLING.items():
        value = settings.get(key)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or not is_valid(value):
            raise error_type(f"{where}: {key} is {value!r}, expected {expected}")
