"""YAML run configs with dotted overrides, checked against frozen dataclasses."""

from __future__ import annotations

import dataclasses
import difflib
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from alm.common.errors import ConfigError

T = TypeVar("T")


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

    check_keys(cls, values, where)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", type=cls)
    try:
        return parser.instantiate_classes(parser.parse_object({"config": values})).config
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        cause = error.__cause__
        while cause is not None and not isinstance(cause, ConfigError):
            cause = cause.__cause__
        if isinstance(cause, ConfigError):
            raise ConfigError(f"{where}: {cause}") from error
        raise ConfigError(f"{where}: {_explain(error)}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file whose top level is a mapping."""
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such config file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text ({error})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values at the top level")
    return values


def apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    """Put `key.sub=value` strings into nested dictionaries; values are YAML."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key:
            raise ConfigError(f"override '{override}': expected key.sub=value")
        try:
            set_dotted(values, key, yaml.safe_load(text) if text else "")
        except yaml.YAMLError as error:
            raise ConfigError(f"override '{override}': the value is not YAML") from error


def set_dotted(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `a.b.c` in nested dictionaries."""
    *path, last = key.split(".")
    for part in path:
        inner = values.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"override '{key}': '{part}' is a value, not a section")
        values = inner
    values[last] = value


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
        kinds = (hints[key], *typing.get_args(hints[key]))  # the second: of `Section | None`
        section = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if section is not None and (value is not None or section is hints[key]):
            check_keys(section, value, where, f"{prefix}{key}.")


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
    return re.sub(r"<class '([^']+)'>", r"\1", text).removeprefix(": ")[:400]
