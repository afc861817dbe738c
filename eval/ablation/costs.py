"""The cost of every arm of an ablation, measured before it is run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import UserError
from alm.common.processes import n_cores
from alm.common.text import one_line, text_table
from eval.ablation.arm_steps import ArmSteps, Inputs, plan_steps, shared_inputs
from eval.ablation.grid import Arm, make_arms
from eval.ablation.results import failure, measured_cost
from eval.ablation.settings import AblationSettings
from eval.ablation.steps import Step

# Numbers of a stage's config that change neither its shapes nor its work, and the lowest valid ones.
_COSTLESS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("optim", "lr"), 0.0),
    (("optim", "weight_decay"), 0.0),
    (("optim", "max_grad_norm"), 0.0),
    (("policy", "llm_lora", "alpha"), 1),
    (("policy", "encoder_lora", "alpha"), 1),
    (("run", "seed"), 0),
)
_PARTS = ("encoder", "llm")
_CONFIG = "config.json"
_HEAD = ("arm", "stage", "trainable", "parameters", "steps", "LLM tokens", "FLOPs", "expected time")


@dataclass
class ArmPlan:
    """The state of an arm while the ablation runs.

    Attributes:
        arm: The arm.
        costs: Stage -> the step that measures its cost.
        steps: Stage -> optimiser steps, if the budget sets them.
        sweep: Factor on the learning rates -> the steps that try it.
        losses: Factor -> validation loss; None where it failed.
        lr_scale: The factor chosen.
        runs: Seed -> the steps that are run.
        probe: The encoder's probe.
        error: The reason why it cannot be run.
    """

    arm: Arm
    costs: dict[str, Step]
    steps: dict[str, int] = field(default_factory=dict)
    sweep: dict[float, ArmSteps] = field(default_factory=dict)
    losses: dict[float, float | None] = field(default_factory=dict)
    lr_scale: float = 1.0
    runs: dict[int, ArmSteps] = field(default_factory=dict)
    probe: Step | None = None
    error: str = ""


def n_jobs(settings: AblationSettings) -> int:
    """Processes at a time."""
    if settings.jobs:
        return settings.jobs
    from encoders.devices import accelerator

    return n_cores() if accelerator() is None else 1


def plan_arms(
    settings: AblationSettings, work: Path, inputs: Inputs, run: Callable[[list[Step]], None]
) -> list[ArmPlan]:
    """All arms, with their cost measured on small inputs and the budget converted to optimiser steps.

    Stages of equal shapes are measured once.
    """
    sketch = shared_inputs(settings, sketch=True)
    arms, small = make_arms(settings, inputs.table), make_arms(settings, sketch.table)
    plans = [ArmPlan(arm, plan_steps(little, sketch)) for arm, little in zip(arms, small, strict=True)]
    own = [dict(plan.costs) for plan in plans]
    merge_costs(plans)
    run([step for plan in plans for step in plan.costs.values()])
    alone = []  # a measurement that failed for one arm may work for another of its shape
    for plan, steps in zip(plans, own, strict=True):
        for stage, step in plan.costs.items():
            if step.key != steps[stage].key and failure(work, [step.folder]) is not None:
                plan.costs[stage] = steps[stage]
                alone.append(steps[stage])
    if alone:
        run(alone)
    for plan in plans:
        try:
            plan.steps = budgeted(settings, work, plan)
        except UserError as error:
            plan.error = str(error)
    return plans


def merge_costs(plans: list[ArmPlan]) -> None:
    """Give stages of equal shapes the same measurement: the first arm's."""
    first: dict[str, Step] = {}
    for plan in plans:
        for stage, step in plan.costs.items():
            plan.costs[stage] = first.setdefault(_shape(stage, step), step)


def _shape(stage: str, step: Step) -> str:
    """What the cost of a stage depends on: not its learning rate or seed, nor the values of its weights."""
    values: dict[str, Any] = dict(step.config or {})
    parts = {str(values.get(key)) for key in _PARTS}
    for path, lowest in _COSTLESS:
        values = _without(values, path, lowest)
    values |= {key: _sizes(values[key]) for key in _PARTS if key in values}
    reads = [one for one in step.reads if one not in parts]
    decides = [stage, values, reads, sorted(one.key for one in step.needs)]
    return json.dumps(decides, sort_keys=True, default=str)


def _without(values: dict[str, Any], path: tuple[str, ...], lowest: float) -> dict[str, Any]:
    """A copy without one number; an invalid value stays, so that its arm is measured and refused by itself."""
    value = values.get(path[0])
    if isinstance(value, dict) and len(path) > 1:
        inner = _without(value, path[1:], lowest)
        return {
            key: inner if key == path[0] else one for key, one in values.items() if key != path[0] or inner
        }
    if isinstance(value, bool) or not isinstance(value, int if isinstance(lowest, int) else int | float):
        return values
    if len(path) > 1 or not lowest <= value < float("inf"):
        return values
    return {key: one for key, one in values.items() if key != path[0]}


def _sizes(part: Any) -> Any:
    """An encoder or LLM with its config and the sizes of its weights in place of its directory."""
    if isinstance(part, dict):
        return {key: _sizes(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [_sizes(value) for value in part]
    folder = Path(part) if isinstance(part, str) else None
    if folder is None or not (folder / _CONFIG).is_file():
        return part
    sizes = sorted((file.name, file.stat().st_size) for file in folder.glob("*.safetensors"))
    return [(folder / _CONFIG).read_text(encoding="utf-8", errors="replace"), sizes]


def budgeted(settings: AblationSettings, work: Path, plan: ArmPlan) -> dict[str, int]:
    """Stage -> optimiser steps that the budget allows."""
    budget, steps = settings.budget, {}
    for stage, amount in budget.amount.items():
        if stage not in plan.arm.stages:
            continue
        if budget.unit == "steps":
            steps[stage] = round(amount)
            continue
        found = measured_cost(work, plan.costs[stage].folder)
        if found is None:
            why = failure(work, [step.folder for step in plan.costs[stage].chain()])
            raise UserError(f"the budget of {budget.unit} cannot be turned into steps: {why}")
        steps[stage] = max(1, round(amount * found["steps"] / found[budget.unit]))
    return steps


def stage_seconds(found: dict[str, Any], steps: float) -> tuple[float, float]:
    """Seconds of every run of a stage, and those that all runs of an arm share: their clips' features are cached.

    Args:
        found: The measured cost.
        steps: Optimiser steps.
    """
    other = found["other_s"]
    once = float(other.get("encoding clips", 0.0))
    steps_s = (found["seconds"] - sum(other.values())) * steps / found["steps"]
    return float(steps_s + sum(other.values()) - once), once


def cost_table(settings: AblationSettings, work: Path, plans: list[ArmPlan]) -> str:
    """The cost of every arm and of the whole ablation, as text."""
    rows: list[tuple[str, ...]] = []
    n_runs = len(settings.seeds) + len(settings.lr_scales) - 1
    total, pretrained = 0.0, set[str]()
    for plan in plans:
        for stage, step in plan.costs.items():
            found = measured_cost(work, step.folder)
            if found is None:
                why = failure(work, [one.folder for one in step.chain()])
                rows.append((plan.arm.name, stage, f"cannot be planned: {why}"))
                continue
            steps = plan.steps.get(stage, found["steps"])
            share = steps / found["steps"]
            tokens = "-" if found["tokens"] is None else f"{found['tokens'] * share:,.0f}"
            runs = n_runs
            if stage == "pretrain":  # arms that pretrain alike share the encoder
                runs = (
                    0 if step.key in pretrained else len(settings.seeds) if settings.pretrain_per_seed else 1
                )
                pretrained.add(step.key)
            each, once = stage_seconds(found, steps)
            total += runs * each + once
            sizes = (f"{found['trainable']:,}", f"{found['parameters']:,}", f"{steps:,}", tokens)
            seconds = f"{each:.0f} s x {runs}" + (f" + {once:.0f} s" if once else "")
            rows.append((plan.arm.name, stage, *sizes, f"{found['flops'] * share:.3g}", seconds))
        rows += [(plan.arm.name, "", remark) for remark in (plan.error, plan.arm.remark) if remark]
    jobs = n_jobs(settings)
    remarks = ["  ".join(row) for row in rows if len(row) < len(_HEAD)]
    lines = [*text_table(_HEAD, [row for row in rows if len(row) == len(_HEAD)]), *map(one_line, remarks)]
    lines.append(
        f"{len(plans)} arms, {len(settings.seeds)} seeds, {len(settings.lr_scales)} learning rates; "
        f"about {total / jobs / 60:.0f} min of training with {jobs} processes at a time, plus scoring; "
        "less if arms share pretrained encoders, which are trained once"
    )
    return "\n".join(lines)
