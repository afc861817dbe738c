"""Preemption: after SIGTERM or SIGUSR1 the run saves a checkpoint and stops."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from train.engine.launchers import note_stop_signal

# What schedulers send before they kill: SLURM (--signal=USR1@60, or SIGTERM at the time limit), Kubernetes, clouds.
_HANDLED = (signal.SIGTERM, signal.SIGUSR1)


class Signals:
    """A context in which SIGTERM and SIGUSR1 are recorded instead of ending the process.

    Attributes:
        received: Name of the signal; None before one is received.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
            self._before = {number: signal.signal(number, self._remember) for number in _HANDLED}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name
        note_stop_signal()
