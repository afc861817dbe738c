"""YAML of a config with a comment for every key, taken from the dataclass that parses it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from typing import Any

import yaml

from alm.configs.keys import REQUIRED, ConfigKey, section_keys

_WIDTH = 100


def commented_yaml(
    cls: type[Any],
    values: dict[str, Any],
    *,
    whole: bool = False,
    takes: Callable[[str], bool] = lambda key: True,
) -> str:
    """A config as YAML, with the meaning of each key in a comment above it.

    Args:
        cls: The dataclass that parses it.
        values: The values to write.
        whole: Write every other key too, with its default.
        takes: Whether a key, as `optim.lr`, belongs into this config.
    """
    return "\n".join(_lines(cls, values, whole, takes, "", 0)) + "\n"


def _lines(
    cls: type[Any], values: dict[str, Any], whole: bool, takes: Callable[[str], bool], prefix: str, depth: int
) -> list[str]:
    lines = []
    for key in section_keys(cls, prefix):
        name = key.name.rpartition(".")[2]
        if not takes(key.name) or not (name in values or (whole and key.default is not REQUIRED)):
            continue
        value = values.get(name, key.default)
        indent = "  " * depth
        lines += _comment(key, indent)
        if key.section is not None and isinstance(value, dict):
            lines += [
                f"{indent}{name}:",
                *_lines(key.section, value, whole, takes, f"{key.name}.", depth + 1),
            ]
        elif isinstance(value, dict) and value and any(isinstance(item, dict) for item in value.values()):
            text = yaml.safe_dump(value, sort_keys=False, width=_WIDTH, default_flow_style=None)
            lines += [f"{indent}{name}:", textwrap.indent(text.rstrip(), f"{indent}  ")]
        else:
            lines.append(f"{indent}{name}: {_flow(value)}")
    return lines


def _comment(key: ConfigKey, indent: str) -> list[str]:
    text = key.text.replace("`", "")
    if key.choices and not all(choice in text for choice in key.choices):
        text += f" One of {', '.join(key.choices)}."
    return textwrap.wrap(text, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def _flow(value: Any) -> str:
    if isinstance(value, float):
        return json.dumps(value) if "e" not in repr(value) else _exponent(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")


def _exponent(value: float) -> str:
    """A number in a form that YAML reads as a number: `1.0e-05`; it reads `1e-05` as text."""
    number, _, power = repr(value).partition("e")
    return f"{number if '.' in number else number + '.0'}e{power}"
