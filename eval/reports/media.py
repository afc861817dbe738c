"""Sounds and spectrograms inside a page: PNG, FLAC and `data:` addresses."""

from __future__ import annotations

import base64
import io
import math

import numpy as np


def spectrogram_png(waveform: np.ndarray, sample_rate: int) -> bytes:
    """Picture of a clip's spectrum over time: 25 ms windows every 10 ms, linear frequency, 80 dB below the loudest.

    Args:
        waveform: (S,) float.
        sample_rate: In Hz.

    Returns:
        A PNG, at most 600 pixels wide, low frequencies at the bottom.
    """
    import matplotlib

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
    shade = (level - level.min()) / max(1e-9, level.max() - level.min())
    return png_bytes(matplotlib.colormaps["magma"](shade.T[::-1]))


def png_bytes(pixels: np.ndarray) -> bytes:
    """Encode (rows, columns, 4) values in [0, 1] as PNG."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import image

    file = io.BytesIO()
    image.imsave(file, pixels, format="png")
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
