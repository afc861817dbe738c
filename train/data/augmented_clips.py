"""Augmented clips: references with the methods of `AudioRef`, so caches and collators handle them like other clips.

Axis letters: S samples.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from alm.common.seeds import seed_from
from alm.data.records import AudioRef
from encoders.audio import SILENT_PEAK
from train.data.clip_random import generator_of, uniform
from train.data.effects import add_noise, change_speed, rms_of, shift_pitch, stretch_time
from train.settings.augment import EFFECTS, WaveformAugmentSettings

if TYPE_CHECKING:
    from encoders.audio import AudioHeader

_NO_EFFECTS = WaveformAugmentSettings()


@dataclass(frozen=True)
class AugmentedRef(AudioRef):
    """A clip with one draw of the augmentation.

    Attributes:
        clip: The clip itself.
        draw: Names the draw: the version, or seed and epoch.
        settings: Effects and their ranges.
        min_samples: Length to which a clip is padded with silence if an effect makes it shorter.
    """

    clip: AudioRef = dataclasses.field(kw_only=True)
    draw: str = ""
    settings: WaveformAugmentSettings = _NO_EFFECTS
    min_samples: int = 0

    @cached_property
    def values(self) -> dict[str, float | None]:
        """The value of every effect, None for those that are not applied.

        Every effect has its own numbers, so that switching one on or off does not change the others.
        """
        numbers = uniform(f"augment/{self.draw}", [clip_name(self.clip)], 1 + 2 * len(EFFECTS))[0].tolist()
        is_augmented = numbers.pop(0) < self.settings.p
        found: dict[str, float | None] = {}
        for place, (key, probability, _) in enumerate(EFFECTS):
            bounds = getattr(self.settings, key)
            if (
                bounds is None
                or not is_augmented
                or numbers[2 * place] >= getattr(self.settings, probability)
            ):
                found[key] = None
            else:
                found[key] = bounds[0] + (bounds[1] - bounds[0]) * numbers[2 * place + 1]
        return found

    @property
    def fingerprint(self) -> str:
        """Everything besides the clip that the waveform depends on."""
        effects = dataclasses.asdict(self.settings)
        del effects["versions"]
        return json.dumps([clip_name(self.clip), self.draw, self.min_samples, effects], sort_keys=True)

    def load(self, sample_rate: int) -> np.ndarray:
        """The augmented clip as a waveform (S,) float32 in [-1, 1] at `sample_rate` Hz."""
        return self.apply(self.clip.load(sample_rate), sample_rate)

    def apply(self, waveform: np.ndarray, sample_rate: int) -> np.ndarray:
        """Augment the clip's waveform; if the result exceeds full scale, it is scaled down to it.

        Args:
            waveform: (S,) float32 in [-1, 1].
            sample_rate: In Hz.

        Returns:
            (S',) float32.
        """
        rng = generator_of(f"augment/{self.draw}/samples", clip_name(self.clip))
        effects, full_length = self.values, len(waveform)
        place = rng.random()
        if (share := effects["crop"]) is not None:
            waveform = _crop(waveform, share, place)
        if (speed := effects["speed"]) is not None:
            waveform = change_speed(waveform, speed)
        if (speed := effects["time_stretch"]) is not None:
            waveform = stretch_time(waveform, speed)
        if (semitones := effects["pitch_semitones"]) is not None:
            waveform = shift_pitch(waveform, semitones)
        rms = rms_of(waveform)
        if (seconds := effects["lead_silence_s"]) is not None:
            waveform = np.pad(waveform, (round(seconds * sample_rate), 0))
        missing = min(self.min_samples, full_length) - len(waveform)
        if missing > 0:
            waveform = np.pad(waveform, (0, missing))
        if (gain_db := effects["gain_db"]) is not None:
            waveform = waveform * np.float32(10 ** (gain_db / 20))
            rms *= 10 ** (gain_db / 20)
        if (snr_db := effects["noise_snr_db"]) is not None:
            waveform = add_noise(waveform, rms, snr_db, rng)
        peak = float(np.abs(waveform).max(initial=0.0))
        return (waveform / max(peak, 1.0)).astype(np.float32) if peak > 1 else waveform

    def seconds(self) -> float:
        """Length of the augmented clip without decoding it.

        Raises:
            AudioError: The file's header cannot be read.
        """
        return self.seconds_of(self.clip.seconds())

    def seconds_of(self, clip_s: float) -> float:
        """Length of the augmented clip if the clip itself has `clip_s` seconds."""
        effects = self.values
        faster = (effects["speed"] or 1.0) * (effects["time_stretch"] or 1.0)
        return clip_s * (effects["crop"] or 1.0) / faster + (effects["lead_silence_s"] or 0.0)

    def read_bytes(self) -> bytes:
        """The file of the clip itself; see `AudioRef.read_bytes`."""
        return self.clip.read_bytes()

    def state(self) -> tuple[int, int] | None:
        """See `AudioRef.state`."""
        return self.clip.state()

    def header(self) -> AudioHeader:
        """Length, rate and channels of the clip's own file."""
        return self.clip.header()

    @property
    def file_name(self) -> str:
        """The clip's file name."""
        return self.clip.file_name

    @property
    def whole(self) -> str:
        """A key of the whole recording."""
        return self.clip.whole


@dataclass(frozen=True)
class ClipAugmenter:
    """Chooses the draw of every clip in every epoch.

    Attributes:
        settings: Effects, their ranges, and the number of versions.
        seed: Seed of the run.
        min_samples: See `AugmentedRef`.
    """

    settings: WaveformAugmentSettings = _NO_EFFECTS
    seed: int = 0
    min_samples: int = 0

    def __call__(self, clip: AudioRef, epoch: int) -> AudioRef:
        """Return the augmented clip of an epoch; it is the same for all records about the clip."""
        if not self.settings.any:
            return clip
        versions = self.settings.versions
        if versions:
            first = seed_from("augment", self.seed, clip_name(clip))
            draw = f"version {(first + epoch) % versions}"
        else:
            draw = f"{self.seed}/{epoch}"
        where = (clip.path, clip.start_s, clip.end_s)
        return AugmentedRef(*where, draw, self.settings, self.min_samples, clip=clip)

    def all_of(self, clips: Sequence[AudioRef], epochs: int) -> Iterator[AudioRef]:
        """All different augmented versions of some clips in the first epochs."""
        heard = min(epochs, self.settings.versions or epochs) if self.settings.any else 1
        for clip in clips:
            yield from (self(clip, epoch) for epoch in range(heard))


NO_AUGMENTATION = ClipAugmenter()


def clip_name(clip: AudioRef) -> str:
    """The key of a clip's random numbers: file name and segment, the same on every machine."""
    return f"{clip.file_name}:{clip.start_s}:{clip.end_s}"


def _crop(waveform: np.ndarray, share: float, place: float) -> np.ndarray:
    """Crop (S,) to a share of its length at a relative position from 0 to 1; a silent crop is not made."""
    kept = max(1, round(len(waveform) * share))
    start = int(place * (len(waveform) - kept + 1))
    cropped = waveform[start : start + kept]
    return waveform if float(np.abs(cropped).max()) < SILENT_PEAK else cropped
