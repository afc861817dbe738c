"""Removes the working directory from the import path: it may hold a `train.py` that would replace our package.

`python -m alm` puts that directory first. It is removed before anything else is imported, so this module imports only
modules that Python has loaded already.
"""

import importlib.machinery
import os
import sys

TYPE_CHECKING = False  # stands for `typing.TYPE_CHECKING`: `typing` must not be imported yet
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

PACKAGES = ("alm", "encoders", "projectors", "eval", "train", "configs")
"""Top-level packages of this project."""

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
"""The folder that holds them: a checkout or site-packages."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable: `python -P`."""


class _OwnPackages:
    """Finds the packages of this project beside this one, whatever comes first on the import path."""

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> importlib.machinery.ModuleSpec | None:
        if path is None and name in PACKAGES:
            return importlib.machinery.PathFinder.find_spec(name, [ROOT], target)
        return None


def protect_imports() -> None:
    """Import nothing from the working directory, here and in child processes.

    A folder that the user names in PYTHONPATH stays on the import path.
    """
    if _OwnPackages not in sys.meta_path:
        sys.meta_path.insert(0, _OwnPackages)
    try:
        here = os.getcwd()
    except OSError:  # it was deleted: nothing can be imported from it
        here = ""
    named = {os.path.normpath(os.path.join(here, entry)) for entry in named_in_pythonpath(os.environ)}
    if here not in named and here != ROOT:
        sys.path[:] = [entry for entry in sys.path if entry not in ("", ".", here)]
    os.environ[SAFE_PATH] = "1"


def named_in_pythonpath(environment: "Mapping[str, str]") -> list[str]:
    """The folders that PYTHONPATH names; empty entries, which stand for the working directory, are dropped."""
    return [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
