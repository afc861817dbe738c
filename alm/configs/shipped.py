"""The configs that come with the package, found by name, also in an installed package."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from alm.common.errors import ConfigError
from alm.common.import_path import ROOT

CONFIGS = Path(ROOT) / "configs"
"""Beside the packages, in a checkout as in site-packages."""

_SUFFIXES = (".yaml", ".yml", ".json")


def shipped_configs() -> dict[str, Path]:
    """Every shipped YAML config by name, for example `recipes/ltu-tiny`, sorted."""
    return _files(".yaml")


def find_config(given: str | os.PathLike[str], folders: Sequence[str] = ("",)) -> Path:
    """The file that a config's path or name stands for; a file of the user overrides a shipped one.

    Args:
        given: Path of a file; or the name of a shipped config (`recipes/ltu-tiny`), also with `configs/` before it or
            with its suffix. The folder may be omitted if the name is unique in `folders`.
        folders: Folders of `configs/` in which a name without a folder is looked up; "" is all of them.

    Raises:
        ConfigError: Neither a file nor a shipped config; names the nearest.
    """
    return _find(given, folders, ".yaml", "config")


def find_deepspeed(given: str | os.PathLike[str]) -> Path:
    """The file that `run.deepspeed` stands for: a path, or a shipped one such as `configs/deepspeed/zero2.json`.

    Raises:
        ConfigError: Neither; names the nearest.
    """
    return _find(given, ("deepspeed",), ".json", "DeepSpeed config")


def summary_of(path: Path) -> str:
    """The first sentence of the comment that a config begins with, shortened; "" if it has none."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# ").strip())
    sentence = re.split(r"(?<!et al)[.] ", " ".join(lines))[0].rstrip(".")
    return textwrap.shorten(sentence, 110, placeholder=" …")


def _find(given: str | os.PathLike[str], folders: Sequence[str], suffix: str, kind: str) -> Path:
    text = os.fspath(given)
    if _is_file(text):
        return Path(text)
    files = _files(suffix)
    name = text.removeprefix("./").removeprefix("configs/")
    name = name[: -len(Path(name).suffix)] if Path(name).suffix in _SUFFIXES else name
    # The user's own file, given without its suffix, comes before a shipped config of that name.
    if not Path(text).suffix and _is_file(text + suffix):
        return Path(text + suffix)
    if name in files:
        return files[name]
    within = {key: path for key, path in files.items() if _in_folders(key, folders)}
    matches = [key for key in within if key.rpartition("/")[2] == name]
    if len(matches) == 1:
        return within[matches[0]]
    if matches:
        raise ConfigError(f"{text}: several shipped configs have this name; give {' or '.join(matches)}")
    beside = (
        get_close_matches(text, _beside(Path(text), suffix), n=1, cutoff=0.8) if Path(text).suffix else []
    )
    hint = f"; did you mean {beside[0]}?" if beside else _nearest(name, within or files)
    raise ConfigError(f"{text}: no such {kind} file{hint}")


def _beside(path: Path, suffix: str) -> list[str]:
    """The files of the folder that a path names."""
    try:
        return [os.fspath(found) for found in path.parent.glob(f"*{suffix}")]
    except (OSError, ValueError):  # no permission, NUL
        return []


def _nearest(name: str, files: dict[str, Path]) -> str:
    near = get_close_matches(name, files, n=1)
    if not near:
        stems = {key.rpartition("/")[2]: key for key in files}
        near = [stems[stem] for stem in get_close_matches(name.rpartition("/")[2], stems, n=1)]
    return f"; did you mean {near[0]}?" if near else "; alm config list names the shipped ones"


def _in_folders(key: str, folders: Sequence[str]) -> bool:
    return any(not folder or key.startswith(f"{folder}/") for folder in folders)


def _is_file(text: str) -> bool:
    try:
        return os.path.lexists(text) and not os.path.isdir(text)
    except ValueError:  # NUL
        return False


def _files(suffix: str) -> dict[str, Path]:
    found = sorted(CONFIGS.rglob(f"*{suffix}"))
    return {path.relative_to(CONFIGS).with_suffix("").as_posix(): path for path in found}
