"""Ends the processes of a command together with the launcher (torchrun, deepspeed) that started them."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from alm.common.processes import end_with_parent, local_rank

_TORCHRUN = "TORCHELASTIC_RUN_ID"  # set by torchrun's agent
_DEEPSPEED = "CROSS_SIZE"  # set by deepspeed.launcher.launch
_RUNNER_SCRIPTS = ("deepspeed", "deepspeed.pt", "ds")  # of the deepspeed package
_POLL_S = 0.5
_GRACE_S = 5

_stopping = False


def note_stop_signal() -> None:
    """Say that this process has received a signal after which it saves and ends by itself."""
    global _stopping
    _stopping = True


def end_with_launcher() -> None:
    """Make this process end when its launcher ends; a command that launchers start must call it first.

    A killed launcher cannot end its processes itself. The parent of a process is torchrun's agent or
    `deepspeed.launcher.launch`. The latter is a child of the `deepspeed` runner, which leaves it alive when it is
    killed; so the runner is watched too.
    """
    if _TORCHRUN in os.environ:
        end_with_parent()
    elif _DEEPSPEED in os.environ:
        _end_with_deepspeed()


def warn_of_build_locks() -> None:
    """Warn of extensions that another process is building, because DeepSpeed waits for them without a message.

    If the building process was killed, PyTorch's lock file remains and DeepSpeed waits forever.
    """
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or caches / "torch_extensions")  # PyTorch's on Linux
    for lock in sorted([*root.glob("*/lock"), *root.glob("*/*/lock")]) if local_rank() == 0 else ():
        with suppress(OSError):  # the build ended meanwhile
            minutes = (time.time() - lock.stat().st_mtime) / 60
            _say(
                f"DeepSpeed waits for another process to build '{lock.parent.name}', begun {minutes:.0f} min ago; "
                f"if it was killed, delete {lock}"
            )


def _end_with_deepspeed() -> None:
    import psutil  # a dependency of deepspeed

    try:
        launch = psutil.Process().parent()
        runner = launch.parent() if launch is not None else None
        words = [process.cmdline() if process is not None else [] for process in (launch, runner)]
    except psutil.Error:  # ended meanwhile, or hidden: another user's
        return
    if launch is None or not _starts(words[0], "launch"):
        return  # the variables were inherited: a worker started this process, and ends it
    end_with_parent(launch.pid)
    match runner_state(*words):
        case "gone":
            _say("the deepspeed runner was killed before this process started; ending")
            os._exit(1)
        case "running":
            assert runner is not None
            threading.Thread(target=_watch, args=(launch, runner.pid), daemon=True).start()


def runner_state(launch: Sequence[str], parent: Sequence[str]) -> Literal["running", "gone", "unknown"]:
    """Whether the `deepspeed` runner that started a `deepspeed.launcher.launch` is still its parent.

    Returns:
        `unknown` if a remote shell (pdsh) or a user started it: then this machine has no runner.

    Args:
        launch: Command line of `deepspeed.launcher.launch`.
        parent: Command line of its parent; empty where that cannot be read.
    """
    if any(os.path.basename(word) in _RUNNER_SCRIPTS for word in parent[:3]) or _starts(parent, "runner"):
        return "running"
    # Another Python program may have called the runner's `main`.
    python = not parent or "python" in os.path.basename(parent[0])
    return "gone" if _started_by_runner(launch) and not python else "unknown"


def _starts(words: Sequence[str], module: str) -> bool:
    """Whether a command line starts a module of `deepspeed.launcher`."""
    return f"deepspeed.launcher.{module}" in words or any(
        word.endswith(f"deepspeed/launcher/{module}.py") for word in words[:3]
    )


def _started_by_runner(launch: Sequence[str]) -> bool:
    """Whether the options are those that the runner gives on its own machine, in its order.

    For remote machines it puts `--node_rank` before `--master_addr`; nobody types `--enable_each_rank_log=None`.
    """
    names = [word.partition("=")[0] for word in launch if word.startswith("--")]
    return names[:2] == ["--world_info", "--master_addr"] and "--enable_each_rank_log" in names


def _watch(launch: Any, runner: int) -> None:
    """Stop this process when the parent of `launch` is no longer the runner."""
    import psutil

    with suppress(psutil.Error):
        while launch.ppid() == runner:
            time.sleep(_POLL_S)
    if _stopping:  # the signal went to all processes: `launch` waits for this one, and kills it after 30 s
        return
    # Every process prints this: the first to notice stops the others, which may end before they notice themselves.
    _say(f"process {local_rank()}: the deepspeed runner has ended; stopping")
    # After this time SIGALRM ends the process, even if Python hangs at its exit, where this thread no longer runs.
    signal.alarm(_GRACE_S)
    os.kill(os.getpid(), signal.SIGTERM)  # a training run saves a checkpoint


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # the terminal may be closed
        print(line, file=sys.stderr, flush=True)
