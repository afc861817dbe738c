"""What a run over few recordings would decode and compute in every epoch anew, kept in memory while it fits.

Axis letters: B batch, S samples, T frames, M mels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from alm.manifest import AudioRef
from encoders.audio import load_audio
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
        return self._kept.get(ref, lambda: load_audio(ref.path, self.sample_rate, ref.start_s, ref.end_s))


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
            one = wave[None, : int(length)], length[None]
            rows.append(self._kept.get(key, lambda one=one: self.fbank(*one)[0][0]))
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([len(r) for r in rows])
