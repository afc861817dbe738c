"""The cost of every arm of an ablation, measured before it is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from alm.common.errors import UserError
from alm.common.processes import n_cores
from alm.common.text import one_line, text_table
from eval.ablation.arm_steps import ArmSteps, Inputs, plan_steps, shared_inputs
from eval.ablation.grid import Arm, make_arms
from eval.ablation.results import failure, measured_cost
from eval.ablation.settings import AblationSettings
from eval.ablation.steps import Step

_HEAD = ("arm", "stage", "trainable", "parameters", "steps", "LLM tokens", "FLOPs", "expected time")


@dataclass
class ArmPlan:
    """The state of an arm while the ablation runs.

    Attributes:
        arm: The arm.
        costs: Stage -> the step that measures its cost.
        steps: Stage -> optimiser steps, where the budget says so.
        sweep: Factor on the learning rates -> the steps that try it.
        losses: Factor -> validation loss; None where it failed.
        lr_scale: The factor chosen.
        runs: Seed -> the steps that are run.
        probe: The encoder's probe.
        error: Why it cannot be run.
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
    """All arms, with their cost measured on small inputs and the budget converted to optimiser steps."""
    sketch = shared_inputs(settings, sketch=True)
    arms, small = make_arms(settings, inputs.table), make_arms(settings, sketch.table)
    plans = [ArmPlan(arm, plan_steps(little, sketch)) for arm, little in zip(arms, small, strict=True)]
    run([step for plan in plans for step in plan.costs.values()])
    for plan in plans:
        try:
            plan.steps = budgeted(settings, work, plan)
        except UserError as error:
            plan.error = str(error)
    return plans


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
            other = found["other_s"]
            once = other.get("encoding clips", 0.0)  # all runs of an arm share the cached features
            each = (found["seconds"] - sum(other.values())) * share + sum(other.values()) - once
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
