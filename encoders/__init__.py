"""Audio encoders: reading audio, front ends, the encoder contract and one file per encoder.

Names resolve on first use, so `import encoders` loads neither torch nor an encoder.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoders.base import AudioEncoder, AudioTokens, EncoderConfig
    from encoders.registry import config_from_dict, encoder_class, list_encoders, load_encoder
    from encoders.zoo.audiomosaic.model import AudioMosaicEncoder

_HOMES = {
    "AudioEncoder": "encoders.base",
    "AudioMosaicEncoder": "encoders.zoo.audiomosaic.model",
    "AudioTokens": "encoders.base",
    "EncoderConfig": "encoders.base",
    "config_from_dict": "encoders.registry",
    "encoder_class": "encoders.registry",
    "list_encoders": "encoders.registry",
    "load_encoder": "encoders.registry",
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
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


# `alm` registers the model with the Auto classes where these are loaded already. That imports modules of this package,
# so it must come before any of them is half imported.
import_module("alm.common")
