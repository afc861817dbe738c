"""Finding encoders: `encoders/zoo/<name>.py`, or a package of that name, sets `ENCODER` to the class of `<name>`.

A file in a directory of `--plugins` (the environment variable ALM_PLUGINS) does the same, and so does an entry
point of the group `alm.encoders`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, shown
from alm.common.plugins import PLUGINS, Registry
from encoders.base import LAST_LAYER, AudioEncoder, EncoderConfig, read_config, resolve_encoder
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
_LAYERS = "layers"  # the encoder that wraps another one to return one of its layers
_FUSION = "fusion"  # the encoder that consists of several
CONCAT = "concat"
"""Value of the key `fusion` for encoders whose tokens are laid side by side."""


def list_encoders() -> list[str]:
    """Names of all encoders, sorted; imports none of them."""
    return ENCODERS.names()


def encoder_class(name: str) -> type[AudioEncoder]:
    """The encoder class for a registry name (`audiomosaic`) or a `model_class` (`AudioMosaicPretrain`).

    Raises:
        ConfigError: There is none; the message names the nearest.
    """
    sources = ENCODERS.sources()
    if name in sources:
        found: type[AudioEncoder] = sources[name][1]()
        if name not in ENCODERS.shipped():
            _require_own_model_class(name, found, sources)
        return found
    classes: dict[str, type[AudioEncoder]] = {known: load() for known, (_, load) in sources.items()}
    for known, found in classes.items():
        if name in found.config_class.model_classes:
            _require_own_model_class(known, found, sources)
            return found
    candidates = [*classes, *(c for found in classes.values() for c in found.config_class.model_classes)]
    # Names are compared without the ending that most share.
    bare = {one.removesuffix("Encoder"): one for one in reversed(candidates)}
    core = name.removesuffix("Encoder")
    near = [bare[one] for one in get_close_matches(core, bare, n=1, cutoff=0.5 if core == name else 0.7)]
    hint = f"did you mean {near[0]!r}?" if near else "it is neither an encoder nor a directory."
    raise ConfigError(
        f"unknown encoder {name!r}; {hint} Encoders: {', '.join(sources)}. To use an encoder from a file of your "
        f"own, give the file's directory as --plugins or in {PLUGINS}"
    )


def named_class(source: str) -> type[AudioEncoder] | None:
    """The class of an encoder given by name or Python file; None if the source has weights."""
    if source.endswith(".py"):
        found: type[AudioEncoder] = ENCODERS.load_file(source)
        return found
    return encoder_class(source) if source in ENCODERS.sources() else None


def _require_own_model_class(
    name: str, found: type[AudioEncoder], sources: dict[str, tuple[str, Callable[[], Any]]]
) -> None:
    """Refuse an encoder whose `model_class` another encoder has too: the other one would load its saved weights.

    Raises:
        ConfigError: Naming both encoders and the `model_class`.
    """
    others = [other for other in sources if other != name and not {name, other} <= {*ENCODERS.shipped()}]
    for other in others:
        try:
            theirs = sources[other][1]()
        except Exception:  # a file that does not import cannot load anything either
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
        known |= dict.fromkeys(found.config_class.model_types, found)
    if published not in known:
        raise ConfigError(
            f"{where}: no encoder reads model_type {published!r}; supported: {', '.join(sorted(known))}"
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


def part_sources(values: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The encoders that a fusion names: what `load_encoder` takes, and its options.

    Raises:
        ConfigError: Unknown or missing key, or fewer than two parts.
    """
    for key in values:
        if key not in ("fusion", "parts"):
            raise ConfigError(f"encoder: unknown key {shown(key, 40)}; expected fusion and parts")
    given = values.get("parts")
    if values.get("fusion") != CONCAT:
        raise ConfigError(f"encoder.fusion is {shown(values.get('fusion'), 40)}; expected {CONCAT}")
    if not isinstance(given, list | tuple) or len(given) < 2:
        raise ConfigError(f"encoder.parts is {shown(given, 80)}; expected a list of at least two encoders")
    sources = []
    for number, part in enumerate(given):
        options = dict(part) if isinstance(part, Mapping) else {"encoder": part}
        source = options.pop("encoder", None)
        if not isinstance(source, str):
            raise ConfigError(
                f"encoder.parts[{number}] is {shown(part, 80)}; expected a name, directory or hub id, or a mapping "
                "with encoder and its options"
            )
        sources.append((source, options))
    return sources


def encoder_sources(source: str | Mapping[str, Any]) -> list[str]:
    """The names, directories, hub ids and weights files behind an encoder of a config.

    Raises:
        ConfigError: A mapping that is no fusion of encoders.
    """
    return [source] if isinstance(source, str) else [part for part, _ in part_sources(source)]


def load_encoder(source: str | os.PathLike[str] | Mapping[str, Any], **overrides: Any) -> AudioEncoder:
    """An encoder by name (untrained), or from a directory, a hub id or a weights file (its weights, strictly).

    Args:
        source: A registry name, a directory in the release layout, a run directory that holds an `encoder`
            directory, `organisation/name`, or a weights file. A name overrides a directory of that name; write
            `./name` for the directory. A mapping with `fusion` and `parts` stands for several encoders at once; see
            `encoders.zoo.fusion`.
        **overrides: Config values, and for weights also `from_pretrained`'s arguments (`revision`). `model_class`
            names the encoder that a weights file belongs to (`beats`); it wins over a config.json beside the file.
            `layer`: `last`, a number, or `sum`; see `encoders.zoo.layers`.

    Raises:
        ConfigError: Unknown name or config key, or a `model_class` that contradicts a directory's config.json.
        CheckpointError: Weights that are missing or do not fit.
    """
    if "layer" in overrides:
        layer = str(overrides.pop("layer"))
        encoder = load_encoder(source, **overrides)
        wrapper: Any = encoder_class(_LAYERS)
        wrapped: AudioEncoder = encoder if layer == LAST_LAYER else wrapper.around(encoder, layer)
        return wrapped
    if isinstance(source, Mapping):
        if overrides:
            raise ConfigError(
                f"encoder: {', '.join(overrides)} given for a fusion of encoders; give options to a part: "
                "{encoder: SOURCE, OPTION: VALUE}"
            )
        fusion: Any = encoder_class(_FUSION)
        fused: AudioEncoder = fusion.from_parts(source)
        return fused
    if str(source) in ENCODERS.sources():
        found = encoder_class(str(source))
        return found(found.config_class.from_dict(overrides, where=f"encoder {source!r}"))
    is_path = os.path.exists(os.path.expanduser(source)) or os.sep in str(source)
    if not is_path and not looks_like_hub_id(str(source)):
        encoder_class(str(source))  # raises, naming the nearest
    path = resolve_encoder(source, overrides.pop("revision", None), _HUB_FILES)
    found = _class_for(path, overrides)
    named = overrides.get("model_class")
    if isinstance(named, str) and named not in found.config_class.model_classes:
        del overrides["model_class"]  # a registry name: it says which encoder, and changes no config value
    return found.from_pretrained(path, **overrides)


def _class_for(path: Path, overrides: dict[str, Any]) -> type[AudioEncoder]:
    """The encoder class of a directory or weights file: by `config`, by `model_class`, or by its config.json."""
    given = overrides.get("config")
    if isinstance(given, EncoderConfig):
        return encoder_class(given.model_class)
    if isinstance(given, dict):
        return _class_of(given, "config")
    named = overrides.get("model_class")
    explicit = encoder_class(named) if isinstance(named, str) else None
    if given is None and explicit is not None and not os.path.isdir(path):
        return explicit
    folder = path if os.path.isdir(path) else path.parent
    place = folder if given is None else given
    try:
        values = read_config(place)
    except ConfigError as error:
        if explicit is not None:
            return explicit
        raise ConfigError(
            f"{error}; for weights without a config.json, say which encoder they belong to, for example "
            "model_class=beats (encoder_options in a config, --encoder-option on the command line)"
        ) from error
    found = _class_of(values, str(place))
    if explicit is not None and explicit is not found:
        raise ConfigError(
            f"{place}: its config.json is that of {found.__name__}, model_class={named} that of "
            f"{explicit.__name__}; remove model_class, or give the weights file instead of the directory"
        )
    return found
