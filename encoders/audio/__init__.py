"""Reading audio of any format into mono float waveforms, and writing wav.

`reading.py` is the entry point; other modules handle formats (`ogg`, `frames`, `flac`, `containers`), FFmpeg and URLs.
Features of waveforms are computed elsewhere. Names resolve on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encoders.audio.formats import AUDIO_SUFFIXES, find_file, has_audio_suffix, search
    from encoders.audio.limits import MAX_SECONDS_VARIABLE, check_seconds, max_seconds
    from encoders.audio.options import AudioOptions, applied
    from encoders.audio.reading import (
        AudioHeader,
        decode_audio,
        load_audio,
        read_header,
        seconds_of,
    )
    from encoders.audio.urls import fetch_audio, is_url, url_name
    from encoders.audio.waveforms import LARGEST_SANE_PEAK, SILENT_PEAK, pad_batch, resample, save_wav

_HOMES = {
    "AUDIO_SUFFIXES": "encoders.audio.formats",
    "AudioHeader": "encoders.audio.reading",
    "AudioOptions": "encoders.audio.options",
    "LARGEST_SANE_PEAK": "encoders.audio.waveforms",
    "MAX_SECONDS_VARIABLE": "encoders.audio.limits",
    "SILENT_PEAK": "encoders.audio.waveforms",
    "applied": "encoders.audio.options",
    "check_seconds": "encoders.audio.limits",
    "decode_audio": "encoders.audio.reading",
    "fetch_audio": "encoders.audio.urls",
    "find_file": "encoders.audio.formats",
    "has_audio_suffix": "encoders.audio.formats",
    "is_url": "encoders.audio.urls",
    "load_audio": "encoders.audio.reading",
    "max_seconds": "encoders.audio.limits",
    "pad_batch": "encoders.audio.waveforms",
    "read_header": "encoders.audio.reading",
    "resample": "encoders.audio.waveforms",
    "save_wav": "encoders.audio.waveforms",
    "search": "encoders.audio.formats",
    "seconds_of": "encoders.audio.reading",
    "url_name": "encoders.audio.urls",
}

__all__ = [
    "AUDIO_SUFFIXES",
    "AudioHeader",
    "AudioOptions",
    "LARGEST_SANE_PEAK",
    "MAX_SECONDS_VARIABLE",
    "SILENT_PEAK",
    "applied",
    "check_seconds",
    "decode_audio",
    "fetch_audio",
    "find_file",
    "has_audio_suffix",
    "is_url",
    "load_audio",
    "max_seconds",
    "pad_batch",
    "read_header",
    "resample",
    "save_wav",
    "search",
    "seconds_of",
    "url_name",
]


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` when it is first asked for (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
