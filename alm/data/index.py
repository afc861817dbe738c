"""Records that are read on access, by an index of their positions, so that millions need little memory.

The first pass over a source checks every record and writes an index row for it: its position, and the facts that are
needed for all records at once (id, whether it has text and an answer, length of the text). The index of a large source
is kept in the cache folder (`ALM_CACHE`) and memory-mapped; it is built again when a file of the source changes. The
index of a small source is kept in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from alm.common.errors import ManifestError, StorageError
from alm.common.files import locked_file, open_regular, reason, remove_leftovers
from alm.common.json_text import parse_json
from alm.common.storage.cache import cache_folder
from alm.common.storage.remote import is_remote, to_path
from alm.data.byte_ranges import read_range
from alm.data.embedded import embedded_ref
from alm.data.records import CheckedRecord, LazyRecords, Record, note_id, parse_record

ROW = np.dtype(
    [
        ("at", "<u8"),
        ("size", "<u8"),
        ("id_hash", "<u8"),
        ("text_chars", "<u4"),
        ("answered", "u1"),
        ("has_text", "u1"),
    ]
)
_PACKED = struct.Struct("<QQ8sIBB")  # a row
_VERSION = "2"
_CHUNK = 8192  # rows that are collected before they are written
_SORTED_ROWS = 1 << 18  # rows of which a column is copied at once
_SMALL_ROWS = 20_000
_SMALL_BYTES = 8 << 20
_SAMPLED_BYTES = 1 << 16  # bytes at a file's start and end that are hashed to detect changes
_SAMPLED_FILES = 16


def id_hash(identifier: str) -> int:
    """The hash of a record's id in an index."""
    return int.from_bytes(_hash_bytes(identifier), "little")


def _hash_bytes(identifier: str) -> bytes:
    return hashlib.sha256(identifier.encode()).digest()[:8]


class Line(NamedTuple):
    """One record as a reader yields it.

    Attributes:
        record: The record, checked.
        at: Offset of its line in the source's file, in bytes; None if the index keeps `stored` instead.
        size: Length of its line in bytes.
        stored: The line itself, for sources that are not files with one record per line.
    """

    record: CheckedRecord
    at: int | None = None
    size: int = 0
    stored: bytes = b""


class IndexedRecords(LazyRecords):
    """The records of one source, each parsed on access. Safe in forked and spawned loader processes.

    Args:
        rows: The table, with the columns of `ROW`.
        lines: All lines, or the file that holds them.
        parse: Makes a record from a line, the line's number, and whether records without text are accepted.
        name: The source, for errors.
        table: The file that holds `rows`; None if they are in memory.
    """

    def __init__(
        self,
        rows: np.ndarray,
        lines: bytes | Path,
        parse: Callable[[bytes, int, bool], Record],
        name: str,
        table: Path | None = None,
    ) -> None:
        self.rows, self.lines, self.parse, self.name, self.table = rows, lines, parse, name, table
        self.audio_only = True

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "rows": self.rows if self.table is None else None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.table is not None:
            self.rows = _mapped(self.table)

    def item(self, index: int) -> Record:
        """A record, parsed now.

        Raises:
            StorageError: The source has changed since it was opened.
        """
        row = self.rows[index]
        at, size = int(row["at"]), int(row["size"])
        if isinstance(self.lines, bytes):
            line = self.lines[at : at + size]
        else:
            line = read_range(self.lines, at, size, f"record {index}")
        try:
            record = self.parse(line, index, self.audio_only)
            if id_hash(record.id) == row["id_hash"]:
                return record
        except (ManifestError, LookupError, TypeError) as error:
            if not self.audio_only and not row["has_text"]:
                raise
            raise StorageError(f"{self.name}: {_CHANGED} ({error})") from error
        raise StorageError(f"{self.name}: {_CHANGED} (record {index} has another id)")

    def source(self, index: int) -> str:
        """`file:line` of a record."""
        return self[index].source

    def first(self, limit: int) -> IndexedRecords:
        """The first `limit` records."""
        found = IndexedRecords(self.rows[:limit], self.lines, self.parse, self.name)
        found.audio_only = self.audio_only
        return found

    def with_text(self) -> IndexedRecords:
        """Return these records after checking that each has text.

        Raises:
            ManifestError: A record has audio alone; the message names the first such record.
        """
        self.audio_only = False
        if not self.rows["has_text"].all():
            self[int(np.argmin(self.rows["has_text"]))]
        release(self.rows)
        return self


_CHANGED = "changed while it was in use; start again"


def stored_line(source: str, folder: Path, values: dict[str, Any], embedded: dict[str, Any]) -> bytes:
    """Encode a record as a line of the cache, for sources other than files with one record per line.

    Args:
        source: Where it is, `file:line`.
        folder: The folder that its audio paths start from.
        values: The record in the manifest's form.
        embedded: Descriptions of recordings inside other files (`alm.data.embedded`) by their place in `audio`.
    """
    return json.dumps([source, os.fspath(folder), values, embedded], ensure_ascii=False).encode(
        "utf-8", "surrogateescape"
    )


def parse_stored(line: bytes, index: int, audio_only: bool) -> Record:
    """The record of a stored line."""
    source, folder, values, embedded = parse_json(line.decode("utf-8"), f"record {index}")
    base = to_path(folder)
    return with_embedded(parse_record(values, base, source, audio_only), base, embedded)


def with_embedded(record: Record, folder: Path, embedded: dict[str, Any]) -> Record:
    """A record whose references to recordings inside other files are put in their places."""
    if not embedded:
        return record
    refs = tuple(
        embedded_ref(embedded[str(place)], folder, ref.start_s, ref.end_s) if str(place) in embedded else ref
        for place, ref in enumerate(record.audio)
    )
    return replace(record, audio=refs)


def open_index(
    name: str,
    key: str,
    files: Sequence[Path],
    read: Callable[[], Iterable[Line]],
    parse: Callable[[bytes, int, bool], Record],
    lines: Path | None = None,
    packed: Callable[[], Iterable[bytes] | None] = lambda: None,
) -> IndexedRecords:
    """The records of a source, from the index in the cache or by a first pass over the source.

    Args:
        name: The source, for errors.
        key: What the records depend on besides the files: the format and its options.
        files: The source's files.
        read: Reads every record, in order.
        parse: Makes a record of a line.
        lines: The file of which the records are lines; None keeps the lines that `read` gives.
        packed: Gives the rows that `pack_rows` would make of the lines, but faster; None if there is no faster way.

    Raises:
        ManifestError: A record cannot be read, two have one id, or there are none.
    """
    of_source = hashlib.sha256(f"{_VERSION}|{key}".encode("utf-8", "surrogateescape")).hexdigest()[:20]
    stem = f"{of_source}-{_state(files)}"
    folder = cache_folder("index")
    table, kept = folder / f"{stem}.index", folder / f"{stem}.rows"
    where = lines or kept
    if table.is_file():
        try:
            return IndexedRecords(_mapped(table, where), _content(where), parse, name, table)
        except (OSError, ValueError):
            table.unlink(missing_ok=True)  # damaged: made again
    rows, stored = _Spool(table, ROW.itemsize * _SMALL_ROWS), _Spool(kept, _SMALL_BYTES)
    try:
        _write(read, packed, rows, stored, name)
        if not (rows.temporary or stored.temporary):
            found = np.frombuffer(rows.value(), ROW)
            content = stored.value() if lines is None else _content(lines)
            _check_ids(found, content, parse, name)
            return IndexedRecords(found, content, parse, name)
        _remove_older(folder, of_source, stem)
        _check_ids(_mapped(rows.spill()), lines or stored.spill(), parse, name)
        if lines is None:
            stored.publish()
        rows.publish()  # last: an index in the cache is complete
        return IndexedRecords(_mapped(table, where), _content(where), parse, name, table)
    except OSError as error:
        raise ManifestError(
            f"{name}: the index cannot be written ({reason(error)}) to {folder}; make room, or set ALM_CACHE"
        ) from error
    finally:
        rows.discard()
        stored.discard()


class _Spool:
    """Bytes in memory that move into a temporary file beside `target` when they are more than `limit`."""

    def __init__(self, target: Path, limit: int) -> None:
        self.target, self.limit, self.size = target, limit, 0
        self.stream: BinaryIO = io.BytesIO()
        self.temporary: Path | None = None

    def write(self, data: bytes) -> None:
        """Append bytes."""
        self.stream.write(data)
        self.size += len(data)
        if self.temporary is None and self.size > self.limit:
            self.spill()

    def spill(self) -> Path:
        """Put everything into the temporary file; returns it."""
        if self.temporary is None:
            data = self.value()
            remove_leftovers(self.target)
            self.temporary, self.stream = locked_file(self.target)
            self.stream.write(data)
        self.stream.flush()
        return self.temporary

    def value(self) -> bytes:
        """Everything, while it is in memory."""
        assert isinstance(self.stream, io.BytesIO)
        return self.stream.getvalue()

    def publish(self) -> None:
        """Move the temporary file to its place."""
        os.replace(self.spill(), self.target)
        self.temporary = None

    def discard(self) -> None:
        """Close the file, and remove it unless it was published."""
        self.stream.close()
        if self.temporary is not None:
            self.temporary.unlink(missing_ok=True)


def _write(
    read: Callable[[], Iterable[Line]],
    packed: Callable[[], Iterable[bytes] | None],
    rows: _Spool,
    stored: _Spool,
    name: str,
) -> None:
    """Write the table, and the lines that are to be kept."""
    blocks = packed()
    for block in blocks if blocks is not None else pack_rows(read(), stored):
        rows.write(block)
    if not rows.size:
        raise ManifestError(f"{name}: holds no records; expected at least one")


def pack_rows(lines: Iterable[Line], stored: _Spool | None = None) -> Iterator[bytes]:
    """The rows of a table, many at once.

    Args:
        lines: The records, in order.
        stored: Collects the lines; None if the source is a file with one record per line.
    """
    chunk = bytearray()
    pack, limit = _PACKED.pack, _CHUNK * ROW.itemsize
    for record, at, size, line in lines:
        if at is None:
            assert stored is not None
            at, size = stored.size, len(line)
            stored.write(line)
        messages = record.messages
        chars = 0
        for message in messages:
            chars += len(message["content"])
        answered = bool(messages) and messages[-1]["role"] == "assistant"
        chunk += pack(at, size, _hash_bytes(record.id), chars, answered, bool(messages))
        if len(chunk) >= limit:
            yield bytes(chunk)
            chunk.clear()
    yield bytes(chunk)


def _check_ids(
    rows: np.ndarray, lines: bytes | Path, parse: Callable[[bytes, int, bool], Record], name: str
) -> None:
    """Refuse two records with one id; equal hashes of different ids are no problem."""
    repeated = repeated_hashes([rows])
    if not len(repeated):
        return
    records = IndexedRecords(rows, lines, parse, name)
    seen: dict[str, str] = {}
    for index in np.flatnonzero(np.isin(rows["id_hash"], repeated)):
        record = records[int(index)]
        note_id(record.id, record.source, seen)


def repeated_hashes(tables: Sequence[np.ndarray]) -> np.ndarray:
    """The hashes of ids that occur more than once in the tables together."""
    hashes = np.empty(sum(map(len, tables)), np.uint64)
    at = 0
    for rows in tables:
        for first in range(0, len(rows), _SORTED_ROWS):  # numpy copies a column of packed rows as a whole
            part = rows["id_hash"][first : first + _SORTED_ROWS]
            hashes[at : at + len(part)] = part
            at += len(part)
            release(rows)
    return repeated_values(hashes)


def release(rows: np.ndarray) -> None:
    """Unmap the pages of a mapped table; pages just written count as memory of this process until they are on disk."""
    mapped = getattr(rows, "_mmap", None)
    if mapped is not None:
        mapped.madvise(mmap.MADV_DONTNEED)


def repeated_values(hashes: np.ndarray) -> np.ndarray:
    """The values that occur more than once, each once; `hashes` is sorted in its place."""
    hashes.sort()
    found = [hashes[:0]]
    for first in range(0, len(hashes), _SORTED_ROWS - 1):
        part = hashes[first : first + _SORTED_ROWS]
        found.append(part[:-1][part[1:] == part[:-1]])
    return np.unique(np.concatenate(found))


def _mapped(table: Path, lines: Path | None = None) -> np.ndarray:
    """Memory-map the table in a file.

    Raises:
        ValueError: Its last row does not end at the end of `lines`.
    """
    rows: np.ndarray = np.memmap(table, ROW, "r")
    end = int(rows[-1]["at"]) + int(rows[-1]["size"])
    if lines is not None and not end <= lines.stat().st_size <= end + 1:  # a line end may follow
        raise ValueError(f"{table}: is damaged")
    return rows


def _content(path: Path) -> bytes | Path:
    """The content of a small file, so that later changes of the file have no effect; the path of a large file."""
    if path.stat().st_size > _SMALL_BYTES:
        return path
    with open_regular(path) as stream:
        return stream.read()


def _state(files: Sequence[Path]) -> str:
    """A hash of the names, sizes and times of files, and of the heads and tails of a few."""
    digest = hashlib.sha256()
    for number, path in enumerate(files):
        try:
            status = path.stat()
            digest.update(os.fsencode(path.resolve()))
            digest.update(f"|{status.st_size}|{status.st_mtime_ns}\n".encode())
            if number < _SAMPLED_FILES and status.st_size and not is_remote(path):
                with open_regular(path) as stream:
                    digest.update(stream.read(_SAMPLED_BYTES))
                    stream.seek(max(0, status.st_size - _SAMPLED_BYTES))
                    digest.update(stream.read(_SAMPLED_BYTES))
        except (OSError, ValueError) as error:
            raise ManifestError(f"{path}: cannot be read ({reason(error)}); check the path") from error
    return digest.hexdigest()[:20]


def _remove_older(folder: Path, of_source: str, stem: str) -> None:
    """Remove the indices of earlier states of a source, but not one that another process has just written."""
    for path in folder.glob(f"{of_source}-*"):
        if not path.name.startswith(stem):
            path.unlink(missing_ok=True)
