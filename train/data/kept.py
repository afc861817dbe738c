"""What a run over few recordings would decode and compute in every epoch anew, kept in memory while it fits.

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

# Of either kind: 4.5 h of waveforms at 16 kHz, or 5.8 h of log-mel with 128 bands.
ROOM_BYTES = 1 << 30


class Kept(Generic[Value]):
    """Arrays by name, made when first asked for and kept as long as there is room.

    A loader's process keeps nothing: it ends with the epoch, and each would hold a copy.

    Args:
        room_bytes: Room for them; what does not fit is made each time.
    """

    def __init__(self, room_bytes: int = ROOM_BYTES) -> None:
        self._room = room_bytes
        self._values: dict[Hashable, Value] = {}

    def get(self, name: Hashable, make: Callable[[], Value]) -> Value:
        """The array of a name; whoever gets it must not write into it."""
        if name in self._values:
            return self._values[name]
        value = make()
        if value.nbytes <= self._room and get_worker_info() is None:
            self._room -= value.nbytes
            self._values[name] = value
        return value


class KeptAudio:
    """Decoded recordings.

    Args:
        sample_rate: Rate in Hz to deliver.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._kept: Kept[np.ndarray] = Kept()

    def read(self, ref: AudioRef) -> np.ndarray:
        """The waveform (S,) float32, not to be written into.

        Raises:
            AudioError: The file cannot be read.
        """
        return self._kept.get(ref, lambda: ref.load(self.sample_rate))


class KeptMels:
    """The front end of clips that come again; every clip by itself, so that no other one changes its rounding.

    Args:
        fbank: The front end.
    """

    def __init__(self, fbank: KaldiFbank) -> None:
        self.fbank = fbank
        self._kept: Kept[Tensor] = Kept()

    def __call__(self, waveforms: Tensor, lengths: Tensor, clip_keys: Tensor) -> tuple[Tensor, Tensor]:
        """Log-mel of a batch, as the front end itself gives it.

        Args:
            waveforms: (B, S) float32 in [-1, 1], on the CPU: on a device the front end costs next to nothing.
            lengths: (B,) samples.
            clip_keys: (B,) long, what a clip is known by.

        Returns:
            mel (B, T, M) float32, zeros past each clip's end, and n_frames (B,).
        """
        rows = []
        for wave, length, key in zip(waveforms, lengths, clip_keys.tolist(), strict=True):
            rows.append(self._kept.get(key, partial(self._mel, wave[: int(length)])))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows])

    def _mel(self, wave: Tensor) -> Tensor:
        """(S,) -> (T, M)."""
        return self.fbank(wave[None], torch.tensor([len(wave)]))[0][0]
