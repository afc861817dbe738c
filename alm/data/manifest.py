"""Manifests: JSON Lines files of records, each a clip and a conversation about it.

One line is one record::

    {"id": "r1", "audio": "a.wav", "question": "What is this sound?", "answer": "a bell"}
    {"id": "r2", "audio": {"path": "a.wav", "start_s": 1.0, "end_s": 3.5}, "captions": ["A bell rings.", ...]}
    {"id": "r3", "audio": ["a.wav", "b.wav"], "messages": [{"role": "user", "content": "..."}, ...]}
    {"id": "r4", "audio": "a.wav"}

The last form, audio without text, is for pretraining an encoder; all other stages refuse it.

Relative audio paths start from the folder of the manifest. No line is ever skipped: a line that is not a valid
record is an error that names file and line.
"""

import json
import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from alm.common.errors import ManifestError, UserError
from alm.common.files import locked_file, open_regular, reason, remove_leftovers
from alm.common.json_text import parse_json
from alm.common.storage.remote import to_path
from alm.data.index import IndexedRecords, Line, id_hash, open_index, pack_rows, repeated_values
from alm.data.records import Record, check_record, note_id, parse_record
from alm.data.row_processes import rows_by_processes


def read_manifest(
    path: str | os.PathLike[str], check_files: bool = False, audio_only: bool = False
) -> list[Record]:
    """Read every record of a manifest.

    Args:
        path: A UTF-8 JSON Lines file, or a directory written by `alm data shard`.
        check_files: Also check that every audio file exists (one `stat` per file).
        audio_only: Accept records without text, for pretraining.

    Returns:
        The records in file order.

    Raises:
        ManifestError: The file is missing or empty, or a line is not a record; file and line are named.
    """
    path = to_path(path)
    if path.is_dir():
        from alm.data.shards import ShardedRecords

        return list(ShardedRecords(path, audio_only))
    records: list[Record] = []
    seen: dict[str, str] = {}
    for number, _, line in _lines(path):
        record = _parse_manifest_line(path, line, number, audio_only)
        note_id(record.id, record.source, seen)
        if check_files:
            for ref in record.audio:
                if not ref.exists():
                    raise ManifestError(
                        f"{record.source}: no audio file {ref.path}; fix 'audio' or restore the file"
                    )
        records.append(record)
    return records


def open_manifest(path: str | os.PathLike[str], audio_only: bool = False) -> IndexedRecords:
    """Open a manifest without keeping its records in memory; see `alm.data.index`.

    Args:
        path: A UTF-8 JSON Lines file.
        audio_only: Accept records without text, for pretraining.

    Returns:
        The records in file order.

    Raises:
        ManifestError: The file is missing or empty, or a line is not a record; file and line are named.
    """
    path = to_path(path)
    records = open_index(
        str(path),
        f"manifest|{path.absolute()}",
        [path],
        partial(manifest_lines, path),
        partial(_parse_manifest_line, path),
        lines=path,
        packed=partial(rows_by_processes, path, "alm.data.manifest"),
    )
    return records if audio_only else records.with_text()


def manifest_lines(path: Path, start: int = 0, stop: int | None = None, first: int = 0) -> Iterator[Line]:
    """The lines of a manifest, checked; audio alone is accepted.

    Args:
        path: The manifest.
        start: Offset of the first line in bytes.
        stop: Offset behind the last line; None is the end of the file.
        first: Number of the first line, from 0.

    Raises:
        ManifestError: As in `read_manifest`.
    """
    name = str(path)
    for number, at, line in _lines(path, start, stop, first):
        source = f"{name}:{number + 1}"
        yield Line(check_record(_parse_line(line, source, number), source, True), at, len(line))


def _lines(
    path: Path, start: int = 0, stop: int | None = None, first: int = 0
) -> Iterator[tuple[int, int, bytes]]:
    """Number from 0, offset in bytes and content of lines of a manifest."""
    try:
        with open_regular(path) as stream:
            stream.seek(start)
            at = start
            for number, line in enumerate(stream, start=first):
                if at == stop:
                    return
                yield number, at, line.removesuffix(b"\n")
                at += len(line)
            if not at:
                raise ManifestError(f"{path}: the manifest is empty; expected one JSON record per line")
    except (OSError, ValueError) as problem:
        raise ManifestError(
            f"{path}: cannot be read ({reason(problem)}); expected a JSONL manifest"
        ) from problem


def _parse_manifest_line(path: Path, line: bytes, number: int, audio_only: bool) -> Record:
    source = f"{path}:{number + 1}"
    return parse_record(_parse_line(line, source, number), path.parent, source, audio_only)


def write_manifest(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest; the file appears complete or not at all.

    Args:
        path: The file to write; its folder must exist.
        records: One mapping per line, in the form read here; each is checked, none is kept in memory.

    Raises:
        ManifestError: A record that could not be read back, or the file cannot be written.
    """
    with ManifestWriter(path) as writer:
        for record in records:
            writer.add(record)


class ManifestWriter:
    """Writes a manifest record by record; the file appears when the `with` block ends without an error.

    Args:
        path: The file to write; its folder must exist.

    Raises:
        ManifestError: A record that could not be read back, two with one id, or the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.written = 0
        self._hashes = array("Q")

    def __enter__(self) -> Self:
        with self._typed_errors():
            remove_leftovers(self.path)
            self._temporary, self._stream = locked_file(self.path)
        return self

    def add(self, record: Mapping[str, Any]) -> None:
        """Check and write one record, a mapping in the form read here."""
        source = f"{self.path}:{self.written + 1}"
        try:
            line = json.dumps(record, ensure_ascii=False, allow_nan=False)
            data = line.encode()
        except (TypeError, ValueError, RecursionError) as error:
            raise ManifestError(f"{source}: a value cannot be written as JSON ({error})") from error
        checked = check_record(_parse_line(data, source, self.written), source)  # what a reader will get
        self._hashes.append(id_hash(checked.id))
        self.written += 1
        with self._typed_errors():
            self._stream.write(data + b"\n")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._check_ids()
                with self._typed_errors():
                    self._stream.flush()
                    os.replace(self._temporary, self.path)
        finally:
            with suppress(OSError):
                self._stream.close()
            self._temporary.unlink(missing_ok=True)

    def _check_ids(self) -> None:
        """Refuse two records with one id: lines whose ids share a hash are read once more."""
        hashes = np.frombuffer(self._hashes, np.uint64)
        repeated = set(repeated_values(hashes.copy()).tolist())
        if not repeated:
            return
        with self._typed_errors():
            self._stream.flush()
        seen: dict[str, str] = {}
        for number, _, line in _lines(self._temporary):
            if self._hashes[number] in repeated:
                source = f"{self.path}:{number + 1}"
                note_id(check_record(_parse_line(line, source, number), source).id, source, seen)

    @contextmanager
    def _typed_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as problem:
            raise ManifestError(
                f"{self.path}: cannot be written ({reason(problem)}); choose a folder that exists, is writable and has "
                "room"
            ) from problem


def _parse_line(line: bytes, source: str, number: int) -> dict[str, Any]:
    if not number:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{source}: byte {error.start} is not UTF-8; save the manifest as UTF-8"
        ) from error
    if not text.strip():
        raise ManifestError(f"{source}: blank line; expected a JSON record, remove the line")
    data = parse_json(text, source)
    if not isinstance(data, dict):
        raise ManifestError(f'{source}: got a JSON {type(data).__name__}; expected an object {{"id": …}}')
    return data


def _write_rows() -> int:
    """Write the index rows of some lines to the standard output; see `alm.data.row_processes`."""
    path, start, stop, first = sys.argv[1], *map(int, sys.argv[2:])
    try:
        for block in pack_rows(manifest_lines(to_path(path), start, stop, first)):
            sys.stdout.buffer.write(block)
        sys.stdout.buffer.flush()
    except (UserError, OSError):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_write_rows())
