"""The keys of a config with type, default, range and description, read from its dataclass and docstring."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

from alm.common.settings import recorded_limits

REQUIRED = dataclasses.MISSING
"""Default of a key that has none."""


@dataclasses.dataclass(frozen=True)
class ConfigKey:
    """One key of a config.

    Attributes:
        name: The key with its sections, for example `optim.lr`.
        hint: The type of its value.
        default: Its default as plain values; `REQUIRED` if a config must give it.
        text: Its description.
        range: Smallest and largest value that are allowed; None is no limit.
        choices: The words that are allowed; empty: any.
        section: The dataclass of its sub-keys, if it is a section.
    """

    name: str
    hint: Any
    default: Any
    text: str
    range: tuple[float | None, float | None] = (None, None)
    choices: tuple[str, ...] = ()
    section: type[Any] | None = None

    @property
    def type(self) -> str:
        """The type in words: `number`, `list of text`, ..."""
        return type_words(self.hint)

    @property
    def allowed(self) -> str:
        """Range or choices in words; "" if every value of the type is allowed."""
        if self.choices:
            return ", ".join(f"`{choice}`" for choice in self.choices)
        low, high = self.range
        if low is None and high is None:
            return ""
        return (
            f"{low:g} or more"
            if high is None
            else f"{high:g} or less"
            if low is None
            else f"{low:g} to {high:g}"
        )


def config_keys(cls: type[Any], prefix: str = "") -> Iterator[ConfigKey]:
    """Every key of a config, sections before their sub-keys.

    Args:
        cls: The dataclass that parses the config.
        prefix: Section that the keys are in, with a dot at its end.
    """
    for key in section_keys(cls, prefix):
        yield key
        if key.section is not None:
            yield from config_keys(key.section, f"{key.name}.")


def section_keys(cls: type[Any], prefix: str = "") -> tuple[ConfigKey, ...]:
    """The keys of one section, without those of its sub-sections."""
    hints, texts, limits = typing.get_type_hints(cls), attribute_texts(cls), recorded_limits(cls)
    found = []
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        # `Section | None` has the section among its arguments.
        kinds = (hints[field.name], *typing.get_args(hints[field.name]))
        found.append(
            ConfigKey(
                prefix + field.name,
                hints[field.name],
                _plain_default(field),
                texts.get(field.name, ""),
                limits.ranges.get(field.name, (None, None)),
                limits.choices.get(field.name, ()),
                next(
                    (kind for kind in kinds if dataclasses.is_dataclass(kind) and isinstance(kind, type)),
                    None,
                ),
            )
        )
    return tuple(found)


def attribute_texts(cls: type[Any]) -> dict[str, str]:
    """The texts about attributes of a class and its bases: of "Attributes:" sections, or strings below attributes."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        found |= _texts_below(base)
        _, _, block = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        name = ""
        for line in block.splitlines():
            if line and not line.startswith(" "):
                break
            start = re.match(r"    (\w+): (.*)", line)
            if start:
                name = start[1]
                found[name] = start[2]
            elif name and line.strip():
                found[name] += f" {line.strip()}"
    return found


def _texts_below(cls: type[Any]) -> dict[str, str]:
    """The strings that stand below attributes in the source of a class."""
    if not dataclasses.is_dataclass(cls):
        return {}
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    found = {}
    for above, below in itertools.pairwise(getattr(node, "body", ())):
        if isinstance(above, ast.AnnAssign) and isinstance(above.target, ast.Name):
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                found[above.target.id] = " ".join(str(below.value.value).split())
    return found


def summary(cls: type[Any]) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(inspect.cleandoc(cls.__doc__ or "").partition("\n\n")[0].split())


def type_words(hint: Any) -> str:
    """A type in words."""
    words: dict[Any, str] = {
        bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null", Any: "any",
    }  # fmt: skip
    if hint in words:
        return words[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return f"list of {type_words(arguments[0])}"
    if origin is tuple:
        return f"list of {len(arguments)}: {', '.join(type_words(argument) for argument in arguments)}"
    if origin in (list, set):
        return f"list of {type_words(arguments[0])}"
    if origin is dict or hint is dict:
        return "mapping"
    return "section" if dataclasses.is_dataclass(hint) else getattr(hint, "__name__", str(hint))


def _plain_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return plain(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return plain(field.default_factory())
    return REQUIRED


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries and tuples as lists, all the way down."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value
