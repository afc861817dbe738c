"""Sounds and spectrograms inside a page: PNG, FLAC and `data:` addresses."""

from __future__ import annotations

import base64
import io
import math

import numpy as np


def spectrogram(waveform: np.ndarray, sample_rate: int) -> np.ndarray:
    """Level of a clip over frequency and time: 25 ms windows every 10 ms, 80 dB below the loudest and up.

    Args:
        waveform: (S,) float.
        sample_rate: In Hz.

    Returns:
        (F, T) in [0, 1], low frequencies first, at most 600 times.
    """
    window = max(64, round(0.025 * sample_rate))
    hop = max(1, round(0.010 * sample_rate))
    padded = np.pad(np.asarray(waveform, dtype=np.float64), (0, max(0, window - len(waveform))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window)[::hop]
    # Wide pictures are thinned by averaging power, which keeps short sounds visible.
    power = np.abs(np.fft.rfft(frames * np.hanning(window), n=512 if window <= 512 else None)) ** 2
    group = math.ceil(len(power) / 600)
    power = np.stack([chunk.mean(axis=0) for chunk in np.array_split(power, math.ceil(len(power) / group))])
    level = 10 * np.log10(np.maximum(power, 1e-12))
    level = np.clip(level, level.max() - 80, level.max())
    shades: np.ndarray = (level - level.min()) / max(1e-9, level.max() - level.min())
    return shades.T  # (T, F) -> (F, T)


def spectrogram_png(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Picture of a clip's spectrogram with axes in seconds and kHz, as PNG of 640 x 260 pixels.

    Args:
        waveform: (S,) float.
        sample_rate: In Hz.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 2.6), dpi=100)
    axes = figure.add_axes((0.1, 0.25, 0.88, 0.71))
    axes.imshow(
        spectrogram(waveform, sample_rate),
        cmap="magma",
        origin="lower",
        aspect="auto",
        extent=(0, len(waveform) / sample_rate, 0, sample_rate / 2000),
    )
    axes.tick_params(labelsize=14)
    axes.set_xlabel("seconds", fontsize=14, labelpad=1)
    axes.set_ylabel("kHz", fontsize=14)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def flac_bytes(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Encode a mono waveform as 16-bit FLAC, which every current browser plays."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, np.clip(waveform, -1.0, 1.0), sample_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def data_address(kind: str, content: bytes) -> str:
    """A `data:` address that holds the content itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
