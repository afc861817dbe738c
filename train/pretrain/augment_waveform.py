"""The published augmentations on the waveform itself (`augment: waveform`), in the loader's processes.

The official code uses audiomentations. Its current releases cannot be installed with numpy 2.4 (a resolver falls
back to a release of 2023). It uses the global random generators of Python and numpy, so its results depend on worker,
batch size and history. Here the same steps, ranges and probabilities use scipy (filters), a phase vocoder and soxr
(resampling), with random numbers that are a function of (seed, epoch, clip, view). `train.pretrain.views` does the same
on the log-mel at a fraction of the cost. Axis letters: S samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy import signal

from encoders.mel import hz_to_mel, mel_to_hz
from train.data.clip_random import generator_of
from train.data.effects import add_noise, fit_samples, rms_of, shift_pitch, stretch_time
from train.pretrain.clips import ClipDataset, NamedClip
from train.settings.pretrain import ViewConfig


class WaveformViews(ClipDataset):
    """Clips as two augmented waveforms each.

    Args:
        clips: The clips.
        sample_rate: Rate in Hz to deliver.
        frame_shift_ms: The encoder's frame shift.
        config: The augmentation.
        window_samples: Length of the longest view; longer clips are cut after the roll.
        seed: Seed of the run.
    """

    def __init__(
        self,
        clips: Sequence[NamedClip],
        sample_rate: int,
        frame_shift_ms: float,
        config: ViewConfig,
        window_samples: int,
        seed: int = 0,
    ) -> None:
        super().__init__(clips, sample_rate, frame_shift_ms)
        self.config = config
        self.window_samples = window_samples
        self.seed = seed

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return both views (2, S) float32 and the clip's key."""
        sample = super().__getitem__(index)
        views = [
            augment(
                sample["waveform"],
                self.sample_rate,
                self.config,
                generator_of(f"waveform/{self.seed}/{self.epoch}/{view}", sample["clip_key"]),
                self.window_samples,
            )
            for view in (0, 1)
        ]
        return sample | {"waveform": np.stack(views)}


def augment(
    waveform: np.ndarray,
    sample_rate: int,
    config: ViewConfig,
    rng: np.random.Generator,
    window_samples: int | None = None,
) -> np.ndarray:
    """Make one view of a clip.

    Args:
        waveform: (S,) float32 in [-1, 1].
        sample_rate: In Hz.
        config: The augmentation.
        rng: The only source of randomness.
        window_samples: Longest result; None keeps the length.

    Returns:
        (S',) float32, S' the smaller of S and `window_samples`; gains may take it beyond full scale.
    """
    view = np.roll(waveform, -int(rng.integers(len(waveform)))) if config.roll else waveform
    view = view[:window_samples].astype(np.float32)
    if config.roll_gain_beta > 0:
        view *= rng.beta(config.roll_gain_beta, config.roll_gain_beta) + 0.5
    if rng.random() < config.polarity_p:
        view = -view
    if rng.random() < config.time_stretch_p:
        view = fit_samples(stretch_time(view, rng.uniform(*config.time_stretch)), len(view))
    if rng.random() < config.noise_p:
        view = add_noise(view, rms_of(view), rng.uniform(*config.noise_snr_db), rng)
    if rng.random() < config.gain_p:
        view = view * np.float32(10 ** (rng.uniform(*config.gain_db) / 20))
    if rng.random() < config.high_pass_p:
        view = _butterworth(view, "highpass", _hz(rng, config.high_pass_hz), sample_rate, config, rng)
    if rng.random() < config.band_stop_p:
        centre = _hz(rng, config.band_stop_hz)
        half = centre * rng.uniform(*config.band_stop_width) / 2
        view = _butterworth(view, "bandstop", (centre - half, centre + half), sample_rate, config, rng)
    if rng.random() < config.pitch_p:
        view = shift_pitch(view, rng.uniform(*config.pitch_semitones))
    return view.astype(np.float32, copy=False)


def _hz(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Draw a frequency in Hz, uniform on the mel scale as in audiomentations."""
    low, high = hz_to_mel(torch.tensor(bounds)).tolist()
    return float(mel_to_hz(torch.tensor(rng.uniform(low, high))))


def _butterworth(
    view: np.ndarray,
    kind: str,
    edges_hz: float | tuple[float, float],
    sample_rate: int,
    config: ViewConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """Filter (S,) with a random steepness in steps of 6 dB per octave (one order)."""
    low, high = (round(db / 6) for db in config.rolloff_db)
    edges = np.clip(edges_hz, 1.0, 0.499 * sample_rate)
    order = int(rng.integers(low, high + 1))
    filtered: np.ndarray = signal.sosfilt(
        signal.butter(order, edges, kind, fs=sample_rate, output="sos"), view
    )
    return filtered
