"""The progress bar of every long step: rate and remaining time; without a terminal it is redrawn every 20 seconds."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ROW = "ALM_PROGRESS_ROW"
"""Environment variable: the row of this process's bar, where several processes show one at the same time."""


@contextmanager
def progress(title: str, total: int, unit: str = "it") -> Iterator[Callable[..., None]]:
    """Show a bar on stderr; yields `advance(n=1, **shown)`.

    Args:
        title: Name of the step; empty shows no bar.
        total: Number of units that will be done.
        unit: Name of one unit.
    """
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=title,
        unit=unit,
        mininterval=0.3 if watched else 20.0,
        dynamic_ncols=watched,
        ascii=not watched,
        disable=not title,
        position=int(os.environ.get(ROW, "0")),
        smoothing=0.1,
    ) as bar:

        def advance(n: int = 1, **shown: object) -> None:
            if shown:
                bar.set_postfix({key: str(value) for key, value in shown.items()}, refresh=False)
            bar.update(n)

        yield advance


def counter(advance: Callable[..., None]) -> Callable[[int, int], None]:
    """Turn `advance` into a callback that takes (done, total)."""
    seen = 0

    def show(done: int, _total: int) -> None:
        nonlocal seen
        advance(done - seen)
        seen = done

    return show
