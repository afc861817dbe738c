"""Folders of audio: a folder per class, or `metadata.csv` / `metadata.jsonl` with `file_name`, as `datasets` has them.

`split` names a folder below (`train`, `test`) that is read alone. Without metadata the name of a recording's folder is
its label, which becomes the answer to `prompt`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.common.errors import ConfigError, ManifestError
from alm.common.storage.remote import to_path
from alm.data.readers.base import DataSource, Reader, Row
from alm.data.readers.normalise import to_row
from alm.data.readers.table import table_rows
from encoders.audio import AUDIO_SUFFIXES

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl")


class AudioFolderReader(Reader):
    """Audio files with their folders' names, or a table, as text."""

    takes = ("columns", "prompt", "split")

    def recognises(self, path: Path) -> bool:
        """A folder with a metadata table, or with audio files directly in it or in its folders' folders."""
        if not path.is_dir():
            return False
        return bool(_tables(path)) or any(
            next(_audio_in(path, pattern), None) is not None for pattern in ("*", "*/*", "*/*/*")
        )

    def files(self, source: DataSource) -> list[Path]:
        """The tables, or all recordings."""
        folder = _folder(source)
        return _tables(folder) or sorted(_audio_in(folder, "**/*"))

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        folder = _folder(source)
        tables = _tables(folder)
        for table in tables:
            for where, values in table_rows(table):
                yield to_row(values, where, table.parent, source)
        if tables:
            return
        if source.columns:
            raise ConfigError(
                f"{folder}: columns are those of a table, and the folder has none ({', '.join(METADATA)}); remove them"
            )
        files = sorted(_audio_in(folder, "**/*"))
        if not files:
            raise ManifestError(
                f"{folder}: holds no audio files ({', '.join(AUDIO_SUFFIXES)}); name another folder"
            )
        for path in files:
            name = path.relative_to(folder).as_posix()
            values = {"id": name, "audio": name}
            if path.parent == folder and source.prompt:
                raise ManifestError(
                    f"{path}: has no answer to the prompt; put it into a folder that is named as its class"
                )
            if path.parent != folder:
                label = path.parent.name
                values |= {"question": source.prompt, "answer": label} if source.prompt else {"label": label}
            yield Row(str(path), values, folder)


def _folder(source: DataSource) -> Path:
    folder = to_path(source.path)
    if source.split is None:
        return folder
    if not (folder / source.split).is_dir() or Path(source.split).name != source.split:
        there = sorted(item.name for item in folder.iterdir() if item.is_dir()) if folder.is_dir() else []
        raise ConfigError(f"{folder}: no split {source.split!r}; its folders: {', '.join(there) or 'none'}")
    return folder / source.split


def _tables(folder: Path) -> list[Path]:
    """The metadata table of a folder, or those of the folders in it."""
    here = [folder / name for name in METADATA if (folder / name).is_file()]
    return here or sorted(path for name in METADATA for path in folder.glob(f"*/{name}"))


def _audio_in(folder: Path, pattern: str) -> Iterator[Path]:
    return (path for path in folder.glob(pattern) if path.suffix.lower() in AUDIO_SUFFIXES)


READER = AudioFolderReader()
