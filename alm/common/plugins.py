"""Discovery: a component is a file that assigns one well-known name, in its package or in a plug-in folder.

`encoders/zoo/beats.py` assigns `ENCODER`, so it is the encoder `beats`. The same file in a folder of `--plugins`
(the environment variable `ALM_PLUGINS`) is found in the same way, and so is an entry point, if the kind has an
entry-point group. Listing names imports none of the files.
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
from typing import Any, Generic, TypeVar

from alm.common.errors import ConfigError, UserError

PLUGINS = "ALM_PLUGINS"
"""Environment variable: plug-in folders, separated as in PATH."""

Component = TypeVar("Component")


class Registry(Generic[Component]):
    """All components of one kind, by name.

    Args:
        kind: Name of the kind in messages, for example `encoder`.
        attribute: The name that a file assigns, for example `ENCODER`.
        package: Dotted name of the package that holds the shipped ones.
        group: Entry-point group of installed packages that bring more; None reads no entry points.
        accepts: Whether what a plug-in file assigns is a component of this kind.
        expected: Description of a valid value, for messages.
    """

    def __init__(
        self,
        kind: str,
        attribute: str,
        package: str,
        group: str | None = None,
        accepts: Callable[[Any], bool] = lambda found: found is not None,
        expected: str = "...",
    ) -> None:
        self.kind, self.attribute, self.package, self.group = kind, attribute, package, group
        self.accepts, self.expected = accepts, expected

    def names(self) -> list[str]:
        """Names of all components, sorted; imports none of them.

        Raises:
            ConfigError: A plug-in folder is missing, or two components have one name.
        """
        return sorted(self.sources())

    def shipped(self) -> tuple[str, ...]:
        """Names of the components in the package itself."""
        return _shipped(self.package, self.attribute)

    def get(self, name: str) -> Component:
        """The component of a name.

        Raises:
            ConfigError: There is none (names the nearest), or its file does not import.
        """
        sources = self.sources()
        if not isinstance(name, str):  # null or a list in a config
            raise ConfigError(
                f"{self.kind}: got {name!r}, expected a name. Known: {', '.join(sorted(sources))}"
            )
        if name not in sources:
            near = get_close_matches(name, sources, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ConfigError(f"unknown {self.kind} '{name}'; {hint}Known: {', '.join(sorted(sources))}")
        found: Component = sources[name][1]()
        return found

    def sources(self) -> dict[str, tuple[str, Callable[[], Any]]]:
        """Every name with its source and a function that imports it.

        Raises:
            ConfigError: A plug-in folder is missing, or two components have one name.
        """
        found: dict[str, tuple[str, Callable[[], Any]]] = {}

        def add(name: str, where: str, load: Callable[[], Any]) -> None:
            if name in found:
                raise ConfigError(f"{self.kind} {name!r} is in {where} and in {found[name][0]}; rename one")
            found[name] = (where, load)

        for name in self.shipped():
            add(name, self.package, partial(self._load_shipped, name))
        for point in _entry_points(self.group) if self.group else ():
            add(point.name, f"entry point {point.value}", point.load)
        for file in plugin_files(self.attribute):
            add(name_of(file), str(file), partial(self.load_file, file))
        return found

    def load_file(self, path: str | os.PathLike[str]) -> Any:
        """The component that a plug-in file assigns to this kind's name.

        Raises:
            ConfigError: The file is missing, does not import, or does not assign the name.
        """
        found = getattr(import_file(path), self.attribute, None)
        if not self.accepts(found):
            raise ConfigError(
                f"{path}: declares no {self.kind}; end it with {self.attribute} = {self.expected}"
            )
        return found

    def _load_shipped(self, name: str) -> Any:
        return getattr(import_module(f"{self.package}.{name}"), self.attribute)


def plugin_files(attribute: str | None = None) -> list[Path]:
    """Files in the plug-in folders that assign `attribute` at the top level; without one, all Python files there.

    Raises:
        ConfigError: One of the folders is missing.
    """
    files: list[Path] = []
    for folder in dict.fromkeys(filter(None, os.environ.get(PLUGINS, "").split(os.pathsep))):
        if not os.path.isdir(folder):
            raise ConfigError(
                f"--plugins or {PLUGINS}: {folder} is not a directory; name folders with plug-in files"
            )
        files += _assigning(Path(folder).resolve(), attribute)
    return files


def name_of(file: Path) -> str:
    """`beats` for `beats.py`, `audiomosaic` for `audiomosaic/__init__.py`."""
    return file.parent.name if file.stem == "__init__" else file.stem


def import_file(path: str | os.PathLike[str]) -> ModuleType:
    """Import a plug-in file, once.

    Raises:
        ConfigError: The file is missing or does not import; names the line.
    """
    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    name = f"alm_plugins.{name_of(file)}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: not a Python file; give a .py file")
    module = importlib.util.module_from_spec(spec)
    # Config parsing imports plug-ins by the name of this package.
    package = sys.modules.setdefault("alm_plugins", ModuleType("alm_plugins"))
    package.__path__ = []
    sys.modules[name] = module  # dataclasses look their module up while they are defined
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        raise ConfigError(
            f"{_place(file, error)}: cannot be imported ({type(error).__name__}: {error}); correct the file"
        ) from error
    return module


def _place(file: Path, error: Exception) -> str:
    """`file:line` of an error in a file; the file alone if the line is not known."""
    if isinstance(error, SyntaxError):
        return f"{file}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    line = next((frame.lineno for frame in reversed(frames) if Path(frame.filename) == file), None)
    return str(file) if line is None else f"{file}:{line}"


@cache
def _shipped(package: str, attribute: str) -> tuple[str, ...]:
    folders = [Path(folder) for folder in import_module(package).__path__]
    return tuple(name_of(file) for folder in folders for file in _assigning(folder, attribute))


@cache
def _entry_points(group: str) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def _assigning(folder: Path, attribute: str | None) -> list[Path]:
    files = sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")], key=name_of)
    if attribute is None:
        return files
    assigns = re.compile(rf"^{attribute}\b", re.MULTILINE)
    return [file for file in files if assigns.search(file.read_text(encoding="utf-8", errors="replace"))]
