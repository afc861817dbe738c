"""Strict reading of untrusted JSON: every failure is a typed error."""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from alm.common.errors import ManifestError, UserError
from alm.common.files import open_regular, read_text, reason, write_text_atomic
from alm.common.storage.remote import to_path

_BLANK = " \t\r\n"  # the white space of JSON
_READ_CHARACTERS = 1 << 20
_SPACED_KEY = re.compile(r'"[ \t\r\n]+:')
_LARGE = 1 << 64
_PLAIN = json.JSONDecoder()
_MAYBE_SURROGATE = re.compile(r"\\ud[89a-f]", re.IGNORECASE)


def read_json(
    path: str | os.PathLike[str],
    error: type[UserError] = ManifestError,
    constants: bool = False,
    byte_order_mark: bool = True,
) -> Any:
    """Read a JSON file.

    Args:
        path: The file, UTF-8.
        error: Class of the error to raise.
        constants: Accept NaN and Infinity, as `json.dump` writes them.
        byte_order_mark: Accept a file that begins with one; `transformers` does not read such files.

    Raises:
        UserError: Raised as `error`: the file is missing, not a regular file, or not valid JSON; see `parse_json`.
    """
    text = read_text(path, "a JSON file", error)
    if text.startswith("\ufeff") and not byte_order_mark:
        raise error(f"{path}: begins with a byte order mark; save it as UTF-8 without one")
    return parse_json(text.removeprefix("\ufeff"), str(path), error, constants)


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, with indents; values of types that JSON lacks become strings.

    Raises:
        ManifestError: The file cannot be written.
    """
    write_text_atomic(path, json.dumps(values, indent=2, default=str) + "\n")


def read_json_object(
    path: str | os.PathLike[str],
    error: type[UserError] = ManifestError,
    constants: bool = False,
    byte_order_mark: bool = True,
) -> dict[str, Any]:
    """Read a JSON file that holds an object; see `read_json`.

    Raises:
        UserError: Raised as `error`: as for `read_json`, or the file holds a list, string, number or null.
    """
    value = read_json(path, error, constants, byte_order_mark)
    if not isinstance(value, dict):
        raise error(f"{path}: holds {str(value)[:40]!r}, expected a JSON object in braces; restore the file")
    return value


def read_log(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a log of JSON lines, without lines truncated by a kill; empty if there is no file.

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
        UserError: Raised as `error`.
    """
    value = None if constants else _parse_plain(text)
    if value is not None:
        return value
    try:
        value = (_WITH_CONSTANTS if constants else _STRICT).decode(text)
        _check_surrogates(text, value, where, error)
        return value
    except RecursionError as problem:
        raise error(f"{where}: broken JSON (nested too deeply)") from problem
    except ValueError as problem:
        raise error(f"{where}: broken JSON ({problem})") from problem


def json_items(
    path: str | os.PathLike[str], error: type[UserError] = ManifestError
) -> Iterator[tuple[str, Any]]:
    """Read the items of a JSON list, or the lines of a JSON Lines file, one after another.

    Args:
        path: The file, UTF-8 with or without a byte order mark; its first character says which of the two it is. Blank
            lines are skipped.
        error: Class of the error to raise.

    Yields:
        `file:line` or `file: entry number`, and the value.

    Raises:
        UserError: Raised as `error`: the file is missing, not a regular file, or not valid JSON; see `parse_json`.
    """
    path = to_path(path)
    try:
        with open_regular(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="\n") as text:
            first = text.read(1)
            while first and first in _BLANK:
                first = text.read(1)
            if first == "[":
                yield from _list_items(text, str(path), error)
                return
            text.seek(0)
            for number, line in enumerate(text, start=1):
                if line.strip():
                    yield f"{path}:{number}", parse_json(line.rstrip("\n"), f"{path}:{number}", error)
    except UnicodeDecodeError as problem:
        read_text(path, "a JSON file", error)  # names the byte
        raise error(f"{path}: is not UTF-8; save it as UTF-8") from problem
    except (OSError, ValueError) as problem:
        raise error(f"{path}: cannot be read ({reason(problem)}); expected a JSON file") from problem


def first_character(path: str | os.PathLike[str]) -> str:
    """The first non-space character of a JSON file; empty if there is none, or the file cannot be read."""
    try:
        with open_regular(path) as stream:
            return stream.read(_READ_CHARACTERS).decode("utf-8-sig", "replace").strip(_BLANK)[:1]
    except (OSError, ValueError):
        return ""


def _list_items(text: io.TextIOBase, name: str, error: type[UserError]) -> Iterator[tuple[str, Any]]:
    """The items of a list whose opening bracket has been read."""
    held, at, number, size, comma = "", 0, 0, _READ_CHARACTERS, False
    while True:
        where = f"{name}: entry {number}"
        while at < len(held) and held[at] in _BLANK:
            at += 1
        closed = held[at : at + 1] == "]"
        end, broken = 0, "the list does not end"
        if at < len(held) and not closed:
            try:
                value, end = _STRICT.raw_decode(held, at)
            except json.JSONDecodeError as problem:  # or the rest of the item has not been read yet
                broken = problem.msg
            except RecursionError as problem:
                raise error(f"{where}: broken JSON (nested too deeply)") from problem
            except ValueError as problem:
                raise error(f"{where}: broken JSON ({problem})") from problem
            after = end
            while end and after < len(held) and held[after] in _BLANK:
                after += 1
            if end and held[after : after + 1] in (",", "]"):
                _check_surrogates(held[at:end], value, where, error)
                yield where, value
                comma = held[after] == ","
                number, at, size = number + 1, after + comma, _READ_CHARACTERS
                continue
        more = text.read(size)
        if closed:
            if comma:
                raise error(f"{where}: broken JSON (a comma before the end of the list)")
            if held[at + 1 :].strip(_BLANK) or more.strip(_BLANK):
                raise error(f"{where}: broken JSON (text after the end of the list)")
            return
        if not more:
            missing = "expected a comma or the end of the list after it" if end else broken
            raise error(f"{where}: broken JSON ({missing})")
        held, at, size = held[at:] + more, 0, 2 * size


def _parse_plain(text: str) -> Any:
    """Parse plainly valid JSON several times faster than the strict parser; None if that parser must decide.

    Duplicate keys are detected by counting: without backslashes, a quote followed by a colon ends a key, or is part of
    a string, which only causes a needless second parse.
    """
    if "\\" in text:
        return None
    try:
        value, end = _PLAIN.raw_decode(text)
        if end == len(text) and type(value) is dict and _count_keys(value) == text.count('":'):
            return None if _SPACED_KEY.search(text) else value
    except (ValueError, RecursionError):
        pass
    return None


def _count_keys(value: Any) -> int:
    """Count the keys of nested dictionaries and lists; ValueError if the strict parser would refuse a number."""
    found, items = (len(value), value.values()) if type(value) is dict else (0, value)
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            found += _count_keys(item)
        elif (kind is float and item - item != 0.0) or (kind is int and not -_LARGE < item < _LARGE):
            raise ValueError
    return found


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {next(key for key in keys if keys.count(key) > 1)!r} given twice")
    return result


def _check_surrogates(text: str, value: Any, where: str, error: type[UserError]) -> None:
    if _MAYBE_SURROGATE.search(text):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as problem:
            raise error(
                f"{where}: a string holds half of a surrogate pair; write the character itself"
            ) from problem


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


_STRICT, _WITH_CONSTANTS = (
    json.JSONDecoder(
        object_pairs_hook=_unique_keys, parse_constant=constant, parse_float=_finite, parse_int=_integer
    )
    for constant in (_no_constant, float)
)
