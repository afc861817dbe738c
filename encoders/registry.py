"""Finding encoders: a file `encoders/<name>.py` that sets `ENCODER = <class>` is the encoder `<name>`."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from .base import AudioEncoder, EncoderConfig, read_config, resolve_encoder
from .checkpoint import looks_like_hub_id
from .errors import ConfigError

_DECLARATION = re.compile(r"^ENCODER\b", re.MULTILINE)


@cache
def _names() -> tuple[str, ...]:
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple(file.stem for file in files if _DECLARATION.search(file.read_text(encoding="utf-8")))


def list_encoders() -> list[str]:
    """Names of all encoders, sorted; imports none of them."""
    return list(_names())


def encoder_class(name: str) -> type[AudioEncoder]:
    """The encoder class for a registry name (`audiomosaic`) or a `model_class` (`AudioMosaicPretrain`).

    Raises:
        ConfigError: There is none; names the nearest.
    """
    if name in _names():
        return import_module(f"{__package__}.{name}").ENCODER
    classes = {known: encoder_class(known) for known in _names()}
    for found in classes.values():
        if name in found.config_class.model_classes:
            return found
    candidates = [*classes, *(c for found in classes.values() for c in found.config_class.model_classes)]
    near = get_close_matches(name, candidates, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "it is neither an encoder nor a directory."
    raise ConfigError(f"unknown encoder {name!r}; {hint} Encoders: {', '.join(_names())}")


def config_from_dict(values: dict[str, Any], where: str = "encoder config") -> EncoderConfig:
    """The config that a dict with a `model_class` describes.

    Raises:
        ConfigError: No or unknown `model_class`, unknown key, wrong type.
    """
    if not isinstance(values.get("model_class"), str):
        raise ConfigError(f"{where}: model_class is missing; it names the encoder")
    return encoder_class(values["model_class"]).config_class.from_dict(values, where)


def load_encoder(source: str | os.PathLike[str], **overrides: Any) -> AudioEncoder:
    """An encoder by name (untrained), or from a directory or hub id (its weights, strictly).

    Args:
        source: A registry name, a directory in the release layout, a run directory whose `encoder` it is, or
            `organisation/name`. A name wins over a directory of that name; write `./name` for the directory.
        **overrides: Config values, and for weights also `from_pretrained`'s arguments (`revision`).

    Raises:
        ConfigError: Unknown name or config key.
        CheckpointError: Weights that are not there or do not fit.
    """
    if str(source) in _names():
        found = encoder_class(str(source))
        return found(found.config_class.from_dict(overrides, where=f"encoder {source!r}"))
    is_path = Path(source).expanduser().exists() or os.sep in str(source)
    if not is_path and not looks_like_hub_id(str(source)):
        encoder_class(str(source))  # raises, naming the nearest
    path = resolve_encoder(source, overrides.pop("revision", None))
    given = overrides.get("config", path if path.is_dir() else path.parent)
    if isinstance(given, EncoderConfig):
        return encoder_class(given.model_class).from_pretrained(path, **overrides)
    values = given if isinstance(given, dict) else read_config(given)
    return encoder_class(config_from_dict(values, str(given)).model_class).from_pretrained(path, **overrides)
