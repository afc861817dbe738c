"""Finding encoders: `encoders/zoo/<name>.py`, or a package of that name, sets `ENCODER` to the class of `<name>`.

So is such a file in a directory of the environment variable ALM_PLUGINS, and an entry point of the group
`alm.encoders`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache, partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from encoders.base import AudioEncoder, EncoderConfig, read_config, resolve_encoder
from encoders.checkpoint import looks_like_hub_id
from encoders.errors import ConfigError, UserError

PLUGINS = "ALM_PLUGINS"
"""Environment variable: directories with encoder files, separated as in PATH."""
_GROUP = "alm.encoders"
_ZOO = "encoders.zoo"
_HUB_FILES = ("*.json", "*.safetensors", "*.bin", "*.pt")
_DECLARATION = re.compile(r"^ENCODER\b", re.MULTILINE)


@cache
def _own() -> tuple[str, ...]:
    return tuple(_name_of(file) for file in _declaring(Path(__file__).parent / "zoo"))


def _import_own(name: str) -> type[AudioEncoder]:
    return import_module(f"{_ZOO}.{name}").ENCODER


@cache
def _entry_points() -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=_GROUP))


def _declaring(folder: Path) -> list[Path]:
    files = sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")], key=_name_of)
    return [file for file in files if _DECLARATION.search(file.read_text(encoding="utf-8", errors="replace"))]


def _name_of(file: Path) -> str:
    """`beats` for `beats.py`, `audiomosaic` for `audiomosaic/__init__.py`."""
    return file.parent.name if file.stem == "__init__" else file.stem


def _sources() -> dict[str, tuple[str, Callable[[], Any]]]:
    """Every encoder's name: where it comes from, and what imports it.

    Raises:
        ConfigError: A plugin directory is missing, or two encoders have one name.
    """
    found: dict[str, tuple[str, Callable[[], Any]]] = {}

    def add(name: str, where: str, load: Callable[[], Any]) -> None:
        if name in found:
            raise ConfigError(f"encoder {name!r} is in {where} and in {found[name][0]}; rename one")
        found[name] = (where, load)

    for name in _own():
        add(name, _ZOO, partial(_import_own, name))
    for point in _entry_points():
        add(point.name, f"entry point {point.value}", point.load)
    for file in plugin_files():
        add(_name_of(file), str(file), partial(load_plugin, file))
    return found


def plugin_files() -> list[Path]:
    """Encoder files in the directories of ALM_PLUGINS.

    Raises:
        ConfigError: One of the directories is not there.
    """
    files = []
    for folder in dict.fromkeys(filter(None, os.environ.get(PLUGINS, "").split(os.pathsep))):
        if not Path(folder).is_dir():
            raise ConfigError(
                f"--plugins or {PLUGINS}: {folder} is no directory; name directories with encoder files"
            )
        files += _declaring(Path(folder).resolve())
    return files


def load_plugin(path: str | os.PathLike[str]) -> type[AudioEncoder]:
    """The encoder class of a file.

    Raises:
        ConfigError: The file is missing, does not import, or declares no encoder.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    try:
        found = getattr(_import_file(file), "ENCODER", None)
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if Path(frame.filename) == file), None)
        line = error.lineno if isinstance(error, SyntaxError) else line
        place = file if line is None else f"{file}:{line}"
        raise ConfigError(f"{place}: does not import ({type(error).__name__}: {error}); mend it") from error
    if not (isinstance(found, type) and issubclass(found, AudioEncoder)):
        raise ConfigError(f"{file}: declares no encoder; end it with ENCODER = <a subclass of AudioEncoder>")
    return found


def _import_file(file: Path) -> ModuleType:
    name = f"alm_plugins.{_name_of(file)}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are defined
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def list_encoders() -> list[str]:
    """Names of all encoders, sorted; imports none of them."""
    return sorted(_sources())


def encoder_class(name: str) -> type[AudioEncoder]:
    """The encoder class for a registry name (`audiomosaic`) or a `model_class` (`AudioMosaicPretrain`).

    Raises:
        ConfigError: There is none; names the nearest.
    """
    sources = _sources()
    if name in sources:
        found = sources[name][1]()
        if name not in _own():
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
    others = [other for other in sources if other != name and not {name, other} <= {*_own()}]
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
    for _, load in _sources().values():
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
    sources = _sources()
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
