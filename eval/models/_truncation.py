"""How much of a recording a processor passes to its model: some truncate long recordings silently."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

_TAIL_S = 0.1
"""Length in seconds of the end of a recording that is changed, to test whether the model's inputs depend on it."""


class TruncationLimit:
    """The longest recording that a processor does not truncate, found by calling it.

    Args:
        inputs: The model inputs of a prompt with one recording, mono float32 (S,).
        sample_rate: Sample rate of the recordings in Hz.
    """

    def __init__(self, inputs: Callable[[np.ndarray], Mapping[str, Any]], sample_rate: int) -> None:
        self._inputs, self._rate = inputs, sample_rate
        self._tail = round(_TAIL_S * sample_rate)
        self._whole = 10 * self._tail
        self._limit: int | None = None

    def n_kept(self, n_samples: int) -> int:
        """How many samples of a recording of `n_samples` reach the model, to a hundredth of a second.

        A recording that is longer than all before costs two calls of the processor, the first truncated one about
        twenty. The loss of less than a tenth of a second is not detected.
        """
        if self._limit is None and n_samples > self._whole:
            if self._depends_on_end(n_samples):
                self._whole = n_samples
            elif self._depends_on_end(self._whole):  # else its inputs are neither waveforms nor features
                self._limit = self._find_limit(n_samples)
        return n_samples if self._limit is None or n_samples <= self._limit + self._tail else self._limit

    def _find_limit(self, cut: int) -> int:
        """The limit, given the length of a recording that is truncated."""
        whole = self._whole
        while cut - whole > self._tail // 10:
            middle = (whole + cut) // 2
            whole, cut = (middle, cut) if self._depends_on_end(middle) else (whole, middle)
        return whole - self._tail  # the inputs depend on nothing behind this place

    def _depends_on_end(self, n_samples: int) -> bool:
        """Whether the last tenth of a second of a recording changes the model's inputs."""
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, n_samples).astype(np.float32)
        other = noise.copy()
        other[-self._tail :] = noise[-self._tail :][::-1]
        a, b = self._inputs(noise), self._inputs(other)
        return any(
            isinstance(value, torch.Tensor)
            and (value.shape != b[key].shape or not torch.equal(value, b[key]))
            for key, value in a.items()
        )
