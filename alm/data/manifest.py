"""Manifests: JSON Lines files that say which audio goes with which conversation.

One line is one record::

    {"id": "r1", "audio": "a.wav", "question": "What is this sound?", "answer": "a bell"}
    {"id": "r2", "audio": {"path": "a.wav", "start_s": 1.0, "end_s": 3.5}, "captions": ["A bell rings.", ...]}
    {"id": "r3", "audio": ["a.wav", "b.wav"], "messages": [{"role": "user", "content": "..."}, ...]}
    {"id": "r4", "audio": "a.wav"}

The last form, audio alone, is for pretraining an encoder; whatever asks for text refuses it.

Relative audio paths start from the folder of the manifest. No line is ever skipped: one that cannot be read
is an error naming file and line.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError
from alm.common.files import write_text_atomic
from alm.data.records import Record, parse_record


def read_manifest(
    path: str | os.PathLike[str], check_files: bool = False, audio_only: bool = False
) -> list[Record]:
    """Read every record of a manifest.

    Args:
        path: A UTF-8 JSON Lines file, or a directory written by `alm data shard`.
        check_files: Also look whether every audio file exists (one `stat` per record).
        audio_only: Take records that say nothing about their audio, as pretraining does.

    Returns:
        The records in file order.

    Raises:
        ManifestError: The file is missing or empty, or a line is not a record; file and line are named.
    """
    path = Path(path)
    if path.is_dir():
        from alm.data.shards import ShardedRecords

        return list(ShardedRecords(path, audio_only))
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ManifestError(f"{path}: cannot read it ({error.strerror}); expected a JSONL file") from error
    lines = raw.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":  # what follows the last newline is not a line
        lines.pop()
    if not lines:
        raise ManifestError(f"{path}: the manifest is empty; expected one JSON record per line")
    records: list[Record] = []
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        source = f"{path}:{number}"
        record = parse_record(_parse_line(line, source), path.parent, source, audio_only)
        _note_id(record.id, source, seen)
        if check_files:
            for ref in record.audio:
                if not ref.exists():
                    raise ManifestError(
                        f"{source}: no audio file {ref.path}; fix 'audio' or restore the file"
                    )
        records.append(record)
    return records


def write_manifest(path: str | os.PathLike[str], records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a manifest, whole or not at all.

    Args:
        path: The file to write; its folder must exist.
        records: One mapping per line, in the form read here; all are checked before anything is written.

    Raises:
        ManifestError: A record that could not be read back, or a file that cannot be written.
    """
    path = Path(path)
    lines: list[str] = []
    seen: dict[str, str] = {}
    for number, record in enumerate(records, start=1):
        source = f"{path}:{number}"
        _note_id(parse_record(dict(record), path.parent, source).id, source, seen)
        lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    write_text_atomic(path, "".join(lines))


def _note_id(identifier: str, source: str, seen: dict[str, str]) -> None:
    if identifier in seen:
        raise ManifestError(f"{source}: id {identifier!r} is used at {seen[identifier]} too; make ids unique")
    seen[identifier] = source


def _parse_line(line: bytes, source: str) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{source}: byte {error.start} is not UTF-8; save the manifest as UTF-8"
        ) from error
    if not text.strip():
        raise ManifestError(f"{source}: blank line; expected a JSON record, remove the line")
    try:
        data = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except ValueError as error:
        raise ManifestError(f"{source}: broken JSON ({error}); expected one object per line") from error
    if not isinstance(data, dict):
        raise ManifestError(f'{source}: got a JSON {type(data).__name__}; expected an object {{"id": …}}')
    return data


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} given twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")
