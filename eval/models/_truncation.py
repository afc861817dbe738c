"""How much of a recording a processor hands on: some cut long ones without a word."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

_TAIL_S = 0.1
"""Precision of a limit, in seconds: the last so much of a recording is changed to see whether that matters."""


class HearingLimit:
    """The longest recording that a processor hands on whole, found by asking it.

    Args:
        inputs: The model inputs of a prompt with one recording, mono float32 (S,).
        sample_rate: Of the recordings, in Hz.
    """

    def __init__(self, inputs: Callable[[np.ndarray], Mapping[str, Any]], sample_rate: int) -> None:
        self._inputs, self._rate = inputs, sample_rate
        self._tail = round(_TAIL_S * sample_rate)
        self._whole = 10 * self._tail
        self._limit: int | None = None

    def heard(self, n_samples: int) -> int:
        """How many samples of a recording of `n_samples` the processor hands on, to a hundredth of a second.

        The first recording that is longer than all before costs two calls of the processor, the first that is cut
        about twenty. Less than a tenth of a second that is lost is not noticed.
        """
        if self._limit is None and n_samples > self._whole:
            if self._depends_on_end(n_samples):
                self._whole = n_samples
            elif self._depends_on_end(self._whole):  # else its inputs are neither waveforms nor features
                self._limit = self._end_of_hearing(n_samples)
        return n_samples if self._limit is None or n_samples <= self._limit + self._tail else self._limit

    def _end_of_hearing(self, cut: int) -> int:
        """The limit, given the length of a recording that is cut."""
        whole = self._whole
        while cut - whole > self._tail // 10:
            middle = (whole + cut) // 2
            whole, cut = (middle, cut) if self._depends_on_end(middle) else (whole, middle)
        return whole - self._tail  # the changed end of a recording of `whole` begins where hearing ends

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
