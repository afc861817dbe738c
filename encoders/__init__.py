"""Audio encoders: reading audio, front ends, the encoder contract and one file per encoder.

Names resolve on first use, so `import encoders` loads neither torch nor an encoder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .audiomosaic import AudioMosaicEncoder
    from .base import AudioEncoder, AudioTokens, EncoderConfig
    from .registry import config_from_dict, encoder_class, list_encoders, load_encoder

_HOMES = {
    "AudioEncoder": "base",
    "AudioMosaicEncoder": "audiomosaic",
    "AudioTokens": "base",
    "EncoderConfig": "base",
    "config_from_dict": "registry",
    "encoder_class": "registry",
    "list_encoders": "registry",
    "load_encoder": "registry",
}

__all__ = [
    "AudioEncoder",
    "AudioMosaicEncoder",
    "AudioTokens",
    "EncoderConfig",
    "config_from_dict",
    "encoder_class",
    "list_encoders",
    "load_encoder",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
