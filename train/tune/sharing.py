"""Prefix sharing: records about one clip share a row, with audio and system prompt once, and one branch per question.

A row holds the tokens with which all its samples begin (the prefix), then the remaining tokens of each sample (its
branch). A branch attends to the prefix and to itself only, with the position ids of a separate sample. So losses and
gradients equal those of separate samples.

Axis letters: B samples, R rows, L tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alm.data.records import Record
from alm.data.sources import parts_of
from alm.head import IGNORE
from train.data.order import Lengths, SampleOrder
from train.data.protocols import TrainingDataset
from train.tune.packing import fill_rows

PADDING = -1  # sequence of padding tokens; each is a branch of its own


def groups_by_clip(records: Sequence[Record], most: int) -> list[list[list[int]]]:
    """Indices of the records about the same audio, per source: at most `most` in a group, in order of first use."""
    sources: list[list[list[int]]] = []
    number = 0
    for part in parts_of(records):
        groups: list[list[int]] = []
        open_groups: dict[Any, list[int]] = {}
        for record in part:
            group = open_groups.get(record.audio) if record.audio else None
            if group is None or len(group) == most:
                group = []
                groups.append(group)
                open_groups[record.audio] = group
            group.append(number)
            number += 1
        sources.append(groups)
    return sources


class SharedClips(TrainingDataset):
    """Groups of samples of a dataset, each about one clip.

    Args:
        dataset: The samples.
        groups: Numbers of the samples of each group, per source.
        weights: Shares of the sources; None visits every group once an epoch.
        lengths: Gives the length of every sample in an epoch, to put groups of similar length into a batch; None does
            not group by length.
        batch_size: Groups of a forward pass of all processes together.
    """

    def __init__(
        self,
        dataset: TrainingDataset,
        groups: Sequence[Sequence[list[int]]],
        weights: Sequence[float] | None = None,
        lengths: Lengths | None = None,
        batch_size: int = 1,
    ) -> None:
        self.dataset = dataset
        self.groups = [group for source in groups for group in source]
        together = None if lengths is None else partial(self._lengths, lengths)
        self._order = SampleOrder([len(source) for source in groups], weights, together, batch_size)

    def _lengths(self, lengths: Lengths, epoch: int) -> np.ndarray:
        """Length of every group in an epoch; the shared prefix is estimated as the length of the shortest sample."""
        alone = lengths(epoch)
        return np.array([alone[g].sum() - (len(g) - 1) * alone[g].min() for g in self.groups])

    def __len__(self) -> int:
        return len(self.groups)

    def name(self, index: int) -> str:
        """Return the ids of a group's samples."""
        return "+".join(self.dataset.name(number) for number in self.groups[index])

    @property
    def n_samples(self) -> int:
        """Number of samples of all groups."""
        return sum(map(len, self.groups))

    def members(self, index: int) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
        """Return the name of each sample of a group, and how to read it."""
        return [member for number in self.groups[index] for member in self.dataset.members(number)]

    def join(self, samples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return some samples of a group as an item."""
        return {"together": samples}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose samples come next."""
        super().set_epoch(epoch)
        self.dataset.set_epoch(epoch)

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the groups of an epoch in order; see `TrainingDataset.order`."""
        return self._order(seed, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.join([read() for _, read in self.members(index)])


def samples_of_groups(items: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[int]]:
    """The samples of dataset items, and how many of them belong to each item."""
    groups = [item.get("together", [item]) for item in items]
    return [sample for group in groups for sample in group], [len(group) for group in groups]


def share(
    batch: dict[str, Tensor], sizes: Sequence[int], audio_token_id: int, pad_token_id: int, packed: bool
) -> tuple[dict[str, Tensor], list[int]]:
    """Put the samples of a padded batch into rows with a shared prefix.

    Args:
        batch: `input_ids`, `attention_mask` and `labels` (B, L), padded on either side.
        sizes: Number of consecutive samples about each clip.
        audio_token_id: The placeholder of audio. Samples share a row only if all their audio lies in the prefix.
        pad_token_id: Fills the ends of the rows.
        packed: Put several such rows into one, as wide as the longest.

    Returns:
        `input_ids`, `labels`, `position_ids` (R, L) and `branches` (R, L, 2), see `alm.processing.branches`; and the
        samples whose audio the rows hold, in reading order. The first token of a branch has no label: the token before
        it in the row belongs to another branch.
    """
    real = batch["attention_mask"].bool()
    ids = [row[here].tolist() for row, here in zip(batch["input_ids"], real, strict=True)]
    labels = [row[here].tolist() for row, here in zip(batch["labels"], real, strict=True)]
    sequences: list[tuple[int, list[tuple[int, int, int]]]] = []  # first sample; (sample, from, to) in order
    start = 0
    for size in sizes:
        numbers = list(range(start, start + size))
        start += size
        prefix = _prefix([ids[n] for n in numbers], [labels[n] for n in numbers])
        if any(audio_token_id in ids[n][prefix:] for n in numbers):
            sequences += [(n, [(n, 0, len(ids[n]))]) for n in numbers]
        else:
            branches = [(n, prefix, len(ids[n])) for n in numbers]
            sequences.append((numbers[0], [(numbers[0], 0, prefix), *branches]))
    lengths = [sum(end - begin for _, begin, end in parts) for _, parts in sequences]
    width = max(lengths)
    rows = fill_rows(lengths, width) if packed else [[number] for number in range(len(sequences))]
    shape = (len(rows), width)
    out = {
        "input_ids": torch.full(shape, pad_token_id),
        "labels": torch.full(shape, IGNORE),
        "position_ids": torch.zeros(shape, dtype=torch.long),
        # each padding token sees itself alone, so that no row of the mask is empty
        "branches": torch.stack(
            [torch.full(shape, PADDING), torch.arange(1, width + 1).expand(shape)], dim=-1
        ),
    }
    for row, held in enumerate(rows):
        at = 0
        for place, number in enumerate(held):
            for branch, (n, begin, end) in enumerate(sequences[number][1]):
                here = slice(at, at + end - begin)
                out["input_ids"][row, here] = torch.tensor(ids[n][begin:end])
                out["labels"][row, here] = torch.tensor(labels[n][begin:end])
                out["labels"][row, at] = IGNORE
                out["position_ids"][row, here] = torch.arange(begin, end)
                out["branches"][row, here] = torch.tensor([place, branch])
                at += end - begin
    return out, [sequences[number][0] for held in rows for number in held]


def _prefix(ids: Sequence[list[int]], labels: Sequence[list[int]]) -> int:
    """Length of the samples' common prefix; it ends before the token that predicts the first label."""
    first_label = min(next((i for i, label in enumerate(row) if label != IGNORE), len(row)) for row in labels)
    limit = max(0, min(first_label, *(len(row) for row in ids)) - 1)
    for place in range(limit):
        if len({row[place] for row in ids}) > 1:
            return place
    return limit
