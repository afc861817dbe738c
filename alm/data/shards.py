"""Shards: WebDataset-format tar files with an index, of which any record is read in constant time.

A shard directory is written by `alm data shard` (`alm.data.shard_writer`)::

    shard-000000.tar   000000000.json, 000000000.flac, 000000001.json, ...   (one sample per clip)
    index.json         the shards with their sizes and SHA-256
    records.npy        where each record lies
    clips.npy          where each clip lies, its length, its SHA-256

A sample's JSON is `{"records": [...], "clips": [...]}`: all records about its files, in the manifest's form, and
which of the sample's clips (files, or parts of them) each record hears. Records and clips are read with ranged reads
at offsets from the memory-mapped tables; no tar is ever scanned.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from alm.common.errors import ManifestError
from alm.data.records import AudioRef, Record, parse_record

INDEX = "index.json"
RECORDS, CLIPS = "records.npy", "clips.npy"
FORMAT = "alm-shards/1"

RECORD_ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("at", "<u8"),  # of the sample's JSON in its tar
        ("size", "<u4"),
        ("place", "<u4"),  # among the sample's records
        ("first_clip", "<u8"),
        ("id_hash", "<u8"),
        ("text_chars", "<u4"),
        ("seconds", "<f8"),  # of its audio, in sum
        ("answered", "u1"),
        ("has_text", "u1"),
    ]
)
CLIP_ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("at", "<u8"),
        ("size", "<u4"),
        ("frames", "<u8"),  # of the whole file
        ("rate", "<u4"),
        ("record", "<u8"),  # the first record about it
        ("sha256", "V16"),  # of the whole file, its first 16 bytes
    ]
)
_OPEN_FILES = 128


class ShardError(ManifestError):
    """A shard that is missing, truncated or not what its index says; shard and record are named."""


class _Handles(threading.local):
    """File descriptors of this thread of this process, the least recently used closed first."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.open: OrderedDict[str, int] = OrderedDict()

    def of(self, path: str) -> int:
        if self.process != os.getpid():  # a forked worker opens its own
            self.process, self.open = os.getpid(), OrderedDict()
        if path in self.open:
            self.open.move_to_end(path)
            return self.open[path]
        while len(self.open) >= _OPEN_FILES:
            os.close(self.open.popitem(last=False)[1])
        self.open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self.open[path]


_handles = _Handles()


def read_range(path: Path, at: int, size: int, what: str) -> bytes:
    """`size` bytes of a shard from `at` on.

    Args:
        path: The tar file.
        at: First byte.
        size: How many.
        what: The record or clip they belong to, for the errors.

    Raises:
        ShardError: The shard is missing, unreadable or ends before.
    """
    try:
        data = os.pread(_handles.of(str(path)), size, at)
    except FileNotFoundError as error:
        raise ShardError(f"{path}: the shard is missing; {what} lies in it; copy it again") from error
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); {what} lies in it") from error
    if len(data) != size:
        raise ShardError(
            f"{path}: the shard is truncated: {what} lies at {at}-{at + size}, the file ends at "
            f"{at + len(data) if data else path.stat().st_size}; copy it again"
        )
    return data


@dataclass(frozen=True)
class ShardRef(AudioRef):
    """A clip, or a part of it, inside a shard; `path` is the tar file.

    Attributes:
        name: The member's name.
        at: Where its bytes begin.
        size: How many there are.
    """

    name: str = ""
    at: int = 0
    size: int = 0

    def load(self, sample_rate: int) -> np.ndarray:
        """The clip as a waveform (S,) float32 in [-1, 1] at `sample_rate` Hz."""
        from encoders.audio import decode_audio

        return decode_audio(
            self.read_bytes(), f"{self.path}:{self.name}", sample_rate, self.start_s, self.end_s
        )

    def read_bytes(self) -> bytes:
        """The whole audio file, as it was before it was put into the shard."""
        return read_range(self.path, self.at, self.size, f"clip {self.name}")

    def _whole_seconds(self) -> float:
        from encoders.audio import seconds_of

        return seconds_of(io.BytesIO(self.read_bytes()))

    @property
    def file_name(self) -> str:
        """The shard's and the member's name."""
        return f"{self.path.name}:{self.name}"


def is_shard_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a directory with a shard index."""
    return (Path(path) / INDEX).is_file()


class ShardedRecords(Sequence[Record]):
    """The records of a shard directory, each read from its shard when it is asked for.

    Opening looks at the index and at every shard's size, not into the shards. Safe in forked and spawned loader
    processes: each opens its own files.

    Args:
        folder: The shard directory.
        audio_only: Take records that say nothing about their audio, as pretraining does.

    Raises:
        ShardError: No index, or a shard that is missing or has another size than when it was written.
    """

    def __init__(self, folder: str | os.PathLike[str], audio_only: bool = False) -> None:
        self.folder = Path(folder)
        self.audio_only = audio_only
        self.contents = read_index(self.folder)
        self.shards = [self.folder / shard["name"] for shard in self.contents["shards"]]
        self.rows = _table(self.folder / RECORDS, RECORD_ROW, self.contents["records"])
        self.clips = _table(self.folder / CLIPS, CLIP_ROW, self.contents["clips"])
        self._check_shards()
        if not audio_only and not self.rows["has_text"].all():
            row = int(np.argmin(self.rows["has_text"]))
            raise ShardError(
                f"{self.source(row)}: the record holds audio alone, which is for stage pretrain; expected one of "
                "'messages', 'question', 'captions'"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "audio_only": self.audio_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ShardedRecords.__init__(self, **state)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """One record, or a list of them."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[Record, list[int]]:
        """A record, and the rows of its clips."""
        row, source = self.rows[index], self.source(index)
        shard = self.shards[row["shard"]]
        data = read_range(shard, int(row["at"]), int(row["size"]), f"record {index}")
        try:
            sample = json.loads(data)
            values, offsets = sample["records"][row["place"]], sample["clips"][row["place"]]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ShardError(
                f"{source}: not the sample that the index says (record {index}); copy the shard again, or make "
                "the shards anew"
            ) from error
        record = parse_record(values, shard.parent, source, self.audio_only)
        clips = [int(row["first_clip"]) + offset for offset in offsets]
        refs = tuple(self._ref(ref, clip) for ref, clip in zip(record.audio, clips, strict=True))
        return replace(record, audio=refs), clips

    def __iter__(self) -> Iterator[Record]:
        return (self[i] for i in range(len(self)))

    def source(self, index: int) -> str:
        """`shard:member` of a record, for errors."""
        row = self.rows[index]
        return f"{self.shards[row['shard']]}:{int(row['at'])}[{int(row['place'])}]"

    def named_clip(self, clip: int) -> tuple[str, AudioRef]:
        """The `clip`-th different clip, and its name: the id of the first record about it (`id#1` of several)."""
        record, clips = self._read(int(self.clips[clip]["record"]))
        place = clips.index(clip)
        return record.id if len(clips) == 1 else f"{record.id}#{place}", record.audio[place]

    def _ref(self, ref: AudioRef, clip: int) -> ShardRef:
        row = self.clips[clip]
        where = (ref.path.name, int(row["at"]), int(row["size"]))
        return ShardRef(self.shards[row["shard"]], ref.start_s, ref.end_s, *where)

    def _check_shards(self) -> None:
        for number, (path, shard) in enumerate(zip(self.shards, self.contents["shards"], strict=True)):
            got = path.stat().st_size if path.is_file() else None
            if got != shard["bytes"]:
                rows = np.flatnonzero(self.rows["shard"] == number)
                what = "is missing" if got is None else f"has {got} bytes, {shard['bytes']} were written"
                raise ShardError(
                    f"{path}: the shard {what}; its {len(rows)} records from record {int(rows[0])} on cannot be "
                    "read; copy it again"
                )


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a shard directory.

    Raises:
        ShardError: It is missing, broken, or of another format.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ShardError(
            f"{folder}: no shard index ({INDEX}: {error.strerror}); expected a JSONL file or a directory written by "
            "'alm data shard'"
        ) from error
    except ValueError as error:
        raise ShardError(f"{path}: broken JSON ({error}); copy it again") from error
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        got = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise ShardError(f"{path}: format {got!r}; expected {FORMAT!r}: make the shards anew")
    return index


def _table(path: Path, dtype: np.dtype, n_rows: int) -> np.ndarray:
    """A table of the index, memory-mapped."""
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ShardError(f"{path}: cannot be read ({error}); copy it again") from error
    if table.dtype != dtype or len(table) != n_rows:
        raise ShardError(f"{path}: {len(table)} rows, the index says {n_rows}; copy the directory again")
    return table
