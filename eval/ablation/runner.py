"""Runs steps as processes, a limited number at a time; a finished step is never run again.

A step's folder holds its log, a lock that its process holds until it ends, and a marker when it is done. If
`alm ablate` is killed, the lock remains: a step whose process is still running is waited for, not started twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import yaml

from alm.common.errors import UserError
from alm.common.files import write_text_atomic
from alm.common.processes import child_environment
from eval.ablation.steps import CONFIG, DONE, FAILED, LOCK, LOG, Step, all_steps, placed
from eval.ablation.warm_start import Child, Starter, start_cold

_POLL_S = 0.1
# At the start of a line, or behind a progress bar on the same line.
_ERROR = re.compile(r"(?:^|[\])])\s*((?:error: |[\w.]*(?:Error|Exception|Interrupt)\b).*)")
_GRACE_S = 20.0
# What `alm train` and `alm eval` import: most of it, and nothing that starts a GPU.
_IMPORTED = (
    *("alm.cli", "alm.commands.*", "alm.data.readers.*", "encoders.zoo.*", "projectors.*"),
    *("train.pipeline.runner", "train.stages.*", "train.tune.estimate", "train.pretrain.stage"),
    *("train.pretrain.losses.*", "train.pretrain.masks.*", "train.quickstart.workflow"),
    *(
        "eval.benchmarks.*",
        "eval.metrics.*",
        "eval.models.*",
        "eval.runner.benchmark",
        "eval.reports.run_report",
    ),
)

Say = Callable[[str], None]


class Watcher(Protocol):
    """Shows how far the steps are."""

    def begin(self, steps: Sequence[Step]) -> None:
        """Called with all steps before any is run."""

    def show(self) -> None:
        """Called several times a second while steps run."""


@dataclass
class _Running:
    step: Step
    process: Child
    lock: int
    started: float


def step_folder(work: Path, step: Step) -> Path:
    """Where a step's files are."""
    return work / "steps" / step.folder


def is_done(work: Path, step: Step) -> bool:
    """Whether a step's marker and its output are there."""
    folder = step_folder(work, step)
    return (folder / DONE).is_file() and (folder / step.output).exists()


def step_starter(jobs: int) -> Starter:
    """The starter of processes that have imported the libraries already.

    Args:
        jobs: Processes at a time.
    """
    return Starter(_IMPORTED, _environment(jobs))


def run_steps(
    work: Path,
    last: Sequence[Step],
    jobs: int,
    say: Say = print,
    starter: Starter | None = None,
    watch: Watcher | None = None,
) -> None:
    """Run some steps and all before them; a failed one is noted in its folder, and steps that need it are skipped.

    Args:
        work: The folder that holds them.
        last: The steps whose results are wanted.
        jobs: Processes at a time.
        say: Called with one line per step that ends.
        starter: Starts the processes; None starts a new interpreter for each.
        watch: Shows how far they are; None shows nothing but `say`.
    """
    if watch is not None:
        watch.begin(all_steps(last))
    launch = starter.start if starter else partial(start_cold, environment=_environment(jobs))
    waiting = [step for step in all_steps(last) if not is_done(work, step)]
    old = {step.key: _failure(work, step) for step in waiting}  # these steps are tried again
    total, ended, failed = len(waiting), 0, set[str]()
    running: list[_Running] = []
    before = signal.signal(signal.SIGTERM, _interrupt)  # the steps' processes are stopped as after Ctrl-C
    try:
        while waiting or running:
            for step in list(waiting):
                if any(one.key in failed for one in step.chain()[:-1]):
                    waiting.remove(step)
                    failed.add(step.key)
                    ended += 1
                    say(f"[{ended}/{total}] {step.label}: skipped: a step that it needs has failed")
                elif len(running) < jobs and all(is_done(work, one) for one in step.needs):
                    lock = _lock(step_folder(work, step))
                    if lock is None:  # another process runs it
                        continue
                    waiting.remove(step)
                    failure = _failure(work, step)
                    if is_done(work, step) or failure != old[step.key]:  # by another process meanwhile
                        os.close(lock)
                        ended += 1
                        if not is_done(work, step):
                            failed.add(step.key)
                            say(f"[{ended}/{total}] {step.label}: FAILED in another process")
                        continue
                    running.append(_start(work, step, lock, launch))
            for one in list(running):
                if one.process.poll() is not None:
                    running.remove(one)
                    ended += 1
                    problem = _end(work, one)
                    if problem is not None:
                        failed.add(one.step.key)
                    took = f"{time.perf_counter() - one.started:.0f} s"
                    state = f"FAILED ({problem})" if problem else "done"
                    say(f"[{ended}/{total}] {one.step.label}: {state}, {took}")
            if watch is not None:
                watch.show()
            time.sleep(_POLL_S)
    finally:
        _stop(running)
        signal.signal(signal.SIGTERM, before)


def _failure(work: Path, step: Step) -> str | None:
    """The marker of a failed step, which says when it failed."""
    with contextlib.suppress(OSError):
        file = step_folder(work, step) / FAILED
        return f"{file.read_text(encoding='utf-8').strip()} ({file.stat().st_mtime_ns})"
    return None


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt(signal.SIGTERM)


def _lock(folder: Path) -> int | None:
    """The step's lock, or None while another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    except OSError as error:
        os.close(handle)
        raise UserError(
            f"{folder}: the file system has no locks ({error.strerror}), without which two processes could run one "
            "step; set work to a folder on another, or mount it with locks"
        ) from error
    return handle


def _environment(jobs: int) -> dict[str, str]:
    """The environment of steps: each has its share of the cores."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **child_environment()}


def _start(work: Path, step: Step, lock: int, launch: Callable[..., Child]) -> _Running:
    folder = step_folder(work, step)
    (folder / FAILED).unlink(missing_ok=True)
    if step.config is not None:
        values = yaml.safe_dump(placed(step.config, work, step), sort_keys=False)
        write_text_atomic(folder / CONFIG, values)
    with (folder / LOG).open("wb") as log:
        os.utime(lock)  # says since when the step runs
        # The lock is held until the process and all that it forked have ended.
        process = launch(placed(step.words, work, step), log, lock)
    return _Running(step, process, lock, time.perf_counter())


def _end(work: Path, one: _Running) -> str | None:
    """Write the marker of a step that has ended; returns the error, if any."""
    folder, code = step_folder(work, one.step), one.process.returncode
    seconds = round(time.perf_counter() - one.started, 1)
    problem = None
    if code:
        problem = f"{last_error(folder / LOG)} (exit code {code})"
    elif not (folder / one.step.output).exists():
        problem = f"left no {one.step.output}"
    marker: dict[str, Any] = {"step": one.step.label, "seconds": seconds}
    if problem is None:
        write_text_atomic(folder / DONE, json.dumps(marker) + "\n")
    else:
        write_text_atomic(folder / FAILED, json.dumps({**marker, "error": problem}) + "\n")
    os.close(one.lock)
    return problem


def last_error(log: Path) -> str:
    """The last line of a log that names an error, or else its last line."""
    text = log.read_text(encoding="utf-8", errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    named = [found[1] for line in lines if (found := _ERROR.search(line))]
    return (named or lines or ["printed nothing"])[-1][:500]


def _stop(running: list[_Running]) -> None:
    """Send SIGTERM to running steps, as when the user interrupts, and SIGKILL to those that do not end."""
    for one in running:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(one.process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_S
    for one in running:
        try:
            one.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()
        os.close(one.lock)
