"""LLM tokens per second of audio, and the value of a projector's option that comes nearest to a given rate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from encoders import load_encoder
from encoders.base import EncoderConfig
from encoders.registry import encoder_class, list_encoders
from projectors.registry import projector_class

# Options that decide about the number of tokens, the one to change first.
_OPTIONS = ("window_s", "stack", "stride", "n_queries")
_MOST = 512
# The number of tokens does not depend on the LLM's width; any will do.
_LLM_DIM = 64


@dataclass(frozen=True)
class Matched:
    """A projector's options and the tokens per second that they give."""

    options: dict[str, Any]
    tokens_per_s: float


def encoder_config(source: str | dict[str, Any], options: dict[str, Any]) -> EncoderConfig:
    """The config of an encoder by name (nothing is built), or of weights or a layer.

    Raises:
        UserError: There is no such encoder, or its options are wrong.
    """
    if isinstance(source, str) and source in list_encoders() and "layer" not in options:
        return encoder_class(source).config_class.from_dict(options, where=f"encoder {source!r}")
    return load_encoder(source, **options).config


def tokens_per_second(
    encoder: EncoderConfig, projector: str, options: dict[str, Any], clip_s: float
) -> float:
    """LLM tokens per second, counted on a clip of `clip_s` seconds.

    Raises:
        ProjectorError: Unknown projector or option.
    """
    ends = {
        "encoder_dim": encoder.dim,
        "n_freq": encoder.n_freq,
        "frame_rate_hz": encoder.frame_rate_hz,
        "llm_dim": _LLM_DIM,
    }
    config = projector_class(projector).config_class.from_dict({**ends, **options})
    return config.n_tokens_for(encoder.n_time_for(round(clip_s * encoder.sample_rate))) / clip_s


def match_tokens(
    encoder: EncoderConfig, projector: str, options: dict[str, Any], target: float, clip_s: float
) -> Matched:
    """The options whose tokens per second come nearest to `target`; of equal ones, the fewest steps per token."""
    fields = {field.name for field in dataclasses.fields(projector_class(projector).config_class)}
    key = next((name for name in _OPTIONS if name in fields), None)
    if key is None:
        return Matched(options, tokens_per_second(encoder, projector, options, clip_s))
    candidates = []
    for number in range(1, _MOST + 1):
        value = number / encoder.frame_rate_hz if key == "window_s" else number
        tried = {**options, key: value}
        candidates.append(Matched(tried, tokens_per_second(encoder, projector, tried, clip_s)))
    return min(candidates, key=lambda found: abs(found.tokens_per_s - target))
