"""Rows of the tables of corpora, CSV, JSON, JSON lines or parquet alike, and finding the tables."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError
from alm.common.files import read_text
from alm.common.json_text import first_character, json_items, read_json
from alm.common.tables import read_csv


@dataclass(frozen=True)
class Row:
    """One row of a table, or one object of a JSON list.

    Attributes:
        where: Its place, for errors: `file:line` or `file: entry number`.
        values: Its cells by column name, as read.
    """

    where: str
    values: Mapping[str, Any]

    def text(self, key: str) -> str:
        """Required text, without spaces around it; a number is written as text.

        Raises:
            ManifestError: It is missing, empty, null, or neither text nor number.
        """
        found = self.get(key)
        if not found:
            raise ManifestError(
                f"{self.where} has no {key!r} (got {self.values.get(key)!r:.80}); fill it in, or remove the entry"
            )
        return found

    def get(self, key: str) -> str:
        """Optional text, without spaces around it; empty if it is missing or null.

        Raises:
            ManifestError: It is neither text nor a number.
        """
        value = self.values.get(key)
        return "" if value is None else self._as_text(key, value)

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts; none where it is missing or null.

        Raises:
            ManifestError: It is no list, or one of its items is empty, null, or neither text nor number.
        """
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise ManifestError(f"{self.where}: {key!r} is {value!r:.80}; expected a list of texts")
        found = tuple("" if item is None else self._as_text(key, item) for item in value)
        if not all(found):
            raise ManifestError(
                f"{self.where}: {key!r} is {value!r:.80}; expected a list without empty items"
            )
        return found

    def seconds(self, key: str) -> float:
        """A time in seconds.

        Raises:
            ManifestError: It is no finite number of seconds, 0 or more.
        """
        text = self.text(key)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not 0 <= value < 1e8:
            raise ManifestError(
                f"{self.where}: {key!r} is {text!r:.80}; expected a time in seconds, 0 or more"
            )
        return value

    def _as_text(self, key: str, value: Any) -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number and not isinstance(value, str):
            raise ManifestError(f"{self.where}: {key!r} is {value!r:.80}; expected text")
        return str(value).strip()


def csv_rows(path: Path, columns: Sequence[str] = (), **options: Any) -> Iterator[Row]:
    """Rows of a CSV table; see `alm.common.tables.read_csv` for the arguments.

    Raises:
        ManifestError: It cannot be read, a column is missing, or it has no rows.
    """
    where = ""
    for where, values in read_csv(path, columns, **options):
        yield Row(where, values)
    if not where:
        raise ManifestError(f"{path}:1: no clips below the header; expected at least one row")


def table_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """Rows of a table in any form: those of `csv_rows` where the suffix is `.csv`, else those of `object_rows`.

    Raises:
        ManifestError: It cannot be read, is empty, or lacks one of the fields.
    """
    return csv_rows(path, fields) if path.suffix == ".csv" else object_rows(path, fields)


def named_lines(path: Path) -> Iterator[Row]:
    """Lines of a name and a text, separated by the first space or tab: rows with `id` and `text`.

    Raises:
        ManifestError: It cannot be read, is empty, or a line has no text.
    """
    number = 0
    for number, line in enumerate(read_text(path, "a table of names and texts").splitlines(), start=1):
        name, *rest = line.strip().split(maxsplit=1)[:2] or [""]
        yield Row(f"{path}:{number}", {"id": name, "text": "".join(rest)})
    if not number:
        raise ManifestError(f"{path}: is empty; expected a name and a text in each line")


def object_rows(path: Path, fields: Sequence[str]) -> Iterator[Row]:
    """Objects of a JSON list, at the top or under `data`, of a JSON lines file or of a parquet file.

    Args:
        path: The file; the suffix says which.
        fields: Keys that every object must have; a value may still be null.

    Raises:
        ManifestError: It cannot be read, is empty, or an object lacks a key.
    """
    where = ""
    for where, item in _objects(path):
        lacking = [key for key in fields if not isinstance(item, dict) or key not in item]
        if lacking:
            raise ManifestError(f"{where} has no field {lacking[0]!r}; expected {', '.join(fields)}")
        yield Row(where, item)
    if not where:
        raise ManifestError(f"{path}: is empty; expected a list of objects, at least one")


def _objects(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".parquet":
        yield from ((f"{path}: entry {number}", item) for number, item in enumerate(_parquet(path)))
    elif path.suffix == ".jsonl" or first_character(path) == "[":
        yield from json_items(path)
    else:
        items = read_json(path)
        items = items.get("data") if isinstance(items, dict) else items
        if not isinstance(items, list):
            raise ManifestError(
                f"{path}: no list of entries at the top or under 'data'; download the file again"
            )
        yield from ((f"{path}: entry {number}", item) for number, item in enumerate(items))


def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            for batch in table.iter_batches(1024):
                yield from batch.to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise ManifestError(
            f"{path}: cannot be read as parquet ({' '.join(str(error).split()):.200}); download the file again"
        ) from error


def find_files(root: Path, names: Sequence[str]) -> dict[str, Path]:
    """Find files by name below a folder; if a name occurs several times, the file nearest to the folder.

    Args:
        root: Searched at any depth; links to folders are followed once.
        names: Names, or ends of paths such as `tta/dev/train.json`.

    Returns:
        The files that are there, by name.

    Raises:
        ManifestError: The folder is missing or cannot be read, or two files of one name are at the same depth.
    """
    found: dict[str, Path] = {}
    level: list[Path] = [root]
    seen: set[tuple[int, int]] = set()
    while level and len(found) < len(names):
        deeper: list[Path] = []
        here: dict[str, Path] = {}
        for folder in level:
            for name in names:
                if name not in found and (folder / name).is_file():
                    if name in here:
                        raise ManifestError(
                            f"{root}: holds {name} twice ({here[name]}, {folder / name}); name a narrower folder"
                        )
                    here[name] = folder / name
            deeper += _folders_in(folder, seen)
        found |= here
        level = deeper
    return found


def _folders_in(folder: Path, seen: set[tuple[int, int]]) -> list[Path]:
    """Folders in a folder, sorted, without those that were visited before through another link."""
    try:
        stat = os.stat(folder)
        if (stat.st_dev, stat.st_ino) in seen:
            return []
        seen.add((stat.st_dev, stat.st_ino))
        with os.scandir(folder) as places:
            return sorted(Path(place.path) for place in places if _is_folder(place))
    except OSError as error:
        raise ManifestError(
            f"{folder}: no such folder, or it cannot be read ({error.strerror}); check the path"
        ) from error


def _is_folder(place: os.DirEntry[str]) -> bool:
    try:
        return place.is_dir()
    except OSError:  # a cycle of links
        return False


def grouped(rows: Iterator[tuple[Any, Row]]) -> dict[Any, list[Row]]:
    """Rows by key, both in the order in which they first come."""
    found: dict[Any, list[Row]] = {}
    for key, row in rows:
        found.setdefault(key, []).append(row)
    return found
