"""What a config may choose about reading audio."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

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

    def changes(self) -> dict[str, Any]:
        """Options that differ from the defaults, for fingerprints of what is computed from the samples."""
        return {
            item.name: value for item in fields(self) if (value := asdict(self)[item.name]) != item.default
        }


DEFAULT_OPTIONS = AudioOptions()
