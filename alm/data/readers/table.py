"""Tables: CSV, TSV, JSON or JSON Lines with a recording and its text in the columns of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError, shown
from alm.common.json_text import json_items
from alm.common.storage.remote import to_path
from alm.common.tables import read_csv
from alm.data.readers.base import DataSource, Reader, Row, first_value, folder_of
from alm.data.readers.conversations import is_conversation, is_manifest_row
from alm.data.readers.normalise import to_row

_DELIMITERS = {".csv": ",", ".tsv": "\t"}


class TableReader(Reader):
    """Rows with columns; `columns` maps the fields of a record to columns."""

    takes = ("columns", "prompt", "audio")

    def recognises(self, path: Path) -> bool:
        """A `.csv` or `.tsv` file, or JSON whose first object is neither a manifest's nor a conversation."""
        if path.suffix.lower() in _DELIMITERS:
            return path.is_file()
        value = first_value(path)
        if value is None or is_conversation(value):
            return False
        return not is_manifest_row(value) or first_value(path, lines=True) is None

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        path = to_path(source.path)
        folder = folder_of(source, path)
        for where, values in table_rows(path):
            yield to_row(values, where, folder, source)


def table_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of a CSV, TSV, JSON or JSON Lines table.

    Raises:
        ManifestError: The table cannot be read, or a JSON item is not an object.
    """
    delimiter = _DELIMITERS.get(path.suffix.lower())
    if delimiter is not None:
        yield from read_csv(path, delimiter=delimiter)
        return
    for where, value in json_items(path):
        if not isinstance(value, dict):
            raise ManifestError(f"{where}: got {shown(value, 80)}; expected an object with columns as keys")
        yield where, value


READER = TableReader()
