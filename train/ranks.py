"""Several processes, one run directory: who writes, and where the others wait."""

from __future__ import annotations

import os


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
    """Wait for all processes; nothing to wait for in a single one."""
    if world_size() > 1:
        from accelerate import PartialState

        PartialState().wait_for_everyone()


def say(text: str) -> None:
    """Print once, whatever the number of processes."""
    if is_main():
        print(text, flush=True)
