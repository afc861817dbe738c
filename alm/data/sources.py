"""Several sources of records as one sequence: JSONL manifests are kept in memory, shards are read on access."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar, overload

import numpy as np

from alm.common.errors import ConfigError
from alm.data.manifest import read_manifest
from alm.data.records import Record
from alm.data.shards import ShardedRecords, id_hash, is_shard_folder

T = TypeVar("T")


class Chain(Sequence[T], Generic[T]):
    """Several sequences as one, without copying them.

    Args:
        parts: The sequences.
    """

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        """Return one item, or a list of items for a slice."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[T]:
        return (item for part in self.parts for item in part)


def open_records(paths: Sequence[str], audio_only: bool = False) -> Sequence[Record]:
    """Open several manifests and shard directories as one sequence of records.

    Args:
        paths: JSONL files and shard directories.
        audio_only: Accept records without text, for pretraining.

    Returns:
        The records; those of JSONL files are kept in memory, those of shards are read on access.

    Raises:
        ManifestError: A source cannot be read.
        ConfigError: Two sources use the same id.
    """
    parts = [open_source(path, audio_only) for path in paths]
    _check_ids(parts)
    if not parts:
        return []
    return parts[0] if len(parts) == 1 else Chain(parts)


def open_source(path: str, audio_only: bool = False) -> Sequence[Record]:
    """Open one manifest as a list, or one shard directory as a sequence that reads records on access."""
    if Path(path).is_dir():
        return ShardedRecords(path, audio_only)
    return read_manifest(path, audio_only=audio_only)


def parts_of(records: Sequence[Record]) -> Sequence[Sequence[Record]]:
    """The sources that `open_records` combined."""
    return records.parts if isinstance(records, Chain) else [records]


def _check_ids(parts: Sequence[Sequence[Record]]) -> None:
    if len(parts) < 2:
        return  # within one source they were checked when it was read or written
    seen: dict[str, str] = {}
    for part in parts:
        for record in part if isinstance(part, list) else ():
            if record.id in seen:
                raise ConfigError(f"{record.source}: id '{record.id}' was already used at {seen[record.id]}")
            seen[record.id] = record.source
    shards = [part for part in parts if isinstance(part, ShardedRecords)]
    if not shards:
        return
    hashes = np.array([id_hash(name) for name in seen], np.uint64)
    values, counts = np.unique(
        np.concatenate([hashes, *(part.rows["id_hash"] for part in shards)]), return_counts=True
    )
    for value in values[counts > 1]:  # few, if any; two ids may also share a hash
        found = [part[int(row)] for part in shards for row in np.flatnonzero(part.rows["id_hash"] == value)]
        for record in found:
            if record.id in seen:
                raise ConfigError(f"{record.source}: id '{record.id}' was already used at {seen[record.id]}")
            seen[record.id] = record.source


def is_records_source(path: str) -> bool:
    """Whether a path is a manifest or a shard directory, rather than a folder of audio or a label table."""
    return is_shard_folder(path) or (not Path(path).is_dir() and Path(path).suffix != ".csv")


def first_unanswered(records: Sequence[Record]) -> str | None:
    """`file:line` of the first record without an answer, or None; for shards it is read from the index."""
    if isinstance(records, Chain):
        return next(filter(None, (first_unanswered(part) for part in records.parts)), None)
    if isinstance(records, ShardedRecords):
        answered = records.rows["answered"]
        return None if answered.all() else records.source(int(np.argmin(answered)))
    unanswered = (r.source for r in records if not r.messages or r.messages[-1]["role"] != "assistant")
    return next(unanswered, None)
