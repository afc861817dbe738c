"""Labelled data sets in the layouts they are published in; a file `train/datasets/<name>.py` is one of them.

The file sets `DATASET = <class>`; the class is a frozen dataclass of options with a `read()` that gives
`LabelledData`.
"""

from __future__ import annotations

import importlib
import re
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from train.datasets._base import DatasetReader, LabelledClip, LabelledData

__all__ = ["DatasetReader", "LabelledClip", "LabelledData", "list_datasets", "read_dataset"]

_DECLARATION = re.compile(r"^DATASET\b", re.MULTILINE)


@cache
def _names() -> tuple[str, ...]:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(file.stem for file in files if _DECLARATION.search(file.read_text(encoding="utf-8")))


def list_datasets() -> list[str]:
    """Names of all data sets, sorted; imports none of them."""
    return list(_names())


def dataset_class(name: str) -> type[DatasetReader]:
    """The reader of that name.

    Raises:
        ConfigError: There is none; names the nearest.
    """
    if name not in _names():
        near = get_close_matches(name, _names(), n=1)
        hint = f"did you mean '{near[0]}'?" if near else "it is none of those known."
        raise ConfigError(f"data.dataset: unknown data set '{name}'; {hint} Data sets: {', '.join(_names())}")
    reader: type[DatasetReader] = importlib.import_module(f"{__name__}.{name}").DATASET
    return reader


def read_dataset(name: str, options: dict[str, Any]) -> LabelledData:
    """Read a data set's tables and find its files.

    Args:
        name: One of `list_datasets()`.
        options: The reader's options, `root` among them.

    Raises:
        ConfigError: Unknown data set or option.
        ManifestError: A table or a file is not as it should be; names file and line.
    """
    from alm.common.settings import parse_settings

    return parse_settings(dataset_class(name), dict(options), where="data.dataset_options").read()
