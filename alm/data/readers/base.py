"""The base class of readers, which recognise a format and yield its rows, and the settings of a data source."""

from __future__ import annotations

import dataclasses
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from alm.common.errors import ConfigError, ManifestError, did_you_mean, shown
from alm.common.json_text import first_character, json_items
from alm.common.settings import parse_yaml
from alm.common.storage.remote import to_path
from alm.data.index import Line, open_index, parse_stored, stored_line
from alm.data.records import Record, check_record

TARGETS = (
    *("id", "audio", "start_s", "end_s", "messages", "question", "answer", "choices", "captions"),
    *("prompt", "kind", "clip"),
)  # fmt: skip
"""What a column can hold."""


@dataclass(frozen=True)
class DataSource:
    """One entry of `data.train` and other settings that name data.

    Attributes:
        path: A file or folder, or the name of a data set on the hub.
        format: One of `alm list formats`, or a published corpus of `alm list corpora`; None recognises the format.
        columns: Column of the table by field of a record: `audio`, `question`, `answer`, `choices`, `captions`,
            `messages`, `id`, `start_s`, `end_s`, `kind`, `clip`; columns of these names need not be given.
        prompt: The question of rows that have only an answer or captions.
        split: The split, if the format has splits.
        audio: Folder that audio paths are relative to; None is the folder of the file.
        streaming: Read a data set of the hub row by row, without downloading all of it (`huggingface`).
        limit: Read only the first `limit` records; None reads all.
    """

    path: str
    format: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    prompt: str | None = None
    split: str | None = None
    audio: str | None = None
    streaming: bool = False
    limit: int | None = None

    def __str__(self) -> str:
        return self.path

    def given(self) -> list[str]:
        """Names of the settings that differ from their defaults, besides `path` and `format`."""
        plain = DataSource(self.path)
        names = [item.name for item in dataclasses.fields(self) if item.name not in ("path", "format")]
        return [name for name in names if getattr(self, name) != getattr(plain, name)]


def parse_source(value: Any, where: str) -> str | DataSource:
    """A path, or a checked `DataSource` of a mapping.

    Args:
        value: A string, a mapping, or a `DataSource`.
        where: The setting, for errors.

    Raises:
        ConfigError: It is something else, or the mapping has an unknown key or a value of a wrong type.
    """
    if isinstance(value, str | DataSource):
        return value
    if isinstance(value, Path):
        return str(value)
    if not isinstance(value, dict):
        raise ConfigError(
            f"{where}: got {shown(value, 80)}; expected a path, or a mapping with path and format"
        )
    hints = {"columns": dict, "streaming": bool, "limit": int}
    names = [item.name for item in dataclasses.fields(DataSource)]
    for key, item in value.items():
        if key not in names:
            hint = did_you_mean(key, names, f"valid keys: {', '.join(names)}")
            raise ConfigError(f"{where}: unknown key {shown(key, 80)}; {hint}")
        kind = hints.get(key, str)
        optional = item is None and key not in ("path", "columns", "streaming")
        if not optional and (not isinstance(item, kind) or (kind is int and isinstance(item, bool))):
            raise ConfigError(f"{where}.{key}: got {shown(item, 80)}; expected a {kind.__name__}")
    if not value.get("path"):
        raise ConfigError(f"{where}.path: is missing; name a file, a folder or a data set")
    limit = value.get("limit")
    if limit is not None and limit < 1:
        raise ConfigError(f"{where}.limit: got {limit}; expected at least 1")
    for target, column in value.get("columns", {}).items():
        if target not in TARGETS:
            hint = did_you_mean(target, TARGETS, f"expected one of {', '.join(TARGETS)}")
            raise ConfigError(f"{where}.columns: unknown {shown(target, 80)}; {hint}")
        if not isinstance(column, str) or not column:
            raise ConfigError(f"{where}.columns.{target}: got {shown(column, 80)}; expected a column's name")
    return DataSource(**value)


def named_source(text: str) -> str | DataSource:
    """A source as a command's argument: a path, or a mapping in YAML such as `{path: a.csv, audio: clips}`.

    Raises:
        ConfigError: It begins with `{` but is no valid mapping, or has an unknown key or a value of a wrong type.
    """
    if not text.lstrip().startswith("{") or os.path.exists(text):
        return text
    return parse_source(parse_yaml(text, "MANIFEST"), "MANIFEST")


def as_source(source: str | DataSource) -> DataSource:
    """A source with settings; a path alone gets the defaults."""
    return DataSource(source) if isinstance(source, str) else source


@dataclass(frozen=True)
class Row:
    """One row of a source.

    Attributes:
        where: Its place, `file:line`, for errors.
        values: A record in the manifest's form (`alm.data.manifest`); `id` may be missing.
        folder: The folder that relative audio paths start from.
        embedded: Descriptions of recordings inside other files (`alm.data.embedded`), by index in `audio`. At these
            indices `audio` holds a name instead of a path.
    """

    where: str
    values: dict[str, Any]
    folder: Path
    embedded: dict[str, dict[str, Any]] = field(default_factory=dict)


class Reader(ABC):
    """One format of data.

    Attributes:
        takes: The settings of `DataSource` that it takes, besides `path`, `format` and `limit`.
        local: Whether `path` must exist.
    """

    takes: ClassVar[tuple[str, ...]] = ()
    local: ClassVar[bool] = True

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether a file or folder that exists is in this format, from its name, listing or first bytes."""

    @abstractmethod
    def rows(self, source: DataSource) -> Iterator[Row]:
        """Read every row, in an order that does not change.

        Raises:
            ManifestError: The source cannot be read; names file and row.
        """

    def files(self, source: DataSource) -> list[Path]:
        """The files that the rows depend on; when one changes, the index is built again."""
        return [to_path(source.path)]

    def check(self, source: DataSource) -> None:
        """Refuse settings that this format does not take.

        Raises:
            ConfigError: Names them, and those that it takes.
        """
        for name in source.given():
            if name not in (*self.takes, "limit"):
                known = ", ".join((*self.takes, "limit"))
                raise ConfigError(
                    f"{source.path}: format '{source.format}' takes no '{name}'; it takes {known}"
                )

    def open(self, source: DataSource, audio_only: bool = False) -> Sequence[Record]:
        """The records of a source, read on access.

        Args:
            source: The source.
            audio_only: Accept records without text, for pretraining.

        Raises:
            ManifestError: A row is no record, or two have one id; names file and row.
        """
        key = json.dumps([str(to_path(source.path).absolute()), dataclasses.asdict(source)], sort_keys=True)
        records = open_index(
            source.path,
            f"{source.format}|{key}",
            self.files(source),
            partial(self._lines, source),
            parse_stored,
        )
        if audio_only or records.rows["has_text"].all():
            return records.with_text() if not audio_only else records
        where = records.source(int(np.argmin(records.rows["has_text"])))
        raise ManifestError(
            f"{where}: has audio and no text, or a label and no question; name its column (columns: {{question: …}}) "
            "or give one question for all rows (prompt: …); only stage pretrain takes audio alone"
        )

    def _lines(self, source: DataSource) -> Iterator[Line]:
        for number, row in enumerate(self.rows(source)):
            if source.limit is not None and number >= source.limit:
                return
            record = check_record(row.values, row.where, audio_only=True)
            yield Line(record, stored=stored_line(row.where, row.folder, row.values, row.embedded))


def first_value(path: Path, lines: bool = False) -> dict[str, Any] | None:
    """The first object of a JSON list or of JSON Lines; None of any other file.

    Args:
        path: The file.
        lines: Accept only JSON Lines.
    """
    first = first_character(path)
    if first != "{" and (lines or first != "["):
        return None
    try:
        value = next(json_items(path), ("", None))[1]
    except ManifestError:
        return None
    return value if isinstance(value, dict) else None


def folder_of(source: DataSource, file: Path) -> Path:
    """The folder that audio paths of a table are relative to.

    Raises:
        ManifestError: The folder that the setting `audio` names does not exist.
    """
    if source.audio is None:
        return file.parent
    folder = to_path(source.audio).expanduser()
    if not folder.is_dir():
        raise ManifestError(f"{source.path}: audio: {folder} is not a folder; check the path")
    return folder
