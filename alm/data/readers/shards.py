"""Shard directories written by `alm data shard`, see `alm.data.shards`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from alm.common.errors import ConfigError, ManifestError
from alm.data.readers.base import DataSource, Reader, Row
from alm.data.records import Record
from alm.data.shards import ShardedRecords, is_shard_folder


class ShardReader(Reader):
    """Records and audio in tar files with an index."""

    def recognises(self, path: Path) -> bool:
        """A folder with a shard index."""
        return is_shard_folder(path)

    def open(self, source: DataSource, audio_only: bool = False) -> Sequence[Record]:
        """See the base class."""
        if source.limit is not None:
            raise ConfigError(f"{source.path}: format 'shards' takes no 'limit'; remove it")
        return ShardedRecords(source.path, audio_only)

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        raise ManifestError(f"{source.path}: shards need no conversion")


READER = ShardReader()
