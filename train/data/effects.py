"""Effects on waveforms: speed, pitch, noise. Each is a function of its arguments alone.

Axis letters: S samples, F frequencies, T frames.
"""

from __future__ import annotations

import math

import numpy as np
import soxr
import torch

# 64 ms windows a quarter apart: the usual choice for a phase vocoder on mixed sounds (librosa's at its 22 kHz: 93 ms).
_FFT_SAMPLES = 1024
_HOP_SAMPLES = 256


def change_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    """Change a waveform's speed by resampling, as a tape does: the pitch shifts too.

    Args:
        waveform: (S,) float32.
        speed: Above 1 is faster and higher.

    Returns:
        (S / speed,) float32, the length rounded.
    """
    changed = soxr.resample(waveform, speed, 1.0, quality="HQ") if speed != 1.0 else waveform
    return fit_samples(changed, max(1, round(len(waveform) / speed)))


def stretch_time(waveform: np.ndarray, speed: float) -> np.ndarray:
    """Change a waveform's speed without changing its pitch (phase vocoder).

    Args:
        waveform: (S,) float32.
        speed: Above 1 is faster.

    Returns:
        (S / speed,) float32, the length rounded.
    """
    window = torch.hann_window(_FFT_SAMPLES)
    spectrum = torch.stft(
        torch.from_numpy(waveform),
        _FFT_SAMPLES,
        _HOP_SAMPLES,
        window=window,
        pad_mode="constant",
        return_complex=True,
    )
    advance = torch.linspace(0, math.pi * _HOP_SAMPLES, spectrum.shape[0])[:, None]
    stretched = phase_vocoder(spectrum, speed, advance) if speed != 1.0 else spectrum
    length = max(1, round(len(waveform) / speed))
    return torch.istft(stretched, _FFT_SAMPLES, _HOP_SAMPLES, window=window, length=length).numpy()


def phase_vocoder(spectrum: torch.Tensor, speed: float, advance: torch.Tensor) -> torch.Tensor:
    """Change the number of frames of a spectrum, and continue the phase of every bin: torchaudio's `phase_vocoder`.

    Args:
        spectrum: (F, T) complex.
        speed: Above 1 gives fewer frames.
        advance: (F, 1) expected change of phase from frame to frame.

    Returns:
        (F, ceil(T / speed)) complex.
    """
    times = torch.arange(0, spectrum.shape[-1], speed, dtype=torch.float32)
    after = times % 1.0  # share of the later one of the two frames around a time
    padded = torch.nn.functional.pad(spectrum, [0, 2])
    earlier, later = padded.index_select(-1, times.long()), padded.index_select(-1, (times + 1).long())
    change = later.angle() - earlier.angle() - advance
    change = change - 2 * math.pi * torch.round(change / (2 * math.pi)) + advance
    phase = torch.cat([spectrum[..., :1].angle(), change[..., :-1]], dim=-1).cumsum(-1)
    return torch.polar(after * later.abs() + (1 - after) * earlier.abs(), phase)


def shift_pitch(waveform: np.ndarray, semitones: float) -> np.ndarray:
    """Shift a waveform's pitch without changing its length: stretch, then resample.

    Args:
        waveform: (S,) float32.
        semitones: Above 0 is higher.

    Returns:
        (S,) float32.
    """
    ratio = 2.0 ** (semitones / 12)
    stretched = stretch_time(waveform, 1 / ratio)
    return fit_samples(soxr.resample(stretched, ratio, 1.0, quality="HQ"), len(waveform))


def fit_samples(waveform: np.ndarray, n_samples: int) -> np.ndarray:
    """Cut or zero-pad (S,) to (n_samples,)."""
    return np.pad(waveform[:n_samples], (0, max(0, n_samples - len(waveform))))


def rms_of(waveform: np.ndarray) -> float:
    """Root mean square of a waveform (S,)."""
    return math.sqrt(float(np.mean(np.square(waveform))))


def add_noise(waveform: np.ndarray, rms: float, snr_db: float, rng: np.random.Generator) -> np.ndarray:
    """Add white Gaussian noise.

    Args:
        waveform: (S,) float32.
        rms: Root mean square of what counts as the signal.
        snr_db: Ratio of the signal's power to the noise's.
        rng: Draws the noise.

    Returns:
        (S,) float32.
    """
    deviation = rms / 10 ** (snr_db / 20)
    noisy: np.ndarray = waveform + np.float32(deviation) * rng.standard_normal(
        len(waveform), dtype=np.float32
    )
    return noisy
