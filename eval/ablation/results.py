"""What an ablation left on disk: arms, their runs, costs and failures. Reports are made from this alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import UserError
from eval.ablation.recipes import PROBE, RUN
from eval.ablation.steps import DONE, FAILED, LOG
from eval.runner.predictions import Prediction, read_predictions
from eval.runner.process_shards import PREDICTIONS

INDEX = "arms.json"


@dataclass(frozen=True)
class Run:
    """One seed of an arm.

    Attributes:
        seed: The seed.
        key: Hash of its evaluation and all before it.
        lines: Its answers; empty where it has failed or was not run.
        seconds: Wall time of the tuned stages and the evaluation.
        losses: Per tuned stage (step, training loss).
        validation_loss: Of the last stage.
        error: Why there are no answers; "" where there are.
    """

    seed: int
    key: str
    lines: list[Prediction] = field(default_factory=list)
    seconds: float = 0.0
    losses: list[list[tuple[int, float]]] = field(default_factory=list)
    validation_loss: float | None = None
    error: str = ""


@dataclass(frozen=True)
class ArmResult:
    """One arm: what it is, what it cost, and its runs.

    Attributes:
        name: Its name.
        track: `native` or `matched`.
        tokens_per_s: LLM tokens per second of audio.
        remark: What has to be said beside its name.
        config: Stage -> values.
        lr_scale: Factor on the learning rates that the sweep chose.
        sweep: Per factor tried the validation loss (None: failed).
        cost: Sums over its stages of what was planned (`steps`, `tokens`, `flops`), and `trainable` and `parameters`
            of the last stage; empty where planning failed.
        probe: Linear probe, mean average precision.
        runs: Per seed.
        error: Why there are no runs at all.
    """

    name: str
    track: str
    tokens_per_s: float
    remark: str
    config: dict[str, Any]
    lr_scale: float
    sweep: dict[str, float | None]
    cost: dict[str, float]
    probe: float | None
    runs: list[Run]
    error: str = ""

    @property
    def scored(self) -> list[Run]:
        """Runs with answers."""
        return [run for run in self.runs if not run.error]

    @property
    def errors(self) -> list[str]:
        """What went wrong, once each."""
        found = [self.error, *(f"seed {run.seed}: {run.error}" for run in self.runs if run.error)]
        return [error for error in found if error]


@dataclass(frozen=True)
class Results:
    """A whole ablation: the resolved settings as plain values, and its arms."""

    settings: dict[str, Any]
    arms: list[ArmResult]


def read_results(root: Path) -> Results:
    """Read what the last run of an ablation left.

    Raises:
        UserError: Nothing was run there.
    """
    try:
        index = json.loads((root / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{root}: holds no ablation ({error}); run it without --report-only first") from error
    work = (root / index["work"]).resolve()
    return Results(index["settings"], [_arm(work, entry) for entry in index["arms"]])


NOT_RUN = "was not run"


def failure(work: Path, folders: Sequence[str]) -> str:
    """Why a chain of steps has no result; "" where all are done."""
    for name in folders:
        folder = work / "steps" / name
        if (folder / DONE).is_file():
            continue
        try:
            told = json.loads((folder / FAILED).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return f"{name.rsplit('-', 1)[0]}: {NOT_RUN}"
        return f"{name.rsplit('-', 1)[0]}: {told['error']}"
    return ""


def validation_loss(work: Path, folder: str) -> float | None:
    """The held-out loss of a finished training step."""
    try:
        facts = json.loads((work / "steps" / folder / RUN / DONE).read_text(encoding="utf-8"))
        return float(facts["loss"])
    except (OSError, ValueError, KeyError):
        return None


def planned(work: Path, folder: str) -> dict[str, Any] | None:
    """What a dry run said: the last line of its log that is JSON."""
    if failure(work, [folder]):
        return None
    for line in reversed((work / "steps" / folder / LOG).read_text(encoding="utf-8").splitlines()):
        if line.startswith("{"):
            plan: dict[str, Any] = json.loads(line)
            return plan
    return None


def _arm(work: Path, entry: dict[str, Any]) -> ArmResult:
    told = {key: entry[key] for key in ("name", "track", "tokens_per_s", "remark", "config")}
    probe = None
    if entry["probe"] and not failure(work, entry["probe"]):
        file = work / "steps" / entry["probe"][-1] / PROBE
        probe = float(json.loads(file.read_text(encoding="utf-8"))["map"])
    return ArmResult(
        **told,
        lr_scale=entry["lr_scale"],
        sweep=entry["sweep"],
        cost=_cost(work, entry["plan"], entry["steps"]),
        probe=probe,
        runs=[_run(work, run) for run in entry["runs"]],
        error=entry["error"],
    )


def _cost(work: Path, plan: dict[str, str], steps: dict[str, int]) -> dict[str, float]:
    found = {stage: planned(work, folder) for stage, folder in plan.items()}
    if any(one is None for one in found.values()):
        return {}
    plans = {
        stage: one | {"share": steps.get(stage, one["steps"]) / one["steps"]}
        for stage, one in found.items()
        if one is not None
    }
    tuned = [one for stage, one in plans.items() if stage != "pretrain"]
    return {
        "trainable": tuned[-1]["trainable"],
        "parameters": tuned[-1]["parameters"],
        "seconds": sum(one["seconds"] * one["share"] for one in plans.values()),
        **{key: sum(one[key] * one["share"] for one in tuned) for key in ("steps", "tokens", "flops")},
        **({"pretrain_flops": plans["pretrain"]["flops"]} if "pretrain" in plans else {}),
    }


def _run(work: Path, entry: dict[str, Any]) -> Run:
    error = failure(work, entry["chain"])
    if error:
        return Run(entry["seed"], entry["key"], error=error)
    steps = work / "steps"
    timed = [*entry["train"], entry["score"]]
    return Run(
        seed=entry["seed"],
        key=entry["key"],
        lines=read_predictions(steps / entry["score"] / RUN / PREDICTIONS),
        seconds=sum(json.loads((steps / name / DONE).read_text())["seconds"] for name in timed),
        losses=[_losses(steps / name / RUN / "metrics.jsonl") for name in entry["train"]],
        validation_loss=validation_loss(work, entry["train"][-1]),
    )


def _losses(log: Path) -> list[tuple[int, float]]:
    """(step, training loss) of a log."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines() if log.is_file() else ():
        values = json.loads(line)
        if "loss" in values and "step" in values:
            found.append((int(values["step"]), float(values["loss"])))
    return found
