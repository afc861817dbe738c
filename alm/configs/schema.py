"""JSON schemas of configs, with which editors complete and check keys."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any

from alm.configs.keys import REQUIRED, ConfigKey, section_keys, summary

DRAFT = "https://json-schema.org/draft/2020-12/schema"

_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def schema_of(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A reference to the schema of a config's dataclass, which is put into the definitions with all its sections.

    Args:
        cls: The dataclass.
        definitions: The `$defs` of the whole schema; changed.
    """
    name = cls.__name__
    if name not in definitions:
        definitions[name] = {}  # before its sections: one could contain it
        keys = section_keys(cls)
        definitions[name] = {
            "type": "object",
            "description": summary(cls),
            "properties": {key.name: _key_schema(key, definitions) for key in keys},
            "required": [key.name for key in keys if key.default is REQUIRED],
            "additionalProperties": False,
        }
    return {"$ref": f"#/$defs/{name}"}


def _key_schema(key: ConfigKey, definitions: dict[str, Any]) -> dict[str, Any]:
    found = {**_type_schema(key.hint, definitions), "description": key.text}
    low, high = key.range
    found |= {name: limit for name, limit in (("minimum", low), ("maximum", high)) if limit is not None}
    if key.choices:
        found["enum"] = [*key.choices, *([None] if key.default is None else [])]
    if key.default is not REQUIRED:
        found["default"] = key.default
    return found


def _type_schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type_schema(argument, definitions) for argument in arguments]}
    if origin is tuple and arguments[-1] is not Ellipsis:
        items = [_type_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if origin in (tuple, list, set):
        return {"type": "array", "items": _type_schema(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type_schema(arguments[1], definitions)}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return schema_of(hint, definitions)
    return {}
