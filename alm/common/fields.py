"""Checks of keyword arguments and config fields: unknown names, wrong types and absurd sizes are errors."""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from alm.common.errors import ConfigError, UserError, did_you_mean, shown

# Limits on sizes: far larger than any published model has, yet small enough to build the model in seconds.
_MOST_LAYERS = 1_000
_MOST_WIDTH = 65_536
_MOST = 1 << 24
_LAYERS = ("layers", "depth", "depths")
_WIDTHS = ("dim", "dims", "width", "hidden", "size", "model", "heads", "mels", "bins", "queries", "stack", "groups",
           "buckets", "classes", "frames", "length", "steps", "positions")  # fmt: skip


@contextmanager
def located(where: object, kind: type[UserError] = ConfigError) -> Iterator[None]:
    """Put the location before the message of an error raised inside."""
    try:
        yield
    except kind as error:
        raise type(error)(f"{where}: {error}") from error


def coerce_fields(cls: type[Any], values: dict[str, Any]) -> dict[str, Any]:
    """Check keys, types and sizes of values for a dataclass; lists become tuples and integers floats as declared.

    Raises:
        ConfigError: Unknown key (names the nearest), wrong type, a number that is not finite, or an absurd size.
    """
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls) if field.init]
    checked = {}
    for key, value in values.items():
        if key not in names:
            hint = did_you_mean(key, names, f"valid keys: {', '.join(sorted(names))}", cutoff=0.5)
            raise ConfigError(f"unknown key {key!r}; {hint}")
        try:
            checked[key] = _coerce(value, hints[key])
        except TypeError as error:
            raise ConfigError(f"{key} is {shown(value, 80)}; expected {error}") from error
        check_size(key, checked[key])
    return checked


def check_size(key: str, value: Any) -> None:
    """Refuse numbers, also inside lists and mappings, that no model has: building it would hang or fill the memory.

    Args:
        key: The config key; its last word says what the number counts.
        value: Its value. Seeds and ids may be any size.

    Raises:
        ConfigError: Naming the key and the limit.
    """
    if isinstance(value, dict):
        for inner, item in value.items():
            check_size(str(inner), item)
    elif isinstance(value, list | tuple):
        if len(value) > _MOST_LAYERS:
            raise ConfigError(f"{key} has {len(value)} entries; expected at most {_MOST_LAYERS}")
        for item in value:
            check_size(key, item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key} is {value}; expected a finite number")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        words = key.rpartition(".")[2].split("_")
        if "seed" in words or "id" in words:
            return
        counts_layers, counts_width = bool({*words} & {*_LAYERS}), words[-1] in _WIDTHS
        most = _MOST_LAYERS if counts_layers else _MOST_WIDTH if counts_width else _MOST
        if "dropout" in words or "drop" in words:
            most = 1
        if abs(value) > most:
            raise ConfigError(f"{key} is {shown(value, 80)}; expected at most {most:,}")
        if value < 0 and (counts_layers or counts_width or most == 1 or words[-1] == "ratio"):
            raise ConfigError(f"{key} is {shown(value, 80)}; expected 0 or more")


def _coerce(value: Any, hint: Any) -> Any:
    """The value as the hinted type; the message of TypeError says what was expected."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        return _coerce(value, next(argument for argument in arguments if argument is not type(None)))
    if origin is tuple:
        if not isinstance(value, list | tuple) or len(value) != len(arguments):
            raise TypeError(f"{len(arguments)} values ({', '.join(a.__name__ for a in arguments)})")
        return tuple(_coerce(item, argument) for item, argument in zip(value, arguments, strict=True))
    kind = origin or hint
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 10**300 else math.inf
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"a value of type {kind.__name__}")
    return value


def refuse_unknown(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Refuse keyword arguments that would be ignored; `transformers`' private ones (`_...`) pass.

    Args:
        what: The function, for the message.
        given: Names of the arguments given.
        known: Names that it takes.

    Raises:
        UserError: Names the first unknown argument and the nearest known one.
    """
    names = sorted(known)
    for name in given:
        if name not in names and not name.startswith("_"):
            hint = did_you_mean(name, names, f"it takes {', '.join(names) or 'no options'}")
            raise UserError(f"{what} does not take '{name}'; {hint}")
