"""Names in reports: models by the part in which their folders differ, files without machine-specific folders."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

_ABSOLUTE = re.compile(r"(?<![\w.:/~])/(?:[^/\s'\"<>|:,;()\[\]]+/)+[^/\s'\"<>|:,;()\[\]]*")


def model_names(first: str, second: str) -> tuple[str, str]:
    """The parts in which two folders differ: `runs/a/eval/mmau` and `runs/b/eval/mmau` are a and b.

    Args:
        first: A path.
        second: Another; if it is the same, the names are numbered.
    """
    parts = [list(Path(one).absolute().parts) for one in (first, second)]
    if parts[0] == parts[1]:
        return f"{parts[0][-1]} (first)", f"{parts[1][-1]} (second)"
    while min(map(len, parts)) > 1 and parts[0][-1] == parts[1][-1]:
        del parts[0][-1], parts[1][-1]
    while min(map(len, parts)) > 1 and parts[0][0] == parts[1][0]:
        del parts[0][0], parts[1][0]
    return "/".join(parts[0][-2:]), "/".join(parts[1][-2:])


def without_folders(value: Any) -> Any:
    """A value in which absolute paths, also those inside texts, keep their last two parts: `…/model/eval`.

    Paths inside the working directory become relative to it.
    """
    if isinstance(value, Mapping):
        return {key: without_folders(one) for key, one in value.items()}
    if isinstance(value, PurePath):
        return without_folders(str(value))
    if isinstance(value, str):
        return _ABSOLUTE.sub(lambda match: _short(match[0]), value)
    if isinstance(value, Sequence) and not isinstance(value, bytes):
        return [without_folders(one) for one in value]
    return value


def _short(path: str) -> str:
    here = str(Path.cwd()).rstrip("/") + "/"
    if path.startswith(here):
        return path.removeprefix(here) or "."
    return "…/" + "/".join(path.rstrip("/").split("/")[-2:]).lstrip("/")
