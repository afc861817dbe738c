"""The `data.augment` section: augmentation of waveforms (align, instruct)."""

from __future__ import annotations

import dataclasses

from alm.common.errors import ConfigError
from alm.common.settings import check_ranges

# For each effect: the keys of its range and its probability, and the limits of both ends of the range.
EFFECTS = (
    ("crop", "crop_p", (0.05, 1.0)),
    ("speed", "speed_p", (0.25, 4.0)),
    ("time_stretch", "time_stretch_p", (0.25, 4.0)),
    ("pitch_semitones", "pitch_p", (-24.0, 24.0)),
    ("lead_silence_s", "lead_silence_p", (0.0, 60.0)),
    ("gain_db", "gain_p", (-60.0, 60.0)),
    ("noise_snr_db", "noise_p", (-20.0, 100.0)),
)

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class WaveformAugmentSettings:
    """Augmentation of the training clips' waveforms; validation clips and controls are never augmented.

    Every effect has a range, from which a value is drawn uniformly for a clip and epoch, and a probability. An effect
    without a range is off. They are applied in the order below. The values are a function of (seed, epoch, clip), or of
    (version, clip) with `versions`.

    Attributes:
        versions: Number of augmented versions of every clip; the epochs use them in turn. Required with cached
            features. Only the versions that a run uses are encoded. They do not depend on the seed, so runs share them.
            0 augments differently in every epoch.
        p: Probability that a clip is augmented at all; otherwise it is unchanged.
        crop: Share of the clip that is kept, at a random place, for example [0.8, 1.0]. A crop that would be silent is
            not made.
        crop_p: Probability of `crop`.
        speed: Factor of the speed by resampling, which also shifts the pitch, for example [0.9, 1.1].
        speed_p: Probability of `speed`.
        time_stretch: Factor of the speed at an unchanged pitch (phase vocoder).
        time_stretch_p: Probability of `time_stretch`.
        pitch_semitones: Shift of the pitch at an unchanged speed.
        pitch_p: Probability of `pitch_semitones`.
        lead_silence_s: Seconds of silence before the clip.
        lead_silence_p: Probability of `lead_silence_s`.
        gain_db: Gain in dB.
        gain_p: Probability of `gain_db`.
        noise_snr_db: Ratio of the clip's power to that of added white noise, in dB.
        noise_p: Probability of `noise_snr_db`.
    """

    versions: int = 0
    p: float = 1.0
    crop: Range | None = None
    crop_p: float = 1.0
    speed: Range | None = None
    speed_p: float = 1.0
    time_stretch: Range | None = None
    time_stretch_p: float = 1.0
    pitch_semitones: Range | None = None
    pitch_p: float = 1.0
    lead_silence_s: Range | None = None
    lead_silence_p: float = 1.0
    gain_db: Range | None = None
    gain_p: float = 1.0
    noise_snr_db: Range | None = None
    noise_p: float = 1.0

    def __post_init__(self) -> None:
        check_ranges("data.augment", self, versions=(0, None), p=(0, 1), **{p: (0, 1) for _, p, _ in EFFECTS})
        for key, probability, (least, most) in EFFECTS:
            bounds = getattr(self, key)
            if bounds is None:
                if getattr(self, probability) != 1.0:
                    raise ConfigError(
                        f"data.augment.{probability}: has no effect without data.augment.{key}, a range; add it"
                    )
                continue
            low, high = bounds
            if not least <= low <= high <= most:
                raise ConfigError(
                    f"data.augment.{key}: got [{low:g}, {high:g}], expected [lowest, highest] within {least:g} to "
                    f"{most:g}"
                )
        if not self.any and (self.versions or self.p != 1.0):
            key = "versions" if self.versions else "p"
            raise ConfigError(
                f"data.augment.{key}: has no effect without an augmentation; add one, for example speed: [0.9, 1.1]"
            )

    @property
    def any(self) -> bool:
        """Whether a clip is changed at all."""
        return any(getattr(self, key) is not None for key, _, _ in EFFECTS)
