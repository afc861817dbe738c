"""Sources of records: recognising the format, and opening several sources as one sequence, read on access."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import numpy as np

from alm.common.errors import ConfigError, ManifestError
from alm.common.storage.remote import check_protocol, is_folder, is_remote, path_exists, to_path
from alm.data.index import IndexedRecords, repeated_hashes
from alm.data.readers import READERS
from alm.data.readers.base import DataSource, as_source
from alm.data.records import LazySequence, Record, note_id
from alm.data.scenes.events import is_label_table
from alm.data.shards import INDEX, ShardedRecords, is_shard_folder
from encoders.audio import AUDIO_SUFFIXES

T = TypeVar("T")


class Chain(LazySequence[T]):
    """Several sequences as one, without copying them.

    Args:
        parts: The sequences.
    """

    def __init__(self, parts: Sequence[Sequence[T]]) -> None:
        self.parts = [part for part in parts if len(part)]
        self.ends = list(accumulate(len(part) for part in self.parts))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def item(self, index: int) -> T:
        """An item of the part that it is in."""
        part = bisect_right(self.ends, index)
        return self.parts[part][index - (self.ends[part - 1] if part else 0)]

    def __iter__(self) -> Iterator[T]:
        return (item for part in self.parts for item in part)


_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"BZh", b"PK\3\4", b"\xfd7zX")  # gzip, zstd, bzip2, zip, xz


def open_records(sources: Sequence[str | DataSource], audio_only: bool = False) -> Sequence[Record]:
    """Open several sources as one sequence of records, which are read on access.

    Args:
        sources: Files and folders in any format (`alm list formats`), as paths or with settings.
        audio_only: Accept records without text, for pretraining.

    Raises:
        ManifestError: A source cannot be read.
        ConfigError: Two sources use the same id, or the format of one is unclear.
    """
    parts = [open_source(source, audio_only) for source in sources]
    _check_ids(parts)
    if not parts:
        return []
    return parts[0] if len(parts) == 1 else Chain(parts)


def open_source(source: str | DataSource, audio_only: bool = False) -> Sequence[Record]:
    """Open one source; see `open_records`."""
    source = resolve_source(source)
    assert source.format is not None
    reader = READERS.get(source.format)
    reader.check(source)
    if reader.local and not path_exists(source.path):
        raise ManifestError(
            f"{source.path}: no such file or folder; expected data of format '{source.format}'"
        )
    return reader.open(source, audio_only)


def resolve_source(source: str | DataSource) -> DataSource:
    """A source with its format, which is recognised if none is given.

    Raises:
        ConfigError: There is no such format, or several formats fit; names them.
        ManifestError: A folder is in no known format.
    """
    source = as_source(source)
    check_protocol(source.path)
    if source.format is not None:
        READERS.get(source.format)  # unknown: names the nearest
        return source
    found = formats_of(source.path)
    if len(found) > 1:
        raise ConfigError(
            f"{source.path}: could be {' or '.join(found)}; say which: {{path: {source.path}, format: {found[0]}}}"
        )
    if not found and is_folder(source.path):
        known = ", ".join(READERS.names())
        raise ManifestError(
            f"{source.path}: no shard index ({INDEX}), and in no other known format ({known}); name the file, or "
            "give path and format"
        )
    if not found and not is_remote(source.path) and _is_compressed(source.path):
        raise ManifestError(f"{source.path}: is a compressed file; unpack it (gunzip, unzstd, unzip, tar -x)")
    return replace(source, format=found[0] if found else "manifest")


def _is_compressed(path: str) -> bool:
    if not Path(path).is_file():
        return False
    with suppress(OSError), Path(path).open("rb") as stream:
        return stream.read(4).startswith(_COMPRESSED)
    return False


def formats_of(path: str) -> list[str]:
    """Names of the formats that a file or folder can be read as; a special format comes before a general one."""
    if not _exists(path):
        return []
    found = [name for name in READERS.names() if READERS.get(name).recognises(to_path(path))]
    # A data set's folder also holds audio, and any manifest is a table; those formats are asked for by name.
    for general in ("audiofolder", "table"):
        if len(found) > 1 and general in found:
            found.remove(general)
    return found


def _exists(path: str) -> bool:
    try:
        return path_exists(path)
    except ValueError:  # a NUL character
        return False


def parts_of(records: Sequence[Record]) -> Sequence[Sequence[Record]]:
    """The sources that `open_records` combined."""
    return records.parts if isinstance(records, Chain) else [records]


def _check_ids(parts: Sequence[Sequence[Record]]) -> None:
    if len(parts) < 2:
        return  # the reader or writer of a single source has checked its ids
    repeated = repeated_hashes([part.rows for part in parts])  # type: ignore[attr-defined]
    seen: dict[str, str] = {}
    for part in parts if len(repeated) else ():
        rows = np.flatnonzero(np.isin(part.rows["id_hash"], repeated))  # type: ignore[attr-defined]
        for record in (part[int(row)] for row in rows):  # few, if any; two ids may also share a hash
            note_id(record.id, record.source, seen, ConfigError)


def is_records_source(source: str | DataSource) -> bool:
    """Whether a source is records, not a folder of audio or a table with ESC-50's columns (for pretraining)."""
    if isinstance(source, DataSource) and (source.format is not None or source.given()):
        return True
    path = str(source)
    if is_remote(path):
        return True
    if not os.path.isdir(path):
        return Path(path).suffix.lower() != ".csv" or not is_label_table(Path(path))
    return (
        is_shard_folder(path)
        or bool(formats_of(path))
        and formats_of(path) != ["audiofolder"]
        and not any(item.suffix.lower() in AUDIO_SUFFIXES for item in Path(path).rglob("*"))
    )


def folder_states(sources: Sequence[str | DataSource]) -> dict[str, str]:
    """A hash of the names and sizes of all files in those sources that are folders, for the fingerprint.

    Returns:
        `data` and the hash; empty if no source is such a folder. Shard folders, which have an index, do not count.
    """
    digest, found = hashlib.sha256(), False
    for source in sources:
        path = to_path(str(source))
        if not is_folder(path) or is_shard_folder(path) or not is_records_source(source):
            continue
        resolved = resolve_source(source)
        assert resolved.format is not None
        found = True
        for file in READERS.get(resolved.format).files(resolved):
            digest.update(f"{file.relative_to(path).as_posix()}:{file.stat().st_size}\n".encode())
    return {"data": digest.hexdigest()} if found else {}


def first_unanswered(records: Sequence[Record]) -> str | None:
    """`file:line` of the first record without an answer, or None; it is read from the index."""
    if isinstance(records, Chain):
        return next(filter(None, (first_unanswered(part) for part in records.parts)), None)
    if isinstance(records, ShardedRecords | IndexedRecords):
        answered = records.rows["answered"]
        return None if answered.all() else records.source(int(np.argmin(answered)))
    unanswered = (r.source for r in records if not r.messages or r.messages[-1]["role"] != "assistant")
    return next(unanswered, None)
