"""Child processes that end with their parent, however the parent ends."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>


def end_with_parent(parent: int | None = None) -> None:
    """Make this process end as soon as its parent does; call it first thing in a child.

    A killed parent cannot end its children itself. Workers that stay alive hold gigabytes and may write into folders
    that the next run uses.

    Linux sends the signal itself, when the thread that started this process ends; start children from the main
    thread. Elsewhere a thread of this process waits for the parent of a `multiprocessing` child. Not for the start
    method `forkserver`, whose children have another parent.

    Args:
        parent: Process id of the parent; None asks `multiprocessing`, or the system where this process was not
            started by it. It tells whether the parent ended before this call.
    """
    started_by = multiprocessing.parent_process()
    expected = parent if parent is not None else (started_by.pid if started_by is not None else None)
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if expected is not None and os.getppid() != expected:
            os._exit(1)
    elif started_by is not None:

        def wait() -> None:
            started_by.join()
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()
