"""Shards: WebDataset-format tar files with an index, through which any record is read in constant time.

A shard directory is written by `alm data shard` (`alm.data.shard_writer`)::

    shard-000000.tar   000000000.json, 000000000.flac, 000000001.json, ...   (one sample per clip)
    index.json         the shards with their sizes and SHA-256
    records.npy        the position of each record
    clips.npy          the position of each clip, its length, its SHA-256

A sample's JSON is `{"records": [...], "clips": [...]}`. `records` are all records about its files, in the manifest's
form. `clips` has one list per record: the numbers of the sample's clips (files, or segments of files) that the record
uses. Records and clips are read at the offsets that the memory-mapped tables give; no tar is ever scanned.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from tarfile import BLOCKSIZE
from typing import Any

import numpy as np

from alm.common.errors import StorageError, shown
from alm.common.files import open_regular, reason
from alm.common.json_text import parse_json, read_json
from alm.common.names import check_file_name
from alm.common.storage.remote import RemotePath, is_remote, local_copy, to_path
from alm.data.byte_ranges import read_range
from alm.data.embedded import EmbeddedRef
from alm.data.index import id_hash
from alm.data.records import AudioRef, LazyRecords, Record, parse_record

INDEX = "index.json"
RECORDS, CLIPS = "records.npy", "clips.npy"
FORMAT = "alm-shards/1"

RECORD_ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("at", "<u8"),  # offset of the sample's JSON in its tar
        ("size", "<u4"),
        ("place", "<u4"),  # index among the sample's records
        ("first_clip", "<u8"),
        ("id_hash", "<u8"),
        ("text_chars", "<u4"),
        ("seconds", "<f8"),  # length of all its audio
        ("answered", "u1"),
        ("has_text", "u1"),
    ]
)
CLIP_ROW = np.dtype(
    [
        ("shard", "<u4"),
        ("at", "<u8"),
        ("size", "<u4"),
        ("frames", "<u8"),  # length of the whole file
        ("rate", "<u4"),
        ("record", "<u8"),  # row of the first record about the clip
        ("sha256", "V16"),  # first 16 bytes of the hash of the whole file
    ]
)
_TAR_NAME_BYTES = 100  # at the start of the block before a member


class ShardError(StorageError):
    """A shard or an index that is missing, truncated or corrupt; the message names shard and record."""


def read_shard(path: Path, at: int, size: int, what: str) -> bytes:
    """Read `size` bytes of a shard, beginning at byte `at`; see `read_range`.

    Raises:
        ShardError: The shard is missing, cannot be read, or ends earlier.
    """
    return read_range(path, at, size, what, ShardError, "shard")


@dataclass(frozen=True)
class ShardRef(EmbeddedRef):
    """A clip, or a segment of it, inside a shard; `path` is the tar file.

    Attributes:
        at: Offset of the member's content in the tar file, in bytes.
        size: Length of the content in bytes.
    """

    at: int = 0
    size: int = 0

    def read_bytes(self) -> bytes:
        """The whole audio file, as it was before it was put into the shard."""
        data = read_shard(self.path, self.at - BLOCKSIZE, self.size + BLOCKSIZE, f"clip {self.name}")
        member = data[:_TAR_NAME_BYTES].rstrip(b"\0")
        if member != self.name.encode():
            found = shown(member.decode(errors="replace"))
            raise ShardError(f"{self.path}: holds {found} instead of {self.name}; copy the directory again")
        return data[BLOCKSIZE:]


def is_shard_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a directory with a shard index."""
    if is_remote(path):
        return (to_path(path) / INDEX).is_file()
    return os.path.isfile(os.path.join(path, INDEX))


class ShardedRecords(LazyRecords):
    """The records of a shard directory; each is read from its shard on access.

    Opening reads the index and checks every shard's size; it does not read the shards. Safe in forked and spawned
    loader processes: each opens its own files.

    Args:
        folder: The shard directory.
        audio_only: Accept records without text, for pretraining.

    Raises:
        ShardError: The index is missing or corrupt, or a shard is missing or has another size than the index says.
    """

    def __init__(self, folder: str | os.PathLike[str], audio_only: bool = False) -> None:
        self._open(to_path(folder), audio_only)
        self._check_tables()
        if not audio_only and not self.rows["has_text"].all():
            row = int(np.argmin(self.rows["has_text"]))
            raise ShardError(
                f"{self.source(row)}: the record holds audio alone, which is for stage pretrain; expected one of "
                "'messages', 'question', 'captions'"
            )

    def _open(self, folder: Path, audio_only: bool) -> None:
        self.folder = folder
        self.audio_only = audio_only
        self.contents = read_index(folder)
        self.shards = [folder / shard["name"] for shard in self.contents["shards"]]
        self.rows = _table(folder / RECORDS, RECORD_ROW, self.contents["records"])
        self.clips = _table(folder / CLIPS, CLIP_ROW, self.contents["clips"])
        self._check_shards()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "audio_only": self.audio_only}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._open(**state)  # the process that pickled it has checked the tables

    def item(self, index: int) -> Record:
        """A record, read from its shard now."""
        return self._read(index)[0]

    def _read(self, index: int) -> tuple[Record, list[int]]:
        """A record, and the rows of its clips."""
        row, source = self.rows[index], self.source(index)
        shard = self.shards[row["shard"]]
        data = read_shard(shard, int(row["at"]), int(row["size"]), f"record {index}")
        try:
            sample = parse_json(data.decode(), source, ShardError)
            values, offsets = sample["records"][row["place"]], sample["clips"][row["place"]]
            record = parse_record(values, shard.parent, source, self.audio_only)
            clips = [int(row["first_clip"]) + offset for offset in offsets]
            if id_hash(record.id) != row["id_hash"] or not all(self._is_of(clip, row) for clip in clips):
                raise IndexError
            refs = tuple(self._ref(ref, clip) for ref, clip in zip(record.audio, clips, strict=True))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ShardError(
                f"{source}: not the sample that the index describes (record {index}); copy the shard again, or write "
                "the shards again"
            ) from error
        return replace(record, audio=refs), clips

    def _is_of(self, clip: int, row: Any) -> bool:
        """Whether a clip belongs to the sample that holds the record of `row`."""
        if clip < 0:
            return False
        first = self.rows[int(self.clips[clip]["record"])]
        places = {int(self.clips[clip]["shard"]), int(first["shard"]), int(row["shard"])}
        return len(places) == 1 and bool(first["at"] == row["at"])

    def source(self, index: int) -> str:
        """`shard:offset[place]` of a record, for error messages."""
        row = self.rows[index]
        return f"{self.shards[row['shard']]}:{int(row['at'])}[{int(row['place'])}]"

    def named_clip(self, clip: int) -> tuple[str, AudioRef]:
        """The `clip`-th distinct clip, and its name: the id of the first record about it (`id#1` of several)."""
        row = int(self.clips[clip]["record"])
        record, clips = self._read(row)
        if clip not in clips:
            raise ShardError(
                f"{self.source(row)}: the record is not about clip {clip}; copy the directory again"
            )
        place = clips.index(clip)
        return record.id if len(clips) == 1 else f"{record.id}#{place}", record.audio[place]

    def _ref(self, ref: AudioRef, clip: int) -> ShardRef:
        row = self.clips[clip]
        where = (ref.path.name, int(row["at"]), int(row["size"]))
        return ShardRef(self.shards[row["shard"]], ref.start_s, ref.end_s, *where)

    def _check_shards(self) -> None:
        sizes = self.folder.sizes() if isinstance(self.folder, RemotePath) else None  # one request for all
        for number, (path, shard) in enumerate(zip(self.shards, self.contents["shards"], strict=True)):
            if sizes is not None:
                got = sizes.get(path.name)
            else:
                got = path.stat().st_size if path.is_file() else None
            if got != shard["bytes"]:
                rows = np.flatnonzero(self.rows["shard"] == number)
                what = "is missing" if got is None else f"has {got} bytes, {shard['bytes']} were written"
                lost = (
                    f"its {len(rows)} records from record {int(rows[0])} on cannot be read; "
                    if len(rows)
                    else ""
                )
                raise ShardError(f"{path}: the shard {what}; {lost}copy it again")

    def _check_tables(self) -> None:
        """Check every offset against the size of its shard; `alm data verify` compares the tables with their hashes."""
        sizes = np.array([shard["bytes"] for shard in self.contents["shards"]], np.uint64)
        for name, table in ((RECORDS, self.rows), (CLIPS, self.clips)):
            if not len(table):
                continue
            inside = (table["shard"] < len(sizes)) & (table["at"] >= BLOCKSIZE)
            inside[inside] = (table["at"][inside] <= sizes[table["shard"][inside]]) & (
                table["size"][inside] <= sizes[table["shard"][inside]] - table["at"][inside]
            )
            inside &= (
                table["first_clip"] < len(self.clips) if name == RECORDS else table["record"] < len(self.rows)
            )
            if not inside.all():
                row = int(np.argmin(inside))
                raise ShardError(
                    f"{self.folder / name}: row {row} points outside the shards or tables; copy the directory again, "
                    "or write the shards again"
                )


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a shard directory and check every key.

    Raises:
        ShardError: It is missing, broken, or of another format; the key is named.
    """
    path = folder / INDEX
    if not is_shard_folder(folder):
        raise ShardError(
            f"{folder}: no shard index ({INDEX}); expected a JSONL file or a directory written by 'alm data shard'"
        )
    index = read_json(path, ShardError)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        got = index.get("format") if isinstance(index, dict) else type(index).__name__
        raise ShardError(f"{path}: format {shown(got)}; expected {FORMAT!r}: write the shards again")
    for key in ("records", "clips"):
        _check(_is_count(index.get(key)), path, key, index.get(key), "a number of rows")
    tables: Any = index.get("tables")
    shards: Any = index.get("shards")
    _check(isinstance(tables, dict), path, "tables", tables, "the tables' hashes")
    for name in (RECORDS, CLIPS):
        _check(isinstance(tables.get(name), str), path, f"tables.{name}", tables.get(name), "a hash")
    _check(isinstance(shards, list), path, "shards", shards, "a list of shards")
    for number, shard in enumerate(shards):
        where = f"shards[{number}]"
        _check(isinstance(shard, dict), path, where, shard, "a shard's name, bytes and sha256")
        for key, is_right in (("name", _is_text), ("bytes", _is_count), ("sha256", _is_text)):
            _check(is_right(shard.get(key)), path, f"{where}.{key}", shard.get(key), "what was written")
        check_file_name(shard["name"], f"{path}: {where}.name")
    return index


def _check(is_right: bool, path: Path, key: str, value: object, expected: str) -> None:
    if not is_right:
        raise ShardError(f"{path}: {key} is {shown(value)}; expected {expected}: copy the directory again")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _table(path: Path, dtype: np.dtype[Any], n_rows: int) -> np.ndarray:
    """A table of the index, memory-mapped."""
    try:
        open_regular(path).close()  # a pipe would block forever
        table: np.ndarray = np.load(local_copy(path), mmap_mode="r", allow_pickle=False)
    except StorageError:
        raise
    except Exception as error:  # numpy documents no errors for broken headers
        raise ShardError(f"{path}: cannot be read ({reason(error)}); copy it again") from error
    if table.dtype != dtype or table.shape != (n_rows,):
        got = f"{table.shape} rows" if table.dtype == dtype else "other columns"
        raise ShardError(f"{path}: has {got}, the index says ({n_rows},) rows; copy the directory again")
    return table
