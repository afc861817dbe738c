"""Preemption: a signal asks the run to save and leave; a second one is not needed."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

# What schedulers send before they kill: SLURM (--signal=USR1@60, or SIGTERM at the time limit), Kubernetes, clouds.
_ASKED = (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """While entered, remembers that one of the signals came instead of dying of it.

    Attributes:
        received: The signal's name; None while none came.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {asked: signal.signal(asked, self._remember) for asked in _ASKED}
        return self

    def __exit__(self, *_: object) -> None:
        for asked, before in self._before.items():
            signal.signal(asked, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
