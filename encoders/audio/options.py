"""Options of reading audio: mixing of channels, and samples far above full scale.

Like the length limit they are environment variables, so that all processes of a run read audio in the same way.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

from alm.common.errors import ConfigError

_CHOICES = {"channels": ("mean", "loudest"), "peak": ("refuse", "normalise")}


@dataclass(frozen=True)
class AudioOptions:
    """How samples become a mono waveform.

    Attributes:
        channels: `mean` averages the channels, and refuses a recording whose channels cancel each other; `loudest`
            takes the channel with the most energy.
        peak: What happens to samples far above full scale (float files, peak above 8): `refuse` raises an error,
            `normalise` divides the waveform by its peak.
    """

    channels: str = "mean"
    peak: str = "refuse"

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            value = getattr(self, name)
            if value not in allowed:
                raise ConfigError(f"audio.{name} is {value!r}; expected one of {', '.join(allowed)}")

    @classmethod
    def current(cls) -> AudioOptions:
        """The options that apply: those of `applied`, or of `ALM_AUDIO_CHANNELS` and `ALM_AUDIO_PEAK`.

        Raises:
            ConfigError: A variable has another value than the options allow.
        """
        if not any(_variable(name) in os.environ for name in _CHOICES):
            return _DEFAULT
        return cls(**{name: os.environ.get(_variable(name), getattr(_DEFAULT, name)) for name in _CHOICES})

    def changes(self) -> dict[str, str]:
        """Options that differ from the defaults, for fingerprints of what is computed from the samples."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {name: value for name, value in values.items() if value != getattr(_DEFAULT, name)}


_DEFAULT = AudioOptions()


@contextmanager
def applied(options: AudioOptions) -> Iterator[None]:
    """Apply options to all audio that this process and its children read; defaults leave the environment as it is."""
    before = {_variable(name): os.environ.get(_variable(name)) for name in options.changes()}
    os.environ.update({_variable(name): value for name, value in options.changes().items()})
    try:
        yield
    finally:
        for variable, value in before.items():
            if value is None:
                os.environ.pop(variable, None)
            else:
                os.environ[variable] = value


def _variable(name: str) -> str:
    return f"ALM_AUDIO_{name.upper()}"
