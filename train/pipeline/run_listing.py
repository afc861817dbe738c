"""Lists run directories with their stage, state and progress, and compares two."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alm.common.errors import UserError
from alm.common.json_text import read_log
from alm.common.settings import dotted, read_yaml
from alm.common.text import text_table
from train.engine import checkpoints
from train.pipeline.rundir import ATTEMPT, CONFIG, MARKER, damage, facts_of

_SHOWN = ("loss", "eval_loss", "view_retrieval", "validation")


@dataclass(frozen=True)
class Run:
    """A run directory.

    Attributes:
        folder: Where it is.
        config: The resolved config; its values by dotted key.
        state: `finished`, or `unfinished` with the step its newest checkpoint holds.
        step: Last step in the log.
        metrics: Last value of each metric in the log, and the facts of a finished run.
    """

    folder: Path
    config: dict[str, Any]
    state: str
    step: int
    metrics: dict[str, float]


def find_runs(roots: Sequence[str | Path]) -> list[Run]:
    """All runs in some directories, at any depth, by path.

    Raises:
        UserError: A directory that does not exist, or none that holds a run.
    """
    runs = []
    for root in map(Path, roots):
        if not root.is_dir():
            raise UserError(f"{root}: no such directory; name one that holds runs")
        runs += [
            read_run(file.parent) for file in sorted(root.rglob(ATTEMPT)) if (file.parent / CONFIG).is_file()
        ]
    if not runs:
        raise UserError(f"{', '.join(map(str, roots))}: no run of alm train in there")
    return runs


def read_run(folder: Path) -> Run:
    """One run.

    Raises:
        UserError: The directory holds no run.
    """
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: holds no run of alm train (no {CONFIG})")
    metrics: dict[str, float] = {}
    step = 0
    for line in read_log(folder / "metrics.jsonl"):
        step = line.pop("step", step)
        metrics |= {key: value for key, value in line.items() if isinstance(value, int | float)}
    saved = checkpoints.found(folder / "checkpoints")
    state = f"unfinished, saved at {saved[-1][0]}" if saved else "unfinished"
    if (folder / MARKER).exists():
        wrong = damage(folder, hashes=False)
        state = "finished" if wrong is None else f"damaged: {wrong}"
        facts = facts_of(folder) if wrong is None else {}
        metrics |= {f"final_{k}": v for k, v in facts.items() if isinstance(v, int | float)}
    return Run(folder, dict(dotted(read_yaml(folder / CONFIG))), state, step, metrics)


def runs_table(runs: Sequence[Run]) -> str:
    """One line per run: stage, state, step of all steps, seed, last metrics."""
    shown = [name for name in _SHOWN if any(name in run.metrics for run in runs)]
    head = ["run", "stage", "state", "step", "seed", *shown]
    rows = []
    for run in runs:
        known = run.config.get("optim.epochs") is None
        steps = f"{run.step}/{run.config.get('optim.steps', '?') if known else '?'}"
        seed = str(run.config.get("run.seed", ""))
        last = [_number(run.metrics.get(name)) for name in shown]
        rows.append([str(run.folder), str(run.config.get("stage")), run.state, steps, seed, *last])
    return "\n".join(text_table(head, rows))


def compare_runs(runs: Sequence[Run]) -> str:
    """Config keys in which runs differ, then their metrics, one column per run."""
    names = [str(run.folder) for run in runs]
    keys = sorted({key for run in runs for key in run.config})
    different = [k for k in keys if len({json.dumps(run.config.get(k), default=str) for run in runs}) > 1]
    rows = [[k, *(str(run.config.get(k, "-")) for run in runs)] for k in different]
    metrics = sorted({name for run in runs for name in run.metrics} - {"time_s"})
    values = [[n, *(_number(run.metrics.get(n)) for run in runs)] for n in metrics]
    return "\n".join([*text_table(["config", *names], rows), "", *text_table(["metric", *names], values)])


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
