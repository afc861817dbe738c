"""Several processes, one run directory: who writes, and where the others wait."""

from __future__ import annotations

import os
from datetime import timedelta

_TIMEOUT = timedelta(minutes=30)  # the Trainer's


def rank() -> int:
    """This process's number."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process writes files (rank 0, or the only one)."""
    return rank() == 0


def barrier() -> None:
    """Wait for all processes; nothing to wait for in a single one.

    The first call joins them, as the Trainer would later. On a CPU accelerate must be told to: it takes processes
    without a GPU for single ones otherwise, and waits for nobody.
    """
    if world_size() > 1:
        import torch
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available(), timeout=_TIMEOUT).wait_for_everyone()


def say(text: str) -> None:
    """Print once, whatever the number of processes."""
    if is_main():
        print(text, flush=True)
