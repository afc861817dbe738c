"""In-memory caches of decoded clips and of their log-mels, up to a size limit.

Axis letters: B batch, S samples, T frames, M mels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from alm.data.records import AudioRef
from encoders.mel import KaldiFbank

Value = TypeVar("Value", np.ndarray, Tensor)

# Size limit of each cache: 4.5 h of waveforms at 16 kHz, or 5.8 h of log-mel with 128 bands.
LIMIT_BYTES = 1 << 30


class ArrayCache(Generic[Value]):
    """Arrays by name, computed on first use and kept until the limit is reached.

    Nothing is evicted: every epoch reads all clips once, so that evicting the oldest would never give a hit. A loader's
    worker process caches nothing: it ends with the epoch, and each worker would hold a copy.

    Args:
        limit_bytes: Size limit; an array that does not fit is computed each time.
    """

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        self._free_bytes = limit_bytes
        self._values: dict[Hashable, Value] = {}

    def get(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """Return the array of a name; the caller must not write into it."""
        if name in self._values:
            return self._values[name]
        value = make()
        if value.nbytes <= self._free_bytes and get_worker_info() is None:
            self._free_bytes -= value.nbytes
            self._values[name] = value
        return value


class ClipCache:
    """Decoded clips."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._cache: ArrayCache[np.ndarray] = ArrayCache()

    def read(self, ref: AudioRef) -> np.ndarray:
        """Return the waveform (S,) float32; the caller must not write into it.

        Raises:
            AudioError: The file cannot be read.
        """
        return self._cache.get(ref, lambda: ref.load(self.sample_rate))


class MelCache:
    """Log-mels of clips; each clip is computed alone, so that no other clip of a batch changes its rounding."""

    def __init__(self, fbank: KaldiFbank) -> None:
        self.fbank = fbank
        self._cache: ArrayCache[Tensor] = ArrayCache()

    def __call__(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log-mel of a batch, or take it from the cache.

        Args:
            waveforms: (B, S) float32 in [-1, 1], on the CPU (on a GPU the front end is cheap).
            lengths: (B,) samples.
            clip_keys: (B,) long, the clips' keys in the cache.

        Returns:
            mel (B, T, M) float32, zeros past each clip's end, and n_frames (B,).
        """
        rows = []
        for wave, length, key in zip(waveforms, lengths, clip_keys.tolist(), strict=True):
            rows.append(self._cache.get(key, partial(self._mel, wave[: int(length)])))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows])

    def _mel(self, wave: Tensor) -> Tensor:
        """(S,) -> (T, M)."""
        out: Tensor = self.fbank(wave[None], torch.tensor([len(wave)]))[0][0]
        return out
