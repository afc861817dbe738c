"""How far an ablation is: which steps run, what is left, and about how long that takes.

`alm ablate` writes its steps with their estimated times into a file. The state of a step is read from its folder: its
markers, its lock, its log. So steps of other hosts count, and another terminal can show the same.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, UserError
from alm.common.fields import coerce_fields
from alm.common.json_text import read_json_object, write_json
from alm.common.names import check_file_name
from alm.common.text import one_line, text_table
from eval.ablation.arm_steps import RUN
from eval.ablation.costs import ArmPlan, stage_seconds
from eval.ablation.results import measured_cost
from eval.ablation.settings import STAGES
from eval.ablation.steps import DONE, FAILED, LOCK, LOG, Step, all_steps

STEPS = "progress.json"
DONE_STATE, FAILED_STATE, RUNNING, WAITING, BLOCKED = "done", "failed", "running", "waiting", "skipped"
_WATCHED_S, _LOGGED_S = 2.0, 60.0  # between two lines: on a terminal, in a log
_TAIL_BYTES = 4096
_BAR = re.compile(r"([^\r\n:|]+):\s+\d+%\|[^|]*\|\s*(\d+)/(\d+)")
_STEP = re.compile(r'^\{"step": (\d+)', re.M)
_EARLY = 0.05  # a share done from which on the rest is extrapolated
_SURE = 0.25  # and a share from which on it says how far off the estimates are
_SCORE = "score"


@dataclass(frozen=True)
class Planned:
    """A step and what is known of its time before it runs.

    Attributes:
        folder: Name of its folder.
        label: Its description.
        group: Steps with the same group take equally long.
        needs: Folders of the steps that come first.
        seconds: Estimated seconds, without `once`; None if there is no estimate.
        once: Seconds that only the first step of the group takes: encoding clips.
        n_steps: Optimiser steps; None if unknown.
    """

    folder: str
    label: str
    group: str
    needs: tuple[str, ...] = ()
    seconds: float | None = None
    once: float = 0.0
    n_steps: int | None = None

    @property
    def kind(self) -> str:
        """Kind of the step, for example `align`."""
        return self.folder.rsplit("-", 1)[0]


@dataclass(frozen=True)
class Observed:
    """The state of a step.

    Attributes:
        step: The step.
        state: `done`, `failed`, `running`, `waiting`, or `skipped` because a step that it needs has failed.
        seconds: How long it took, or has been running.
        share: Share of its work that is done, 0 to 1; 0 if unknown.
        part: The same in words, for example `60/160`; "" if unknown.
    """

    step: Planned
    state: str
    seconds: float = 0.0
    share: float = 0.0
    part: str = ""


def planned_steps(work: Path, plans: Sequence[ArmPlan]) -> list[Planned]:
    """The steps of all arms with their estimated times: cost measurements, learning rates, runs and probes."""
    known: dict[str, Planned] = {}
    last: list[Step] = []
    for plan in plans:
        last += plan.costs.values()
        runs = [*plan.sweep.values(), *plan.runs.values()]
        for made in runs:
            for step in made.train:
                cost = measured_cost(work, plan.costs[step.name].folder)
                n_steps = (step.config or {}).get("optim", {}).get("steps")
                group = f"{step.name} {plan.costs[step.name].key} {n_steps}"
                planned = _planned(step, group)
                if cost is not None:
                    each, once = stage_seconds(cost, plan.steps.get(step.name, cost["steps"]))
                    planned = replace(planned, seconds=each, once=once)
                known[step.key] = replace(planned, n_steps=n_steps if isinstance(n_steps, int) else None)
            controls = next((word for word in made.score.words if word.startswith("controls=")), "")
            tuned = plan.costs[made.train[-1].name].key
            known[made.score.key] = _planned(made.score, f"{_SCORE} {tuned} {controls}")
        last += [made.score for made in plan.runs.values()]
        last += [made.train[-1] for made in plan.sweep.values()]
        if plan.probe is not None:
            last.append(plan.probe)
            known[plan.probe.key] = _planned(plan.probe, f"probe {next(iter(plan.costs.values())).key}")
    return [known.get(step.key) or _planned(step) for step in all_steps(last)]


def _planned(step: Step, group: str | None = None) -> Planned:
    return Planned(step.folder, step.label, group or step.name, tuple(one.folder for one in step.needs))


# ---- the state of steps ----
def observe(work: Path, steps: Iterable[Planned], since: float = 0.0) -> list[Observed]:
    """The state of steps, each after those that it needs; nothing is changed.

    Args:
        work: The folder that holds them.
        steps: The steps, each after those that it needs.
        since: Failures before this time (seconds since 1970) are ignored: those steps are tried again.
    """
    found: dict[str, Observed] = {}
    for step in steps:
        one = _observed(
            work / "steps" / check_file_name(step.folder, f"{STEPS}: the step's folder"), step, since
        )
        lost = any(found[need].state in (FAILED_STATE, BLOCKED) for need in step.needs if need in found)
        found[step.folder] = replace(one, state=BLOCKED) if one.state == WAITING and lost else one
    return list(found.values())


def _observed(folder: Path, step: Planned, since: float) -> Observed:
    with contextlib.suppress(OSError, UserError, KeyError, TypeError, ValueError):
        return Observed(step, DONE_STATE, float(read_json_object(folder / DONE)["seconds"]))
    with contextlib.suppress(OSError):
        if _is_locked(folder / LOCK):
            share, part = _part_done(folder, step)
            elapsed = max(0.0, time.time() - (folder / LOCK).stat().st_mtime)
            return Observed(step, RUNNING, elapsed, share, part)
    with contextlib.suppress(OSError):
        if (folder / FAILED).stat().st_mtime >= since:
            return Observed(step, FAILED_STATE)
    return Observed(step, WAITING)


def _is_locked(lock: Path) -> bool:
    """Whether a process holds a step's lock. A process that wants it at this moment tries again at once."""
    handle = os.open(lock, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _part_done(folder: Path, step: Planned) -> tuple[float, str]:
    """How much of a running step is done: optimiser steps of its metrics, or the last bar in its log."""
    bars = _BAR.findall(_tail(folder / LOG))
    title, n_done, total = (bars[-1][0].strip(), *map(int, bars[-1][1:])) if bars else ("", 0, 0)
    if step.kind not in STAGES:
        return (n_done / total, f"{n_done}/{total}") if total else (0.0, "")
    logged = _STEP.findall(_tail(folder / RUN / "metrics.jsonl"))
    if title and title != step.kind and not logged:
        return 0.0, f"{title} {n_done}/{total}"
    total = step.n_steps or (total if title == step.kind else 0)
    n_done = max(n_done if title == step.kind else 0, int(logged[-1]) if logged else 0)
    return (min(1.0, n_done / total), f"{n_done}/{total}") if total else (0.0, "")


def _tail(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - _TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


# ---- the time that is left ----
def expected_seconds(steps: Sequence[Observed]) -> dict[str, float | None]:
    """How long each step takes as a whole; None where nothing of its kind is known.

    Measured times of the group come first, then the estimate, scaled as measured times differ from their estimates,
    then measured times of the kind, then running steps of the kind, extrapolated.
    """
    taken: dict[str, list[float]] = {}
    kinds: dict[str, list[float]] = {}
    running: dict[str, list[float]] = {}
    begun = {one.step.group for one in steps if one.state in (DONE_STATE, RUNNING)}
    for one in steps:
        if one.state == DONE_STATE:
            taken.setdefault(one.step.group, []).append(one.seconds)
            kinds.setdefault(one.step.kind, []).append(one.seconds)
        elif one.state == RUNNING and one.share >= _EARLY:
            running.setdefault(one.step.kind, []).append(one.seconds / one.share)
    measured = {}
    for one in steps:
        if times := taken.get(one.step.group):
            measured[one.step.group] = _typical(times, one.step.once)
    ratios = [measured[one.step.group] / one.step.seconds
              for one in steps if one.step.seconds and one.step.group in measured]  # fmt: skip
    if not ratios:  # running steps show how far off the estimates are
        ratios = [one.seconds / one.share / one.step.seconds
                  for one in steps if one.step.seconds and one.state == RUNNING and one.share >= _SURE]  # fmt: skip
    scale = statistics.median(ratios) if ratios else 1.0
    expected: dict[str, float | None] = {}
    for one in steps:
        step = one.step
        if step.group in measured:
            expected[step.folder] = measured[step.group]
        elif step.seconds is not None:
            once = step.once if step.group not in begun or one.state == RUNNING else 0.0
            begun.add(step.group)
            expected[step.folder] = scale * (step.seconds + once)
        else:
            others = kinds.get(step.kind) or running.get(step.kind)
            expected[step.folder] = statistics.median(others) if others else None
    return expected


def _typical(times: Sequence[float], once: float) -> float:
    """How long a further step of a group takes; the first one also spent `once`."""
    if not once:
        return statistics.median(times)
    if len(times) == 1:
        return max(times[0] - once, 0.1 * times[0])
    return statistics.median(sorted(times)[:-1])


def seconds_left(steps: Sequence[Observed], jobs: int) -> tuple[float, int]:
    """The time until all steps are done, and how many steps of unknown length it leaves out.

    Args:
        steps: All steps, each after those that it needs.
        jobs: Processes at a time; more if more are running, on other hosts.
    """
    expected = expected_seconds(steps)
    active: list[tuple[float, str]] = []
    unknown = 0
    waiting: list[Planned] = []
    for one in steps:
        whole = expected[one.step.folder]
        if one.state == RUNNING:
            if whole is None:
                unknown += 1
                whole = 0.0
            if one.share >= _EARLY:
                whole = (1 - one.share) * whole + one.share * one.seconds / one.share
            heapq.heappush(
                active, (max(whole - one.seconds, 0.05 * whole * (1 - one.share)), one.step.folder)
            )
        elif one.state == WAITING:
            waiting.append(one.step)
    slots, now = max(1, jobs, len(active)), 0.0
    open_steps = {one.folder for one in waiting} | {folder for _, folder in active}
    while waiting or active:
        ready = (step for step in waiting if not open_steps & set(step.needs))
        chosen = list(itertools.islice(ready, max(0, slots - len(active))))
        for step in chosen:
            waiting.remove(step)
            whole = expected[step.folder]
            unknown += whole is None
            heapq.heappush(active, (now + (whole or 0.0), step.folder))
        if not active:
            break
        now, folder = heapq.heappop(active)
        open_steps.discard(folder)
    return now, unknown


def summary(steps: Sequence[Observed], jobs: int) -> str:
    """One line: how many steps are done, failed, running and left, and about how long the rest takes."""
    count = {
        state: sum(one.state == state for one in steps)
        for state in (DONE_STATE, FAILED_STATE, RUNNING, BLOCKED)
    }
    left = len(steps) - sum(count.values())
    parts = [f"{count[DONE_STATE]} of {len(steps)} steps done"]
    parts += [f"{count[state]} {state}" for state in (FAILED_STATE, BLOCKED) if count[state]]
    parts += [f"{count[RUNNING]} running", f"{left} waiting"]
    if not left and not count[RUNNING]:
        return ", ".join(parts)
    seconds, unknown = seconds_left(steps, jobs)
    time_left = f"about {duration(seconds)} left" if seconds or not unknown else ""
    more = f"{unknown} steps of unknown length" if unknown else ""
    return f"{', '.join(parts)}; {' plus '.join(filter(None, (time_left, more)))}"


def duration(seconds: float) -> str:
    """Seconds in a form that fits an estimate: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def running_steps(steps: Sequence[Observed]) -> list[str]:
    """What runs: label and part done."""
    return [one_line(f"{one.step.label} {one.part}".strip()) for one in steps if one.state == RUNNING]


# ---- while it runs ----
class Watch:
    """Shows on stderr how far an ablation is: a live line on a terminal, else a line every minute.

    Args:
        root: The ablation's folder, where the list of steps is written.
        work: The folder of its steps.
        jobs: Processes at a time.
    """

    def __init__(self, root: Path, work: Path, jobs: int) -> None:
        self.root, self.work, self.jobs = root, work, jobs
        self._steps: list[Planned] = []
        self._since = time.time()
        self._live = sys.stderr is not None and sys.stderr.isatty()
        self._every_s = _WATCHED_S if self._live else _LOGGED_S
        self._next = time.monotonic() + self._every_s
        self._width = 0

    def expect(self, steps: Sequence[Planned]) -> None:
        """Replace the list of steps."""
        self._steps = list(steps)
        write_steps(self.root, self.work, self.jobs, self._steps)

    def begin(self, steps: Sequence[Step]) -> None:
        """Add steps that are run and are not in the list yet."""
        known = {one.folder for one in self._steps}
        if new := [_planned(step) for step in steps if step.folder not in known]:
            self.expect([*self._steps, *new])

    def show(self) -> None:
        """Show the state if the last one is old enough."""
        if not self._steps or time.monotonic() < self._next or sys.stderr is None:
            return
        found = observe(self.work, self._steps, self._since)
        line = " | ".join([summary(found, self.jobs), *running_steps(found)])
        if self._live:
            line = line[: max(20, shutil.get_terminal_size().columns - 1)]
            sys.stderr.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            sys.stderr.write(f"progress: {line}\n")
        sys.stderr.flush()
        self._next = time.monotonic() + self._every_s

    def say(self, line: str) -> None:
        """Print a line in place of the live one."""
        self.clear()
        print(line, flush=True)

    def clear(self) -> None:
        """Remove the live line."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width)
            sys.stderr.write("\r")
            sys.stderr.flush()
            self._width = 0


# ---- from another terminal ----
def write_steps(root: Path, work: Path, jobs: int, steps: Sequence[Planned]) -> None:
    """Write the list of steps. A list with all of them, of another host, stays; only its time changes."""
    with contextlib.suppress(UserError):
        if {one.folder for one in steps} <= {one.folder for one in read_steps(root)[2]}:
            os.utime(root / STEPS)
            return
    values = {"work": os.path.relpath(work, root), "jobs": jobs, "steps": [asdict(one) for one in steps]}
    write_json(root / STEPS, values)


def read_steps(root: Path) -> tuple[Path, int, list[Planned]]:
    """The folder of the steps, processes at a time, and the steps.

    Raises:
        UserError: No ablation has begun there, or the file is not as `alm ablate` writes it.
    """
    if not (root / STEPS).is_file():
        raise UserError(
            f"{root}: no ablation has begun there (no {STEPS}); give the folder `out` of its config"
        )
    values = read_json_object(root / STEPS)
    try:
        steps = [_read_step(one) for one in values["steps"]]
        return (root / str(values["work"])).resolve(), int(values["jobs"]), steps
    except (AttributeError, ConfigError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{root / STEPS}: not as `alm ablate` writes it ({error}); run the ablation again"
        ) from error


def _read_step(values: dict[str, Any]) -> Planned:
    needs = values["needs"]
    if not isinstance(needs, list) or not all(isinstance(one, str) for one in needs):
        raise TypeError("needs is no list of folders")
    rest = {key: value for key, value in values.items() if key != "needs"}
    return Planned(needs=tuple(needs), **coerce_fields(Planned, rest))


def ablation_status(root: Path) -> str:
    """What an ablation is doing, or where it has stopped; reads its folder alone and disturbs nothing.

    Raises:
        UserError: No ablation has begun there.
    """
    work, jobs, steps = read_steps(root)
    found = observe(work, steps, (root / STEPS).stat().st_mtime)
    states = (DONE_STATE, RUNNING, WAITING, FAILED_STATE, BLOCKED)
    rows = []
    for kind in dict.fromkeys(step.kind for step in steps):
        of_kind = [one for one in found if one.step.kind == kind]
        rows.append((kind, *(str(sum(one.state == state for one in of_kind)) for state in states)))
    running = [
        (one_line(one.step.label), one.part or "-", duration(one.seconds))
        for one in found
        if one.state == RUNNING
    ]
    lines = [summary(found, jobs), "", *text_table(("kind", *states), rows)]
    if running:
        lines += ["", *text_table(("running", "done", "for"), running)]
    elif any(one.state == WAITING for one in found):
        lines += ["", "no step is running; the same `alm ablate` command runs what is left"]
    return "\n".join(lines)
