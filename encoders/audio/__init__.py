"""Reading audio of any format into mono float waveforms, and writing wav.

`reading.py` is the door; beside it are the formats (`ogg`, `frames`, `flac`, `containers`), FFmpeg and addresses.
What is computed from waveforms belongs elsewhere.
"""

from encoders.audio.formats import AUDIO_SUFFIXES, has_audio_suffix, search
from encoders.audio.limits import MAX_SECONDS_VARIABLE, check_seconds, max_seconds
from encoders.audio.options import DEFAULT_OPTIONS, AudioOptions
from encoders.audio.reading import (
    AudioHeader,
    decode_audio,
    find_file,
    load_audio,
    read_header,
    seconds_of,
)
from encoders.audio.urls import fetch_audio, is_url, url_name
from encoders.audio.waveforms import SILENT_PEAK, pad_batch, resample, save_wav

__all__ = [
    "AUDIO_SUFFIXES",
    "DEFAULT_OPTIONS",
    "MAX_SECONDS_VARIABLE",
    "SILENT_PEAK",
    "AudioHeader",
    "AudioOptions",
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
