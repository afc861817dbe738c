"""Run independent pieces of work at the same time, each in its own process with its share of the cores.

A small model does not run faster on two cores, so two pieces of work at the same time finish sooner than one after the
other.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from typing import Any

from alm.common.errors import UserError
from alm.common.processes import end_with_parent, interrupts_kept_from_children, n_cores, tied_call
from alm.common.terminal import PROGRESS_ROW, OutputClosed, safe_streams

Work = tuple[Callable[..., Any], tuple[Any, ...]]


def run_side_by_side(steps: Sequence[Work]) -> None:
    """Run module-level functions at the same time; on an accelerator, or with one core, one after the other.

    Args:
        steps: (function, arguments) pairs; results are files.

    Raises:
        UserError: The error of the first step that raised one. The other steps are terminated.
        RuntimeError: A step crashed; its traceback has been printed.
    """
    from encoders.devices import accelerator

    cores = n_cores()
    if accelerator() is not None or cores < 2 or len(steps) < 2:
        for function, arguments in steps:
            function(*arguments)
        return
    context = multiprocessing.get_context("spawn")
    complaints = context.SimpleQueue()
    share = max(1, cores // len(steps))
    workers = [
        context.Process(target=_work, args=(*tied_call(function, *arguments), share, row, complaints))
        for row, (function, arguments) in enumerate(steps)
    ]
    try:
        with interrupts_kept_from_children():
            for worker in workers:
                worker.start()
        _wait(workers)
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()
            if worker.pid is not None:
                worker.join()
    if not complaints.empty():
        raise UserError(complaints.get())
    if any(worker.exitcode == OutputClosed.exit_code for worker in workers):
        raise OutputClosed
    if any(worker.exitcode for worker in workers):
        raise RuntimeError("a step crashed; its traceback is printed above")


def _wait(workers: Sequence[Any]) -> None:
    """Wait until all have finished, or one has failed."""
    from multiprocessing.connection import wait

    running = {worker.sentinel: worker for worker in workers}
    while running:
        # A signal that another thread received does not end the wait by itself.
        for sentinel in wait(list(running), timeout=0.5):
            if running.pop(sentinel).exitcode:
                return


def _work(function: Callable[[bytes], None], call: bytes, threads: int, row: int, complaints: Any) -> None:
    end_with_parent()
    import torch

    os.environ[PROGRESS_ROW] = str(row)
    torch.set_num_threads(threads)
    try:
        with safe_streams():
            function(call)
    except UserError as error:
        complaints.put(str(error))
        raise SystemExit(2) from error
