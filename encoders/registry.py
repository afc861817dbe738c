"""Finding encoders: `encoders/zoo/<name>.py`, or a package of that name, sets `ENCODER` to the class of `<name>`.

So is such a file in a directory of the environment variable ALM_PLUGINS, and an entry point of the group
`alm.encoders`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.plugins import PLUGINS, Registry
from encoders.base import AudioEncoder, EncoderConfig, read_config, resolve_encoder
from encoders.checkpoint import looks_like_hub_id

ENCODERS: Registry[type[AudioEncoder]] = Registry(
    "encoder",
    "ENCODER",
    "encoders.zoo",
    group="alm.encoders",
    accepts=lambda found: isinstance(found, type) and issubclass(found, AudioEncoder),
    expected="<a subclass of AudioEncoder>",
)
_HUB_FILES = ("*.json", "*.safetensors", "*.bin", "*.pt")


def list_encoders() -> list[str]:
    """Names of all encoders, sorted; imports none of them."""
    return sorted(ENCODERS.sources())


def encoder_class(name: str) -> type[AudioEncoder]:
    """The encoder class for a registry name (`audiomosaic`) or a `model_class` (`AudioMosaicPretrain`).

    Raises:
        ConfigError: There is none; names the nearest.
    """
    sources = ENCODERS.sources()
    if name in sources:
        found = sources[name][1]()
        if name not in ENCODERS.shipped():
            _require_own_model_class(name, found, sources)
        return found
    classes = {known: load() for known, (_, load) in sources.items()}
    for known, found in classes.items():
        if name in found.config_class.model_classes:
            _require_own_model_class(known, found, sources)
            return found
    candidates = [*classes, *(c for found in classes.values() for c in found.config_class.model_classes)]
    near = get_close_matches(name, candidates, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "it is neither an encoder nor a directory."
    raise ConfigError(
        f"unknown encoder {name!r}; {hint} Encoders: {', '.join(sources)}. One in a file of yours is found when "
        f"its directory is given as --plugins or in {PLUGINS}"
    )


def _require_own_model_class(
    name: str, found: type[AudioEncoder], sources: dict[str, tuple[str, Callable[[], Any]]]
) -> None:
    """Refuse an encoder whose saved directories another one would load.

    Raises:
        ConfigError: Says which two and what they have in common.
    """
    others = [other for other in sources if other != name and not {name, other} <= {*ENCODERS.shipped()}]
    for other in others:
        try:
            theirs = sources[other][1]()
        except Exception:  # a file that does not import loads nothing
            continue
        shared = sorted({*theirs.config_class.model_classes} & {*found.config_class.model_classes})
        if shared:
            raise ConfigError(
                f"encoders {name!r} ({sources[name][0]}) and {other!r} ({sources[other][0]}) both save themselves as "
                f"model_class {shared[0]}, so one would be loaded for the other; give one its own model_class"
            )


def _class_of(values: dict[str, Any], where: str) -> type[AudioEncoder]:
    """The encoder that a config.json belongs to: by our `model_class`, or a publisher's `model_type`."""
    if isinstance(values.get("model_class"), str):
        return encoder_class(values["model_class"])
    published = values.get("model_type")
    if not isinstance(published, str):
        raise ConfigError(f"{where}: model_class is missing; it names the encoder")
    known: dict[str, type[AudioEncoder]] = {}
    for _, load in ENCODERS.sources().values():
        found = load()
        known |= dict.fromkeys(getattr(found.config_class, "model_types", ()), found)
    if published not in known:
        raise ConfigError(
            f"{where}: no encoder reads model_type {published!r}; those that are read: {', '.join(sorted(known))}"
        )
    return known[published]


def config_from_dict(values: dict[str, Any], where: str = "encoder config") -> EncoderConfig:
    """The config that a dict with a `model_class` describes.

    Raises:
        ConfigError: No or unknown `model_class`, unknown key, wrong type.
    """
    if not isinstance(values.get("model_class"), str):
        raise ConfigError(f"{where}: model_class is missing; it names the encoder")
    return encoder_class(values["model_class"]).config_class.from_dict(values, where)


def load_encoder(source: str | os.PathLike[str], **overrides: Any) -> AudioEncoder:
    """An encoder by name (untrained), or from a directory, a hub id or a weights file (its weights, strictly).

    Args:
        source: A registry name, a directory in the release layout, a run directory whose `encoder` it is,
            `organisation/name`, or a weights file. A name wins over a directory of that name; write `./name` for
            the directory.
        **overrides: Config values, and for weights also `from_pretrained`'s arguments (`revision`). Where no
            config.json is beside the weights, `model_class` says whose they are (`beats`). `layer`: `last`, a
            number, or `sum`; see `encoders.layers`.

    Raises:
        ConfigError: Unknown name or config key.
        CheckpointError: Weights that are not there or do not fit.
    """
    if "layer" in overrides:
        from encoders.layers import LayersEncoder

        layer = str(overrides.pop("layer"))
        return LayersEncoder.around(load_encoder(source, **overrides), layer)
    sources = ENCODERS.sources()
    if str(source) in sources:
        found = encoder_class(str(source))
        return found(found.config_class.from_dict(overrides, where=f"encoder {source!r}"))
    is_path = Path(source).expanduser().exists() or os.sep in str(source)
    if not is_path and not looks_like_hub_id(str(source)):
        encoder_class(str(source))  # raises, naming the nearest
    path = resolve_encoder(source, overrides.pop("revision", None), _HUB_FILES)
    folder = path if path.is_dir() else path.parent
    bare = "config" not in overrides and not (folder / "config.json").is_file()
    if bare and isinstance(overrides.get("model_class"), str):
        return encoder_class(overrides.pop("model_class")).from_pretrained(path, **overrides)
    given = overrides.get("config", folder)
    if isinstance(given, EncoderConfig):
        return encoder_class(given.model_class).from_pretrained(path, **overrides)
    values = given if isinstance(given, dict) else _config_beside(given)
    return _class_of(values, str(given)).from_pretrained(path, **overrides)


def _config_beside(place: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        return read_config(place)
    except ConfigError as error:
        raise ConfigError(
            f"{error}; for weights that come without one say whose they are, for example "
            "encoder_options.model_class=beats"
        ) from error
