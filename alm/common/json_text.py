"""Reading JSON that strangers wrote: every way to fail is one typed error."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError, UserError
from alm.common.files import read_text, write_text_atomic

_MAYBE_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def read_json(
    path: str | os.PathLike[str], error: type[UserError] = ManifestError, constants: bool = False
) -> Any:
    """Read a JSON file.

    Args:
        path: The file, UTF-8 with or without a byte order mark.
        error: Class of the error to raise.
        constants: Accept NaN and Infinity, as `json.dump` writes them.

    Raises:
        UserError: Of class `error`: the file is missing, no regular file, or not valid JSON; see `parse_json`.
    """
    return parse_json(
        read_text(Path(path), "a JSON file", error).removeprefix("\ufeff"), str(path), error, constants
    )


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, with indents; values that JSON does not know become strings.

    Raises:
        ManifestError: The file cannot be written.
    """
    write_text_atomic(path, json.dumps(values, indent=2, default=str) + "\n")


def read_json_object(
    path: str | os.PathLike[str], error: type[UserError] = ManifestError, constants: bool = False
) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`.

    Raises:
        UserError: Of class `error`: see `read_json`, and a list, string, number or null.
    """
    value = read_json(path, error, constants)
    if not isinstance(value, dict):
        raise error(f"{path}: holds {str(value)[:40]!r}, expected a JSON object in braces; restore the file")
    return value


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log of JSON lines, without lines that a kill truncated; nothing where there is no file.

    Raises:
        ManifestError: No regular file, or not UTF-8.
    """
    if not path.is_file():
        return
    for line in read_text(path, "a log of JSON lines").split("\n"):
        with suppress(ManifestError):
            value = parse_json(line, str(path), constants=True)
            if isinstance(value, dict):
                yield value


def parse_json(text: str, where: str, error: type[UserError] = ManifestError, constants: bool = False) -> Any:
    """Parse JSON strictly.

    Refused besides broken syntax: a key given twice, NaN and Infinity, numbers too large for a float, nesting deeper
    than Python's stack, and strings with half of a surrogate pair, which no file or terminal can hold.

    Args:
        text: The JSON.
        where: File, or file and line, for the error.
        error: Class of the error to raise.
        constants: Accept NaN and Infinity, as `json.dump` writes them.

    Raises:
        UserError: Of class `error`.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique_keys,
            parse_constant=float if constants else _no_constant,
            parse_float=_finite,
            parse_int=_integer,
        )
        if _MAYBE_SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError as problem:
        raise error(
            f"{where}: a string holds half of a surrogate pair; write the character itself"
        ) from problem
    except RecursionError as problem:
        raise error(f"{where}: broken JSON (nested too deeply)") from problem
    except ValueError as problem:
        raise error(f"{where}: broken JSON ({problem})") from problem


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} given twice")
    return result


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is too large")
    return value


def _integer(text: str) -> int:
    if len(text) > 300:  # more digits than the largest float has
        raise ValueError(f"the number {text[:40]}… of {len(text)} digits is too large")
    return int(text)
