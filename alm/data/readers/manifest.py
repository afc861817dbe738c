"""This toolkit's manifests: JSON Lines, see `alm.data.manifest`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.manifest import open_manifest
from alm.data.readers.base import DataSource, Reader, Row, first_value
from alm.data.readers.conversations import is_manifest_row
from alm.data.records import Record


class ManifestReader(Reader):
    """Records in this toolkit's own form; they are read in place, without conversion."""

    def recognises(self, path: Path) -> bool:
        """JSON Lines whose first record is in this form, also if a part of it is missing."""
        value = first_value(path, lines=True)
        return value is not None and is_manifest_row(value)

    def open(self, source: DataSource, audio_only: bool = False) -> Sequence[Record]:
        """See the base class."""
        records = open_manifest(source.path, audio_only)
        return records if source.limit is None else records.first(source.limit)

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        raise ManifestError(f"{source.path}: a manifest needs no conversion")


READER = ManifestReader()
