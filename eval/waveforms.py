"""A cache of decoded recordings, shared by the check of a benchmark's data and the run itself."""

from collections import OrderedDict
from threading import RLock

import numpy as np

from alm.data.records import AudioRef

# Size limit of the waveform cache. Small test sets fit entirely; larger ones are streamed.
CACHE_BYTES = 1 << 30


class Waveforms:
    """Recordings at one sample rate in a cache of limited size; safe for several threads.

    Attributes:
        seconds: Length of every recording that was read.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self._limit = CACHE_BYTES if limit_bytes is None else limit_bytes
        self._sample_rate = 0
        self._kept: OrderedDict[AudioRef, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = RLock()
        self.seconds: dict[AudioRef, float] = {}

    def load(self, ref: AudioRef, sample_rate: int) -> np.ndarray:
        """The waveform of a recording.

        Args:
            ref: The recording.
            sample_rate: Rate in Hz; recordings that are kept at another rate are dropped.

        Returns:
            (S,) float32; the same array object each time while it is kept.

        Raises:
            AudioError: It cannot be read.
        """
        with self._lock:
            if sample_rate != self._sample_rate:
                self._kept.clear()
                self._bytes, self._sample_rate = 0, sample_rate
            if ref in self._kept:
                self._kept.move_to_end(ref)
                return self._kept[ref]
            waveform = ref.load(sample_rate)
            self._kept[ref] = waveform
            self.seconds[ref] = len(waveform) / sample_rate
            self._bytes += waveform.nbytes
            while self._bytes > self._limit and len(self._kept) > 1:
                _, dropped = self._kept.popitem(last=False)
                self._bytes -= dropped.nbytes
            return waveform
