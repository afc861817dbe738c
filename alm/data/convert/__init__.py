"""Published data sets as manifests: one file here per source, found by its name.

A source's file has `convert(root, files)`, which yields an `Item` per record in the source's own terms;
finding the audio, counting what is missing and writing the manifests is done here.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from pkgutil import iter_modules
from typing import Any

from alm.common.errors import ConfigError, ManifestError, UserError
from alm.common.files import write_text_atomic
from alm.data.manifest import write_manifest
from encoders.audio import AUDIO_SUFFIXES

MISSING = "missing.txt"


@dataclass(frozen=True)
class Item:
    """One record as a source gives it.

    Attributes:
        split: The manifest it goes into.
        audio: Names that its file may have, likeliest first; an ending and leading folders may be missing or differ.
        values: The record without `audio`.
        inside: One of these folders must be among the file's; empty means anywhere.
    """

    split: str
    audio: tuple[str, ...]
    values: dict[str, Any]
    inside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Converted:
    """What a conversion gave.

    Attributes:
        written: Records by split.
        missing: Names of files that were not found, each once.
        clips: How many different files the source names.
    """

    written: dict[str, int]
    missing: list[str]
    clips: int


class AudioFiles:
    """The audio files below some folders, found by name.

    Args:
        folders: Searched at any depth.

    Raises:
        ConfigError: One does not exist.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = list(folders)
        for folder in folders:
            if not folder.is_dir():
                raise ConfigError(f"--audio: no such folder '{folder}'")
        self._by_stem: dict[str, list[Path]] = {}
        self._folder_names: set[str] = set()
        for folder in folders:
            for where, _, names in os.walk(folder, followlinks=True):
                found = [
                    Path(where, name) for name in sorted(names) if Path(name).suffix.lower() in AUDIO_SUFFIXES
                ]
                if found:
                    self._folder_names.update(Path(where).parts)
                for path in found:
                    self._by_stem.setdefault(path.stem, []).append(path)

    def has_folder(self, name: str) -> bool:
        """Whether any file lies in a folder of this name."""
        return name in self._folder_names

    def find(self, names: Sequence[str], inside: Sequence[str] = ()) -> Path | None:
        """The file that one of `names` means; of several, the one whose folders agree with the name.

        Raises:
            ConfigError: Two files fit equally well.
        """
        for name in names:
            wanted = PurePosixPath(name)
            stem = wanted.stem if wanted.suffix.lower() in AUDIO_SUFFIXES else wanted.name
            found = self._by_stem.get(stem, [])
            if inside:
                found = [path for path in found if set(inside) & set(path.parts[:-1])]
            if not found:
                continue
            ranked = sorted(((_agreement(path, wanted), path) for path in found), key=lambda pair: pair[0])
            if len(ranked) > 1 and ranked[-1][0] == ranked[-2][0]:
                raise ConfigError(
                    f"audio '{name}': {ranked[-1][1]} and {ranked[-2][1]} both fit; name a narrower folder with --audio"
                )
            return ranked[-1][1]
        return None


def _agreement(path: Path, wanted: PurePosixPath) -> tuple[int, bool]:
    """How many folders in a row, from the file up, two paths share; and whether the ending is the same."""
    shared = 0
    for own, other in zip(reversed(path.parts[:-1]), reversed(wanted.parts[:-1]), strict=False):
        if own != other:
            break
        shared += 1
    return shared, path.suffix == wanted.suffix


def list_sources() -> list[str]:
    """Names of the sources that can be converted."""
    return sorted(module.name for module in iter_modules(__path__) if not module.name.startswith("_"))


def convert(
    source: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    audio: Sequence[str] = (),
    max_missing: float = 0.0,
) -> Converted:
    """Write a published data set as manifests.

    Args:
        source: One of `list_sources`.
        root: Where its tables lie, as published (a folder, or the one file).
        out: Folder of the manifests, `SPLIT.jsonl` each, and of `missing.txt` where files are missing.
        audio: Folders of the audio; none means `root`.
        max_missing: Largest share of the named files that may be missing; their records are left out.

    Returns:
        What was written and what is missing.

    Raises:
        UserError: An unknown source, a table that is not as published, or too many missing files.
    """
    if source not in list_sources():
        raise ConfigError(f"source '{source}': expected one of {', '.join(list_sources())}")
    root = Path(root)
    if not root.exists():
        raise ConfigError(f"{root}: no such file or folder")
    files = AudioFiles([Path(folder) for folder in audio] or [root if root.is_dir() else root.parent])
    items = import_module(f"{__name__}.{source}").convert(root, files)
    return write_items(items, files, out, max_missing)


def write_items(
    items: Iterable[Item], files: AudioFiles, out: str | os.PathLike[str], max_missing: float = 0.0
) -> Converted:
    """Find the audio of some items and write a manifest per split; see `convert`."""
    if not 0.0 <= max_missing <= 1.0:
        raise ConfigError(f"--max-missing: got {max_missing}, expected a share from 0 to 1")
    out = Path(out)
    splits, missing, n_clips = _resolve(items, files, out)
    if missing:
        out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(out / MISSING, "".join(f"{name}\n" for name in missing))
    if len(missing) > max_missing * n_clips:
        raise UserError(
            f"{out}: {len(missing)} of {n_clips} audio files are missing (the first: {missing[0]}; all: "
            f"{out / MISSING}), more than --max-missing {max_missing}; name their folder with --audio, or "
            "raise the share"
        )
    if not splits:
        raise UserError(
            f"{out}: nothing to write; no record has its audio in {', '.join(map(str, files.folders))}"
        )
    out.mkdir(parents=True, exist_ok=True)
    for split, records in splits.items():
        write_manifest(out / f"{split}.jsonl", records)
    return Converted({split: len(records) for split, records in splits.items()}, missing, n_clips)


def _resolve(
    items: Iterable[Item], files: AudioFiles, out: Path
) -> tuple[dict[str, list[dict[str, Any]]], list[str], int]:
    """Records with the files they are about, names of missing files, and how many files were asked for."""
    found: dict[tuple[tuple[str, ...], tuple[str, ...]], Path | None] = {}
    splits: dict[str, list[dict[str, Any]]] = {}
    for item in items:
        key = (item.audio, item.inside)
        if key not in found:
            found[key] = files.find(item.audio, item.inside)
        path = found[key]
        records = splits.setdefault(item.split, [])
        if path is not None:
            audio = os.path.relpath(path.resolve(), out.resolve())
            records.append({"id": item.values["id"], "audio": audio, **item.values})
    missing = sorted(names[0] for (names, _), path in found.items() if path is None)
    return {split: records for split, records in splits.items() if records}, missing, len(found)


def read_table(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV with a header, as (`file:line`, row).

    Args:
        path: The table, UTF-8.
        columns: Those it must have.

    Raises:
        ManifestError: It cannot be read or lacks a column.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            lacking = [name for name in columns if name not in (reader.fieldnames or [])]
            if lacking:
                raise ManifestError(
                    f"{path}:1: no column {', '.join(map(repr, lacking))}; it has {reader.fieldnames}"
                )
            for row in reader:
                short = [name for name in columns if row[name] is None]
                if short:
                    raise ManifestError(f"{path}:{reader.line_num}: no value for {', '.join(short)}")
                yield f"{path}:{reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a CSV table ({error})") from error


def read_json(path: Path) -> Any:
    """A JSON file.

    Raises:
        ManifestError: It cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON ({error})") from error


def tables(root: Path, names: Sequence[str], what: str) -> list[Path]:
    """Those files of `names` that lie below `root`, at any depth; or `root` itself.

    Raises:
        ManifestError: None does, or one does twice.
    """
    if root.is_file():
        return [root]
    found = []
    for name in names:
        here = sorted(root.rglob(name))
        if len(here) > 1:
            raise ManifestError(f"{root}: holds {name} twice ({here[0]}, {here[1]}); name a narrower folder")
        found += here
    if not found:
        raise ManifestError(f"{root}: none of {', '.join(names)}; expected {what} as published")
    return found
