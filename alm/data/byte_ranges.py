"""Reading ranges of bytes of large files, from many threads and processes."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

from alm.common.errors import StorageError
from alm.common.files import reason
from alm.common.storage.remote import is_remote, read_remote_range

_OPEN_FILES = 128


class _Handles(threading.local):
    """Open file descriptors of this thread; the least recently used is closed first."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.open: OrderedDict[str, int] = OrderedDict()

    def of(self, path: str) -> int:
        if self.process != os.getpid():  # a forked worker must not share file positions and locks
            self.process, self.open = os.getpid(), OrderedDict()
        if path in self.open:
            self.open.move_to_end(path)
            return self.open[path]
        while len(self.open) >= _OPEN_FILES:
            os.close(self.open.popitem(last=False)[1])
        self.open[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        return self.open[path]


_handles = _Handles()


def read_range(
    path: Path,
    at: int,
    size: int,
    what: str,
    error: type[StorageError] = StorageError,
    kind: str = "file",
) -> bytes:
    """Read `size` bytes of a file, beginning at byte `at`.

    Args:
        path: The file.
        at: Offset of the first byte.
        size: Number of bytes.
        what: The record or clip they belong to, for the error.
        error: Class of the error to raise.
        kind: What the file is, for the error.

    Raises:
        StorageError: Raised as `error`: the file is missing, cannot be read, or ends earlier.
    """
    try:
        remote = is_remote(path)
        data = read_remote_range(path, at, size) if remote else os.pread(_handles.of(str(path)), size, at)
    except FileNotFoundError as problem:
        raise error(f"{path}: the {kind} is missing; {what} lies in it; copy it again") from problem
    except (OSError, ValueError, OverflowError, MemoryError) as problem:
        raise error(f"{path}: cannot be read ({reason(problem)}); {what} lies in it") from problem
    if len(data) != size:
        raise error(
            f"{path}: the {kind} is truncated: {what} lies at {at}-{at + size}, the file ends at "
            f"{at + len(data) if data else path.stat().st_size}; copy it again"
        )
    return data
