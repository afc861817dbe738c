"""The cache folder, for data that can be computed again, such as indices of manifests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path

CACHE_VARIABLE = "ALM_CACHE"
"""Environment variable: the cache folder; the default is `~/.cache/alm`."""


def cache_folder(name: str) -> Path:
    """A subfolder of the cache, which exists.

    Args:
        name: Name of the subfolder.

    Returns:
        The folder. Where the cache cannot be written, it is a temporary one that is removed with the process.
    """
    given = os.environ.get(CACHE_VARIABLE)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(given or os.path.join(home, "alm")).absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    except (OSError, ValueError):
        pass  # read-only, full, or no home
    folder = _temporary(os.getpid()) / name
    folder.mkdir(exist_ok=True)
    return folder


@cache
def _temporary(process: int) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="alm-cache-"))
    atexit.register(_remove, folder, process)
    return folder


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:  # a forked worker must not remove its parent's
        shutil.rmtree(folder, ignore_errors=True)


def remove_least_used(
    files: Iterable[Path], limit_bytes: float, kept_share: float = 1.0, keep: Path | None = None
) -> None:
    """Remove files of a cache, the least recently used first, if all together exceed a limit.

    Args:
        files: The files; their modification times tell when they were last used.
        limit_bytes: Largest size of all together.
        kept_share: Share of the limit that may remain once it was exceeded.
        keep: A file that is never removed.
    """
    found = []
    for file in files:
        with suppress(OSError):  # another process has just removed it
            status = file.stat()
            found.append((status.st_mtime, status.st_size, file))
    total = sum(size for _, size, _ in found)
    left = limit_bytes if total <= limit_bytes else limit_bytes * kept_share
    for _, size, file in sorted(found):
        if total <= left:
            break
        if file != keep:
            with suppress(OSError):
                file.unlink()
            total -= size
