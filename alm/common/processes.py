"""Python processes: child processes that end with their parent, and the rank and world size of this one."""

from __future__ import annotations

import _thread
import ctypes
import multiprocessing
import os
import re
import resource
import runpy
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import Any

from alm.common.errors import ConfigError
from alm.common.import_path import ROOT, SAFE_PATH, named_in_pythonpath

_LAUNCH = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_SLURM_TASK = "SLURM_PROCID"
_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>
# Enough time for a `__del__` to end. If it is still running, Python drops the signal again, and it is sent once more.
_REPEAT_AFTER_S = 0.02


def child_command(*words: str) -> list[str]:
    """The command line that starts Python without the working directory on its import path.

    Args:
        *words: Arguments of Python, for example `-m`, `alm`, `train`.
    """
    return [sys.executable, "-P", *words]


def tied_child_command(module: str, *words: str) -> list[str]:
    """The command line of a child that runs a module, as `python -m` does, and ends as soon as this process does.

    Args:
        module: The module, for example `alm`.
        *words: Its arguments.
    """
    code = "import sys; from alm.common.processes import run_tied; run_tied(*sys.argv[1:])"
    return child_command("-c", code, str(os.getpid()), module, *words)


def run_tied(parent: str, module: str, *words: str) -> None:
    """The entry point of a child of `tied_child_command`."""
    end_with_parent(int(parent))
    sys.argv[1:] = words
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def tied_call(function: Callable[..., None], *arguments: Any) -> tuple[Callable[[bytes], None], bytes]:
    """Make the target and argument of a `multiprocessing` child that ends as soon as its parent does.

    A child unpickles its arguments, which imports their modules, before it runs its target. These imports may take
    long, and a parent killed meanwhile would leave the child alive. So `function` and `arguments` are pickled here; the
    returned target first ties the child to its parent, then unpickles and calls them.

    Args:
        function: A module-level function, called in the child.
        *arguments: The arguments of `function`.

    Returns:
        The target and its only argument, for `multiprocessing.Process`.
    """
    return _call_tied, bytes(ForkingPickler.dumps((function, arguments)))


def _call_tied(call: bytes) -> None:
    end_with_parent()
    function, arguments = ForkingPickler.loads(call)
    function(*arguments)


def child_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child that runs the same code, with the import path of `child_command`.

    Args:
        more: Further variables to set; they override those of this process.
    """
    environment = {**os.environ, **(more or {})}
    folders = named_in_pythonpath(environment)
    if os.path.basename(ROOT) not in (
        "site-packages",
        "dist-packages",
    ):  # a checkout: found by its path, installed or not
        folders = [ROOT, *(folder for folder in folders if folder != ROOT)]
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    environment[SAFE_PATH] = "1"
    environment.pop(_SLURM_TASK, None)  # a child is no task of srun's
    return environment


def end_with_parent(parent: int | None = None) -> None:
    """Make this process end as soon as its parent does; a child must call it first.

    A killed parent cannot end its children itself. Workers that stay alive hold gigabytes and may write into folders
    that the next run uses.

    Linux sends the signal itself, when the thread that started this process ends; start children from the main
    thread. Elsewhere a thread of this process waits for the parent of a `multiprocessing` child. This does not work
    with the start method `forkserver`, because the fork server is then the parent.

    Args:
        parent: Process id of the parent, to detect a parent that ended before this call; None takes it from
            `multiprocessing`, or from the system if `multiprocessing` did not start this process.
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


@contextmanager
def interrupts_kept_from_children() -> Iterator[None]:
    """Keep Ctrl-C, which a terminal sends to all processes, from those started in this block.

    Otherwise each process would print a traceback; here the parent ends them. Ctrl-C during the block is raised after
    the block.
    """
    interrupts = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it
    # Another thread, of a library, may still get the signal: raised in the middle of a start, it would lose a child.
    handler = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True)) if in_main_thread else None
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if in_main_thread:
            signal.signal(signal.SIGINT, handler)
    if interrupts:
        raise KeyboardInterrupt


@contextmanager
def interrupts_repeated_where_dropped() -> Iterator[None]:
    """Send a signal again if Python drops the `KeyboardInterrupt` that its handler raises.

    Python drops exceptions in a `__del__`, in the callback of a weak reference and in a callback of C code. A Ctrl-C
    that arrives there (tqdm's bars have a `__del__`) would be printed, and the command would continue. A handler of
    another signal names it: `raise KeyboardInterrupt(signal.SIGTERM)`.
    """
    before, entered = sys.unraisablehook, True

    def hook(dropped: sys.UnraisableHookArgs, /) -> None:
        if not issubclass(dropped.exc_type, KeyboardInterrupt):
            before(dropped)
        else:  # a thread sends the signal: Python would also drop what this hook raises
            of = getattr(dropped.exc_value, "args", ())
            _thread.start_new_thread(send, (of[0] if of else signal.SIGINT,))

    def send(number: int) -> None:
        time.sleep(_REPEAT_AFTER_S)
        main = threading.main_thread().ident
        if entered and main is not None:
            signal.pthread_kill(main, number)  # this also ends a blocking call of the main thread

    sys.unraisablehook = hook
    try:
        yield
    finally:
        entered = False
        sys.unraisablehook = before


def cpu_seconds() -> float:
    """CPU time of this process and its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def rank() -> int:
    """Number of this process among those of one launch (RANK), from 0.

    Raises:
        ConfigError: RANK or WORLD_SIZE is not a number, or they contradict each other.
    """
    found = _number("RANK", 0)
    if not 0 <= found < world_size():
        raise ConfigError(
            f"RANK={found} with WORLD_SIZE={world_size()}: expected a rank below the world size"
        )
    return found


def world_size() -> int:
    """How many processes one launch started (WORLD_SIZE).

    Raises:
        ConfigError: WORLD_SIZE is no positive number.
    """
    found = _number("WORLD_SIZE", 1)
    if found < 1:
        raise ConfigError(f"WORLD_SIZE={found}: expected 1 or more")
    return found


def local_rank() -> int:
    """Number of this process on its machine (LOCAL_RANK), from 0."""
    return _number("LOCAL_RANK", 0)


def is_main_process() -> bool:
    """Whether this is the process that writes the shared files and prints."""
    return rank() == 0


def check_launch() -> None:
    """Check the variables that a launcher such as torchrun sets; those of tasks that `srun` started are derived.

    Raises:
        ConfigError: Some are set and others are missing, or they are no numbers.
    """
    _number_slurm_task()
    rank(), local_rank()
    if world_size() > 1 or "RANK" in os.environ or "LOCAL_RANK" in os.environ:
        missing = [name for name in _LAUNCH if name not in os.environ]
        if missing:
            there = [name for name in _LAUNCH if name in os.environ] + ["LOCAL_RANK"] * (
                "LOCAL_RANK" in os.environ
            )
            raise ConfigError(
                f"{', '.join(there)} without {', '.join(missing)}; start with torchrun, or unset {', '.join(there)}"
            )


def _number_slurm_task() -> None:
    """Give one of several tasks of `srun` the variables that torchrun would set, unless a launcher has.

    Slurm numbers the tasks (SLURM_PROCID of SLURM_NTASKS, SLURM_LOCALID on their machine). They meet on the first
    machine of SLURM_NODELIST, at a port that follows from the job's number; MASTER_ADDR and MASTER_PORT win.

    Raises:
        ConfigError: The variables are no numbers, or the machines are not named.
    """
    given = os.environ
    if _SLURM_TASK not in given or "RANK" in given or "WORLD_SIZE" in given:
        return
    # The tasks of this step; the whole job may have more. A batch script or shell inside a job has the job's variables,
    # but no step, and is a single process.
    tasks = _number("SLURM_STEP_NUM_TASKS", _number("SLURM_NTASKS", 1))
    if tasks < 2 or ("SLURM_JOB_ID" in given and "SLURM_STEP_ID" not in given):
        return
    machines = (
        given.get("SLURM_STEP_NODELIST") or given.get("SLURM_NODELIST") or given.get("SLURM_JOB_NODELIST")
    )
    if not machines and "MASTER_ADDR" not in given:
        raise ConfigError(
            f"{_SLURM_TASK} with {tasks} tasks, without SLURM_NODELIST; set MASTER_ADDR to the machine of task 0"
        )
    variables = {
        "RANK": str(_number(_SLURM_TASK, 0)),
        "WORLD_SIZE": str(tasks),
        "LOCAL_RANK": str(_number("SLURM_LOCALID", 0)),
        "MASTER_ADDR": given.get("MASTER_ADDR") or first_machine(machines or ""),
        "MASTER_PORT": given.get("MASTER_PORT") or str(20000 + _number("SLURM_JOB_ID", 0) % 20000),
    }
    given.update(variables)


def first_machine(machines: str) -> str:
    """The first name of a list in Slurm's notation, as `scontrol show hostnames` prints it.

    Args:
        machines: For example `node[01-04,07],login2`.
    """
    first = re.match(r"(?:\[[^\]]*\]|[^,\[])*", machines.strip())
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first[0] if first else "")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "")
    try:
        return int(text) if text else default
    except ValueError:
        raise ConfigError(f"{name}={text!r}: expected a whole number") from None
