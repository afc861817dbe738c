"""Limits the freed memory that the C library (glibc) keeps; with other libraries these functions do nothing.

glibc gives each thread its own heap (arena). After a large buffer was freed, later buffers of that size come from these
heaps, too. If threads in turn allocate buffers of megabytes between small objects that stay, hundreds of MiB are free
but are not given back to the system.
"""

from __future__ import annotations

import ctypes
from typing import Any

_M_ARENA_MAX = -8  # <malloc.h>


def limit_arenas(count: int) -> None:
    """Limit the number of heaps that threads share; a thread keeps a heap that it already has.

    Args:
        count: Largest number of heaps.
    """
    if (function := _of_libc("mallopt")) is not None:
        function(_M_ARENA_MAX, count)


def release_freed_memory() -> None:
    """Give the system all whole pages that are free. It takes some milliseconds, during which other threads run."""
    if (function := _of_libc("malloc_trim")) is not None:
        function(0)


def _of_libc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    try:
        return getattr(ctypes.CDLL(None), name, None)
    except (OSError, TypeError):  # no library of that kind on this system
        return None
