"""YAML run configs with dotted overrides, checked against frozen dataclasses."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import math
import os
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from alm.common.errors import ConfigError
from alm.common.files import read_text
from alm.common.seeds import SEEDS

T = TypeVar("T")


@dataclasses.dataclass
class Limits:
    """The allowed values of a config section, by key; see `recorded_limits`.

    Attributes:
        ranges: Smallest and largest value; None is no limit.
        choices: The words that a value can be.
    """

    ranges: dict[str, tuple[float | None, float | None]] = dataclasses.field(default_factory=dict)
    choices: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)


_recording: list[Limits] = []  # innermost last

_LONGEST_CONFIG = 500_000  # characters; the parser reads some 100,000 a second
_DEEPEST = 40
_MOST_VALUES = 100_000
_UNION = re.compile(
    r"Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>[^\[\]]+)\] .*? "
    r"Given value: (?P<value>.*)"
)
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def load_settings(cls: type[T], path: str | Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Read a config file, apply `key.sub=value` overrides, and check every key and type.

    Args:
        cls: A dataclass; nested dataclasses are nested sections.
        path: A YAML file; None starts from the defaults.
        overrides: Strings `key.sub=value`; values are YAML.

    Raises:
        ConfigError: File missing or not YAML, unknown key (the nearest valid one is named), wrong type.
    """
    values = read_yaml(path) if path is not None else {}
    apply_overrides(values, overrides)
    return parse_settings(cls, values, where=str(path) if path is not None else "config")


def parse_settings(cls: type[T], values: dict[str, Any], where: str = "config") -> T:
    """Build a dataclass from plain values, with the checks of `load_settings`."""
    import jsonargparse

    check_values(values, where)
    check_keys(cls, values, where)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=cls)
    try:
        found: T = parser.instantiate_classes(parser.parse_object({"config": values})).config
        return found
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__cause__
        if isinstance(cause, ConfigError):
            raise ConfigError(f"{where}: {cause}") from error
        raise ConfigError(f"{where}: {_explain(error)}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file whose top level is a mapping.

    Raises:
        ConfigError: The file is missing, no regular file, too large, not YAML, or holds a value that `check_values`
            refuses.
    """
    if not os.path.lexists(path):
        raise ConfigError(f"{path}: no such config file")
    text = read_text(path, "a YAML config", ConfigError)
    if len(text) > _LONGEST_CONFIG:
        raise ConfigError(f"{path}: {len(text)} characters; expected a config of at most {_LONGEST_CONFIG}")
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top level")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put `key.sub=value` strings into nested dictionaries; values are YAML.

    Raises:
        ConfigError: A string has no `=`, its value is not YAML, or a part of the key is a value, not a section.
    """
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override '{override}': expected key.sub=value")
        set_dotted(values, key, parse_yaml(text, f"override '{override}'") if text else "")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, of which YAML's own would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name is not None and name in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} given twice", key.start_mark
                )
            seen.add(name)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def parse_yaml(text: str, where: str) -> Any:
    """The values of a YAML text.

    Raises:
        ConfigError: It is not YAML, or holds a value that `check_values` refuses.
    """
    try:
        values = yaml.load(text, _Loader)  # noqa: S506, a SafeLoader
    except RecursionError as error:
        raise ConfigError(f"{where}: nested more than {_DEEPEST} levels deep") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a malformed date or number
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())[:300]}") from error
    check_values(values, where)
    return values


def check_values(values: Any, where: str) -> None:
    """Check the rules that hold for every config, whatever its keys mean.

    Refused are numbers that are not finite or need more than 64 bits, seeds that are negative or need more than 32
    bits, text with NUL or half a surrogate pair, dates and other types of YAML, nesting deeper than 40 levels, and
    aliases that expand to more than 100,000 values.

    Args:
        values: Nested dictionaries, lists and tuples of plain values.
        where: File or option, for the error.

    Raises:
        ConfigError: Names the key.
    """
    waiting, seen = [("", values, 0)], 0
    while waiting:
        name, value, depth = waiting.pop()
        seen += 1
        if seen > _MOST_VALUES:
            raise ConfigError(f"{where}: aliases expand to more than {_MOST_VALUES} values; write fewer")
        if isinstance(value, dict | list | tuple):
            if depth == _DEEPEST:
                raise ConfigError(f"{where}: '{name[:60]}…' is nested more than {_DEEPEST} levels deep")
            inner = (
                value.items()
                if isinstance(value, dict)
                else ((f"[{i}]", item) for i, item in enumerate(value))
            )
            for key, item in inner:
                if isinstance(value, dict):
                    _check_value(f"a key of '{name}'" if name else "a key", key, where)
                joined = (
                    f"{name}{key}" if not isinstance(value, dict) else f"{name}.{key}" if name else f"{key}"
                )
                waiting.append((joined, item, depth + 1))
        else:
            _check_value(f"'{name}'", value, where)
            is_seed = re.search(r"(^|[._])seed$|(^|\.)seeds\[\d+\]$", name) is not None
            if is_seed and type(value) is int and not 0 <= value < SEEDS:
                raise ConfigError(f"{where}: '{name}' is {value}; expected a seed of 0 to {SEEDS - 1}")


def _check_value(name: str, value: Any, where: str) -> None:
    problem = None
    if isinstance(value, float) and not math.isfinite(value):
        problem = f"is {value}; expected a finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        problem = "needs more than 64 bits; expected a smaller number"
    elif isinstance(value, str) and _NO_TEXT.search(value):
        problem = f"is {value[:60]!r}, which holds NUL or half a surrogate pair; remove it"
    elif isinstance(value, datetime.date | bytes | set):
        problem = f"is a YAML {type(value).__name__}; put quotes around it for text"
    if problem is not None:
        raise ConfigError(f"{where}: {name} {problem}")


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries."""
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override '{key}': '{part}' is a value, not a section")
        values = inner
    values[last] = value


def dotted(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries with their keys as `a.b.c`; an empty dictionary is a value."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def check_keys(cls: Any, values: Any, where: str, prefix: str = "") -> None:
    """Refuse keys that the dataclass does not have; the nearest valid one is named."""
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: '{prefix.rstrip('.')}' is {values!r}, expected a section with keys")
    hints = typing.get_type_hints(cls)
    names = [field.name for field in dataclasses.fields(cls)]
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else f"valid keys: {', '.join(names)}"
            raise ConfigError(f"{where}: unknown key '{prefix}{key}'; {hint}")
        # `Section | None` has the section among its arguments.
        kinds = (hints[key], *typing.get_args(hints[key]))
        section = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if section is not None and (value is not None or section is hints[key]):
            check_keys(section, value, where, f"{prefix}{key}.")


def check_ranges(section: str, settings: Any, **limits: tuple[float | None, float | None]) -> None:
    """Check that numbers of a config section lie in their ranges; None values are skipped, NaN is refused.

    Args:
        section: Name of the section, for messages.
        settings: The section.
        **limits: Per key the smallest and the largest value; None is no limit.

    Raises:
        ConfigError: The first value outside its range.
    """
    for record in _recording:
        record.ranges |= limits
    for key, (low, high) in limits.items():
        value = getattr(settings, key)
        if value is None:
            continue
        finite = abs(value) < float("inf")  # False for NaN
        if not finite or (low is not None and value < low) or (high is not None and value > high):
            span = (
                f"{low} or more" if high is None else f"{high} or less" if low is None else f"{low} to {high}"
            )
            raise ConfigError(f"{section}.{key}: got {value}, expected {span}")


def check_choice(key: str, value: str, choices: Sequence[str]) -> None:
    """Check that a value is one of some words.

    Raises:
        ConfigError: It is not.
    """
    for record in _recording:
        record.choices[key.rpartition(".")[2]] = tuple(choices)
    if value not in choices:
        raise ConfigError(f"{key}: got '{value}', expected one of {', '.join(choices)}")


def recorded_limits(cls: type[Any]) -> Limits:
    """The ranges and choices that a config section's own checks use, for the reference and the JSON schema.

    A section with default values is built, and the limits that its checks ask for are recorded. So the documented
    limits are the enforced ones.
    """
    limits = Limits()
    _recording.append(limits)
    try:
        needed = [f.name for f in dataclasses.fields(cls) if f.init and _has_no_default(f)]
        cls(**dict.fromkeys(needed, None))
    except (ConfigError, TypeError, AttributeError):
        pass  # the defaults alone are not valid; the checks before the failing one were recorded
    finally:
        _recording.remove(limits)
    names = {field.name for field in dataclasses.fields(cls)}
    limits.ranges = {key: value for key, value in limits.ranges.items() if key in names}
    limits.choices = {key: value for key, value in limits.choices.items() if key in names}
    return limits


def _has_no_default(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def dump_settings(settings: Any) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(_plain(dataclasses.asdict(settings)), sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _explain(error: Exception) -> str:
    """One line out of jsonargparse's nested message: the key and what was expected."""
    text = " ".join(str(error).split())
    text = re.sub(r'Parser key "(?:config\.?)?([^"]*)": ', r"\1: ", text)
    if union := _UNION.search(text):
        expected = union["kinds"].replace("NoneType", "null").replace(", ", " or ")
        text = f"{text[: union.start()]}got {union['value']}, expected {expected}"
    return re.sub(r"<class '([^']+)'>", r"\1", text).removeprefix(": ")[:400]
