"""Data sets of the `datasets` library: opening them without decoding audio, and which columns hold audio."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, ManifestError, UserError
from alm.common.json_text import read_json_object
from alm.common.storage.cache import cache_folder
from alm.common.storage.remote import RemotePath, to_path

FILES = {".parquet": "parquet", ".arrow": "arrow"}
"""Suffixes of single files, and the builder that reads them."""


@lru_cache(maxsize=16)
def opened(path: str, split: str) -> Any:
    """A split of a data set, memory-mapped, its audio undecoded.

    Raises:
        ManifestError: It cannot be opened.
        ConfigError: It has no such split, or several and none is named.
    """
    import datasets

    with typed_errors(path):
        if is_saved(to_path(path)):
            found = datasets.load_from_disk(path)
        else:
            found = datasets.load_dataset(*load_arguments(path), cache_dir=str(cache_folder("datasets")))
        if isinstance(found, dict):
            names = list(found)
            if split not in names and not (split == "" and len(names) == 1):
                raise ConfigError(
                    f"{path}: {f'no split {split!r}' if split else 'several splits'}; choose split: one of "
                    f"{', '.join(names)}"
                )
            found = found[split or names[0]]
        elif split and str(found.split or "") != split:
            raise ConfigError(f"{path}: no split {split!r}; the data set has one split, remove it")
        for column in audio_and_labels(found.features)[0]:
            feature = found.features[column]
            if isinstance(feature, datasets.Audio):
                found = found.cast_column(column, datasets.Audio(decode=False))
            elif isinstance(getattr(feature, "feature", None), datasets.Audio):
                found = found.cast_column(column, datasets.List(datasets.Audio(decode=False)))
        return found


def load_arguments(path: str) -> list[Any]:
    """The arguments of `load_dataset`: the name of a hub data set or folder, or a builder and files."""
    local = to_path(path)
    if local.is_file():
        return [FILES[local.suffix], None, None, str(local)]
    if isinstance(local, RemotePath):
        files = [str(file) for kind in FILES for file in local.rglob(f"*{kind}")]
        return [FILES[Path(files[0]).suffix] if files else "parquet", None, None, files]
    # An absolute path, because a folder could have the name of a builder.
    return [os.path.abspath(path)] if local.is_dir() else [path]


@contextlib.contextmanager
def typed_errors(path: str) -> Iterator[None]:
    """Every failure of the library as one typed error."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the library documents none of its own
        text = " ".join(f"{type(error).__name__}: {error}".split())
        raise ManifestError(
            f"{path}: cannot be opened as a data set ({text:.200}); check the name, or write it again"
        ) from error


def audio_and_labels(features: Any) -> tuple[list[str], dict[str, list[str]]]:
    """Columns that hold audio, and the class names of those that hold labels."""
    audio, labels = [], {}
    for name, feature in features.items():
        inner = getattr(feature, "feature", None)
        kind = type(feature).__name__
        has_bytes = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        binary = kind == "Value" and feature.dtype in ("binary", "large_binary")
        if kind == "Audio" or type(inner).__name__ == "Audio" or has_bytes or binary:
            audio.append(name)
        elif kind == "ClassLabel":
            labels[name] = list(feature.names)
    return audio, labels


def is_saved(path: Path) -> bool:
    """Whether `save_to_disk` has written a folder."""
    if (path / "dataset_dict.json").is_file():
        return True
    try:
        return "_data_files" in read_json_object(path / "state.json")
    except ManifestError:
        return False
