"""Waveforms: resampling, stacking into batches, writing as wav.

Axis letters: B batch, S samples.
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from alm.common.errors import AudioError
from alm.common.files import write_bytes_atomic

LARGEST_SANE_PEAK = 8.0
"""A decoder overshoots full scale by a few dB at most. Floating-point samples above this are integer-scaled."""
SILENT_PEAK = 2.0**-15
"""Peaks below one step of 16-bit audio are silence: an empty recording, left by a failed download or conversion."""


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample a waveform (soxr, high quality).

    Args:
        waveform: (S,) float32.
        from_hz: Its rate in Hz.
        to_hz: The wanted rate in Hz.

    Returns:
        (S * to_hz / from_hz,) float32; the input itself where the rates are equal.
    """
    if from_hz == to_hz:
        return waveform
    resampled: np.ndarray = soxr.resample(waveform, from_hz, to_hz, quality="HQ")
    return resampled.astype(np.float32, copy=False)


def save_wav(path: str | os.PathLike[str], waveform: np.ndarray, sample_rate: int) -> None:
    """Write a mono waveform as 16-bit PCM wav; the file appears whole or not at all.

    Args:
        path: Where to write; its folder must exist.
        waveform: (S,) in [-1, 1]; values outside are clipped.
        sample_rate: Rate in Hz.

    Raises:
        AudioError: The waveform is empty or not finite, or the place is not writable.
    """
    file = Path(path)
    if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
        raise AudioError(
            f"{file}: a waveform of shape (S,), S > 0, with finite samples is needed to write a wav"
        )
    content = io.BytesIO()
    soundfile.write(content, np.clip(waveform, -1.0, 1.0), sample_rate, subtype="PCM_16", format="WAV")
    write_bytes_atomic(file, content.getvalue(), AudioError, clean=False)


def pad_batch(waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Stack waveforms of different lengths, zeros after each one's end.

    Args:
        waveforms: B arrays of shape (S_i,).

    Returns:
        waveform (B, S) float32 with S the longest, and lengths (B,) int64 in samples.
    """
    lengths = torch.tensor([len(clip) for clip in waveforms], dtype=torch.int64)
    batch = torch.zeros(len(waveforms), int(lengths.max()) if len(waveforms) else 0)
    for row, clip in zip(batch, waveforms, strict=True):
        row[: len(clip)] = torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32))
    return batch, lengths
