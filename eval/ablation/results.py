"""The stored results of an ablation: arms, their runs, costs and failures. Reports are made from these alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import UserError
from alm.common.json_text import parse_json, read_json_object, read_log
from alm.common.names import check_file_name
from alm.common.settings import parse_settings
from eval.ablation.arm_steps import PROBE, RUN, SCORES
from eval.ablation.settings import AblationSettings
from eval.ablation.steps import DONE, FAILED, LOG
from eval.scoring.predictions import PREDICTIONS, Prediction, read_predictions

INDEX = "arms.json"


@dataclass(frozen=True)
class SeedRun:
    """One seed of an arm.

    Attributes:
        seed: The seed.
        key: Hash of its evaluation and all before it.
        lines: Its answers; empty if it has failed or was not run.
        seconds: Wall time of the tuned stages and the evaluation.
        losses: Per tuned stage (step, training loss).
        validation_loss: Validation loss of the last stage.
        error: The reason why there are no answers; "" if there are some.
        not_run: Whether there are no answers because a step was not run yet; False if a step failed.
        benchmark: Name of the benchmark; empty if it is unknown.
    """

    seed: int
    key: str
    lines: list[Prediction] = field(default_factory=list)
    seconds: float = 0.0
    losses: list[list[tuple[int, float]]] = field(default_factory=list)
    validation_loss: float | None = None
    error: str = ""
    not_run: bool = False
    benchmark: str = ""


@dataclass(frozen=True)
class ArmResult:
    """One arm: what it is, what it cost, and its runs.

    Attributes:
        name: Its name.
        track: `native` or `matched`.
        tokens_per_s: LLM tokens per second of audio.
        remark: A note beside its name (its token rate is not matched).
        config: Stage -> values.
        lr_scale: Factor on the learning rates that the sweep chose.
        sweep: Validation loss by factor (None: the run failed).
        cost: Sums over its stages of the measured costs (`steps`, `tokens`, `flops`), and `trainable` and
            `parameters` of the last stage; empty where measuring failed.
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
    runs: list[SeedRun]
    error: str = ""

    @property
    def scored(self) -> list[SeedRun]:
        """Runs with answers."""
        return [run for run in self.runs if not run.error]

    @property
    def errors(self) -> list[str]:
        """Its different error messages."""
        found = [self.error, *(f"seed {run.seed}: {run.error}" for run in self.runs if run.error)]
        return [error for error in found if error]


@dataclass(frozen=True)
class Results:
    """A whole ablation: the resolved settings as plain values, and its arms."""

    settings: dict[str, Any]
    arms: list[ArmResult]


def read_results(root: Path) -> Results:
    """Read the stored results of an ablation's last run.

    Raises:
        UserError: Nothing was run there, or its index is not as `alm ablate` writes it.
    """
    if not (root / INDEX).exists():
        raise UserError(f"{root}: holds no ablation (no {INDEX}); run it without --report-only first")
    index = read_json_object(root / INDEX)
    try:
        settings = asdict(parse_settings(AblationSettings, index["settings"], f"{root / INDEX}: settings"))
        work = (root / index["work"]).resolve()
        return Results(settings, [_arm(work, entry) for entry in index["arms"]])
    except (AttributeError, IndexError, KeyError, OSError, TypeError, ValueError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise UserError(f"{root / INDEX}: not as `alm ablate` writes it ({problem}); run it again") from error


@dataclass(frozen=True)
class Failure:
    """Why a chain of steps has no result.

    Attributes:
        step: Name of the step that failed or was not run.
        error: Its error message; None if it was not run.
    """

    step: str
    error: str | None

    def __str__(self) -> str:
        return f"{self.step}: {'was not run' if self.error is None else self.error}"


def failure(work: Path, folders: Sequence[str]) -> Failure | None:
    """Why a chain of steps has no result; None where all are done."""
    for name in folders:
        folder = _step_folder(work, name)
        if (folder / DONE).is_file():
            continue
        step = name.rsplit("-", 1)[0]
        if not (folder / FAILED).is_file():
            return Failure(step, None)
        return Failure(step, str(read_json_object(folder / FAILED).get("error", "no reason is known")))
    return None


def validation_loss(work: Path, folder: str) -> float | None:
    """The held-out loss of a finished training step; None where it has none."""
    marker = _step_folder(work, folder) / RUN / DONE
    loss = read_json_object(marker, constants=True).get("loss") if marker.is_file() else None
    return float(loss) if isinstance(loss, int | float) else None


def measured_cost(work: Path, folder: str) -> dict[str, Any] | None:
    """The cost that a dry run printed: the last line of its log that is a JSON object; None where it failed."""
    if failure(work, [folder]):
        return None
    for line in reversed((_step_folder(work, folder) / LOG).read_text(encoding="utf-8").splitlines()):
        if line.startswith("{"):
            cost: dict[str, Any] = parse_json(line, str(_step_folder(work, folder) / LOG), constants=True)
            return cost
    return None


def _step_folder(work: Path, name: str) -> Path:
    """Where a step's files are; its name, read from the index, cannot lead elsewhere."""
    return work / "steps" / check_file_name(name, f"{INDEX}: the step's folder")


def _arm(work: Path, entry: dict[str, Any]) -> ArmResult:
    probe = None
    if entry["probe"] and not failure(work, entry["probe"]):
        probe = float(read_json_object(_step_folder(work, entry["probe"][-1]) / PROBE)["map"])
    return ArmResult(
        name=str(entry["name"]),
        track=str(entry["track"]),
        tokens_per_s=float(entry["tokens_per_s"]),
        remark=str(entry["remark"]),
        config=entry["config"],
        lr_scale=float(entry["lr_scale"]),
        sweep=entry["sweep"],
        cost=_cost(work, entry["plan"], entry["steps"]),
        probe=probe,
        runs=[_run(work, run) for run in entry["runs"]],
        error=str(entry["error"]),
    )


def _cost(work: Path, plan: dict[str, str], steps: dict[str, int]) -> dict[str, float]:
    found = {stage: measured_cost(work, folder) for stage, folder in plan.items()}
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


def _run(work: Path, entry: dict[str, Any]) -> SeedRun:
    seed, key = int(entry["seed"]), str(entry["key"])
    problem = failure(work, entry["chain"])
    if problem:
        return SeedRun(seed, key, error=str(problem), not_run=problem.error is None)
    timed = [*entry["train"], entry["score"]]
    answers = _step_folder(work, entry["score"]) / RUN
    scores = answers / SCORES
    evaluation = read_json_object(scores, constants=True).get("run", {}) if scores.is_file() else {}
    return SeedRun(
        seed=seed,
        key=key,
        lines=read_predictions(answers / PREDICTIONS),
        benchmark=str(evaluation.get("benchmark", "")),
        seconds=sum(float(read_json_object(_step_folder(work, name) / DONE)["seconds"]) for name in timed),
        losses=[_losses(_step_folder(work, name) / RUN / "metrics.jsonl") for name in entry["train"]],
        validation_loss=validation_loss(work, entry["train"][-1]),
    )


def _losses(log: Path) -> list[tuple[int, float]]:
    """(step, training loss) of a log."""
    found = []
    for values in read_log(log):
        if "loss" in values and "step" in values:
            found.append((int(values["step"]), float(values["loss"])))
    return found
