"""Batches of an epoch: its order of samples, cut into steps the same way for any number of processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from train.data.protocols import TrainingDataset


@dataclass(eq=False)
class EpochBatches(Sampler[list[int]]):
    """One process's batches of an epoch.

    An epoch's order is cut into forward passes of `batch_size * world` samples, and each pass into one batch per
    process. So a forward pass over all processes has the same samples for any number of processes, as long as the
    product stays the same. The last pass may be smaller; its batches then differ by one sample at most. If it has fewer
    samples than there are processes, samples from the beginning of the epoch fill it up.

    Attributes:
        dataset: The samples; `dataset.order` gives an epoch's order.
        batch_size: Samples per process and forward pass.
        seed: Seed of the order.
        rank: This process.
        world: Number of processes.
        drop_last: Drop a last pass that is smaller than the others.
        epoch: The current pass over the data.
    """

    dataset: TrainingDataset
    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1
    drop_last: bool = False
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches come next."""
        self.epoch = epoch

    def __len__(self) -> int:
        together = self.batch_size * self.world
        n = len(self.dataset)
        return n // together if self.drop_last else -(-n // together)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order()
        return (self._of_rank(order, number) for number in range(len(self)))

    def order(self) -> np.ndarray:
        """Return the epoch's order of all samples."""
        return np.asarray(self.dataset.order(self.seed, self.epoch))

    def batch(self, number: int) -> list[int]:
        """Return this process's batch of a forward pass of the current epoch."""
        return self._of_rank(self.order(), number)

    def _of_rank(self, order: np.ndarray, number: int) -> list[int]:
        together = self.batch_size * self.world
        picked = order[number * together : (number + 1) * together]
        if len(picked) < self.world:
            picked = np.concatenate([picked, np.resize(order, self.world - len(picked))])
        mine: list[int] = np.array_split(picked, self.world)[self.rank].tolist()
        return mine
