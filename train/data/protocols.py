"""Protocols of datasets and models: what the trainer calls, besides `__getitem__` and `forward`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch.utils.data import Dataset

from train.data.order import epoch_order


class TrainingDataset(Dataset[dict[str, Any]]):
    """The samples of a stage.

    Attributes:
        epoch: The current pass over the data.
    """

    epoch = 0

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what logs and messages call a sample."""

    @property
    def n_samples(self) -> int:
        """Number of samples: one for each item, unless an item consists of several."""
        return len(self)

    def members(self, index: int) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """Return the name of each sample of an item, and how to read it."""
        return [(self.name(index), partial(self.__getitem__, index))]

    def join(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return an item of some samples of `members`."""
        return samples[0]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next."""
        self.epoch = epoch

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the sample numbers of an epoch in order, as many as the dataset is long: (n,) int64."""
        return epoch_order(len(self), seed, epoch)

    def quarantined(self) -> set[str] | None:
        """Return the names of the samples that all processes have quarantined so far; None without quarantine."""
        return None

    def complaint(self) -> str | None:
        """Return why the run must end, if too many samples are quarantined."""
        return None


@runtime_checkable
class UsesEpoch(Protocol):
    """A model (or collator) whose random numbers depend on the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""


@runtime_checkable
class ReportsMetrics(Protocol):
    """A model with metrics of its own for the log."""

    def take_metrics(self) -> dict[str, float]:
        """Return and clear the metrics since the last line of the log."""


@runtime_checkable
class CountsAudio(Protocol):
    """A collator that knows how much audio its last batch holds.

    Attributes:
        audio_s: Seconds of audio; a clip that several samples of the batch share counts once.
    """

    audio_s: float
