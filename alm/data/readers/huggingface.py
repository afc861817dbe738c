"""Data sets of the `datasets` library: `save_to_disk` folders, parquet and Arrow files, and names on the hub.

Columns hold audio (the `Audio` feature, or `bytes` and `path`), labels (`ClassLabel`) and text. `split` is one of the
data set's, by default the only one. With `streaming: true` rows are read one after another from the hub, at most
`limit`, and their audio is kept in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, ManifestError
from alm.common.storage.remote import to_path
from alm.data.huggingface import (
    FILES,
    audio_and_labels,
    is_saved,
    load_arguments,
    opened,
    typed_errors,
)  # fmt: skip
from alm.data.readers.base import DataSource, Reader, Row, folder_of
from alm.data.readers.normalise import to_row


class HuggingFaceReader(Reader):
    """Rows of a `datasets` data set."""

    takes = ("columns", "prompt", "split", "streaming", "audio")
    local = False

    def recognises(self, path: Path) -> bool:
        """A `save_to_disk` folder, or a parquet or Arrow file or folder of them."""
        if path.is_dir():
            return is_saved(path) or bool(_data_files(path))
        return path.suffix in FILES and path.is_file()

    def files(self, source: DataSource) -> list[Path]:
        """The files of a local data set."""
        path = to_path(source.path)
        if not path.exists():
            return []
        if path.is_dir() and is_saved(path):
            return sorted(item for item in path.rglob("*") if item.suffix in (".arrow", ".json"))
        return _data_files(path) if path.is_dir() else [path]

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        split = source.split or ""
        if source.streaming:
            yield from _streamed(source)
            return
        data = opened(source.path, split)
        audio, labels = audio_and_labels(data.features)
        text = data.remove_columns([name for name in audio if name in data.column_names])
        names = {name: _audio_names(data, name) for name in audio}
        folder = _folder(source)
        for number in range(len(data)):
            values = dict(text[number]) if text.column_names else {}
            where = f"{source.path}: row {number}"
            embedded: dict[str, Any] = {}
            for column in audio:
                items, inside = _audio_cell(source.path, split, number, column, names[column][number], where)
                if inside:
                    embedded[column] = inside
                else:
                    values[column] = items
            yield to_row(_with_labels(values, labels, where), where, folder, source, embedded)


def _with_labels(values: dict[str, Any], labels: dict[str, Any], where: str) -> dict[str, Any]:
    for column, names in labels.items():
        number = values.get(column)
        if isinstance(number, int) and 0 <= number < len(names):
            values[column] = names[number]
        elif number is not None:
            raise ManifestError(
                f"{where}: {column!r} is {number!r}, which is none of its {len(names)} classes"
            )
    return values


def _audio_names(data: Any, column: str) -> list[Any]:
    """The path of every cell of an audio column, and whether it holds bytes; the bytes are not read."""
    import pyarrow.compute as pc

    found: list[Any] = []
    table = data.with_format("arrow")
    for start in range(0, len(data), 1000):
        cells = table[start : start + 1000][column]
        if hasattr(cells, "combine_chunks"):
            cells = cells.combine_chunks()
        if cells.type.num_fields == 0:  # plain bytes
            found += [None if not ok else ("", True) for ok in pc.is_valid(cells).to_pylist()]
            continue
        if str(cells.type).startswith(("list", "large_list")):
            found += [
                None
                if cell is None
                else [((item or {}).get("path"), bool((item or {}).get("bytes"))) for item in cell]
                for cell in cells.to_pylist()
            ]
            continue
        paths = pc.struct_field(cells, "path").to_pylist()
        inside = pc.is_valid(pc.struct_field(cells, "bytes")).to_pylist()
        valid = pc.is_valid(cells).to_pylist()
        found += [
            cell if ok else None for cell, ok in zip(zip(paths, inside, strict=True), valid, strict=True)
        ]
    return found


def _audio_cell(path: str, split: str, row: int, column: str, cell: Any, where: str) -> tuple[Any, Any]:
    """Paths of a cell that names files; or descriptions of the recordings inside it."""
    if cell is None:
        return None, None
    if isinstance(cell, list):
        parts = [_one(path, split, row, column, item, place, where) for place, item in enumerate(cell)]
        if any(inside for _, inside in parts):
            if not all(inside for _, inside in parts):
                raise ManifestError(
                    f"{where}: {column!r} mixes files and recordings; write the data set again"
                )
            return None, [inside for _, inside in parts]
        return [name for name, _ in parts], None
    return _one(path, split, row, column, cell, -1, where)


def _one(path: str, split: str, row: int, column: str, cell: Any, place: int, where: str) -> tuple[Any, Any]:
    name, has_bytes = cell
    if not has_bytes:
        if not name:
            raise ManifestError(
                f"{where}: {column!r} holds neither bytes nor a path; write the data set again"
            )
        return name, None
    more = "" if place < 0 else f"[{place}]"
    suffix = Path(name).suffix if isinstance(name, str) else ""
    named = f"{split or 'rows'}[{row}].{column}{more}{suffix}"
    described = {"kind": "dataset", "path": path, "name": named, "row": row, "column": column, "place": place}
    return None, {**described, "split": split}


def _streamed(source: DataSource) -> Iterator[Row]:
    import datasets

    if source.limit is None:
        raise ConfigError(f"{source.path}: streaming needs limit, the number of rows to read; give one")
    with typed_errors(source.path):
        data = datasets.load_dataset(
            *load_arguments(source.path), split=source.split or "train", streaming=True
        )
        audio, labels = audio_and_labels(data.features or {})
        for column in audio:
            data = data.cast_column(column, datasets.Audio(decode=False))
        for number, values in enumerate(data.take(source.limit)):
            where = f"{source.path}: row {number}"
            yield to_row(_with_labels(dict(values), labels, where), where, _folder(source), source)


def _folder(source: DataSource) -> Path:
    return folder_of(source, to_path(source.path)) if source.audio else Path()


def _data_files(path: Path) -> list[Path]:
    return sorted(item for kind in FILES for item in path.rglob(f"*{kind}"))


READER = HuggingFaceReader()
