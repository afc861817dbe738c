"""Measuring two sides in turn, describing the machine, and writing the figures down."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

# Above this share of busy cores before the run, figures say that they were taken under load.
_QUIET_LOAD = 0.25


@dataclass(frozen=True)
class Row:
    """One line of the results."""

    bench: str
    what: str
    ours: str
    reference: str = ""
    ratio: str = ""
    """Reference over ours: how many times faster ours is, with its spread over the rounds."""
    aim: str = ""
    note: str = ""


@dataclass(frozen=True)
class Pair:
    """Seconds of both sides, round by round."""

    ours: tuple[float, ...]
    reference: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Median of the reference over median of ours."""
        return statistics.median(self.reference) / statistics.median(self.ours)

    def __str__(self) -> str:
        each = sorted(theirs / mine for mine, theirs in zip(self.ours, self.reference, strict=True))
        return f"{self.ratio:.2f}x [{each[0]:.2f}, {each[-1]:.2f}]"


def clock() -> Callable[[], float]:
    """CPU time with one thread, where other processes' work does not count; else the wall clock."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter


def seconds(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    now = clock()
    start = now()
    work()
    return now() - start


def alternate(
    ours: Callable[[], object],
    reference: Callable[[], object],
    rounds: int,
    *,
    warm_up: bool = True,
    between: Callable[[], object] = lambda: None,
) -> Pair:
    """Time both sides in alternating order.

    Args:
        ours: One side.
        reference: The other.
        rounds: How often.
        warm_up: Call each once before; False where both have been called already.
        between: Called before every round, not timed.
    """
    if warm_up:
        ours(), reference()
    sides: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        between()
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            sides[side].append(seconds((ours, reference)[side]))
    return Pair(tuple(sides[0]), tuple(sides[1]))


def spread(values: Sequence[float], scale: float, unit: str) -> str:
    """Median and range of some seconds, scaled."""
    low, middle, high = (scale * f(values) for f in (min, statistics.median, max))
    return f"{middle:.3g} {unit} [{low:.3g}, {high:.3g}]"


def gemm_gflops(size: int, rounds: int) -> float:
    """The best fp32 (size, size) matrix product seen, in GFLOP/s: the machine's practical peak."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    out = a @ b
    best = min(seconds(lambda: torch.mm(a, b, out=out)) for _ in range(rounds))
    return 2 * size**3 / best / 1e9


def machine() -> list[str]:
    """What the figures were taken on, and with which code, without names of hosts or people."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    lines = [
        f"Commit {commit()}",
        f"CPU: {processor()}, {cores} cores; {torch.get_num_threads()} thread(s) used, "
        + ("CPU time" if clock() is time.process_time else "wall clock"),
        f"Python {platform.python_version()}, torch {torch.__version__}",
        f"Date: {datetime.date.today().isoformat()}; load average before the run {load:.2f}"
        + ("" if load <= _QUIET_LOAD * cores else " - **measured under load: preliminary figures**"),
    ]
    if torch.cuda.is_available():
        lines.insert(2, f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    return lines


def processor() -> str:
    """The name of the CPU."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return named[0] if named else platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this code, and whether files other than pages of figures were changed since."""
    asked = ["git", "-C", str(Path(__file__).resolve().parents[1])]
    try:
        head, changed = (
            subprocess.run([*asked, *words], capture_output=True, text=True, check=True).stdout
            for words in (["rev-parse", "--short=7", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown (not a checkout)"
    others = [line for line in changed.splitlines() if not line.endswith((".md", ".ipynb"))]
    return head.strip() + (" with changes" if others else "")


def table(rows: Sequence[Row]) -> str:
    """Rows as a Markdown table."""
    lines = [
        "| bench | what | ours | reference | reference / ours | aim | note |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r.bench} | {r.what} | {r.ours} | {r.reference} | {r.ratio} | {r.aim} | {r.note} |" for r in rows
    ]
    return "\n".join(lines)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options every bench takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes; figures mean nothing"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1: figures per core)")
    return parser


def main(run: Callable[[bool], list[Row]], description: str | None) -> None:
    """Run one bench from the command line and print its rows."""
    options = arguments(description).parse_args()
    torch.set_num_threads(options.threads)
    print("\n".join(machine()))
    print(table(run(options.quick)))
