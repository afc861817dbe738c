"""What every arm of an ablation costs, before it is run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from alm.common.errors import UserError
from eval.ablation.grid import Arm, make_arms
from eval.ablation.recipes import Inputs, Recipe, plan_steps, shared_inputs
from eval.ablation.results import failure, planned
from eval.ablation.runner import run_steps
from eval.ablation.settings import AblationSettings
from eval.ablation.steps import Step

_HEAD = ("arm", "stage", "trainable", "parameters", "steps", "LLM tokens", "FLOPs", "expected time")


@dataclass
class Plan:
    """What is known of an arm while the ablation runs.

    Attributes:
        arm: The arm.
        costs: Stage -> the step that finds out what it costs.
        steps: Stage -> optimiser steps, where the budget says so.
        sweep: Factor on the learning rates -> what is run to judge it.
        losses: Factor -> validation loss; None where it failed.
        lr_scale: The factor chosen.
        runs: Seed -> what is run.
        probe: The encoder's probe.
        error: Why it cannot be run.
    """

    arm: Arm
    costs: dict[str, Step]
    steps: dict[str, int] = field(default_factory=dict)
    sweep: dict[float, Recipe] = field(default_factory=dict)
    losses: dict[float, float | None] = field(default_factory=dict)
    lr_scale: float = 1.0
    runs: dict[int, Recipe] = field(default_factory=dict)
    probe: Step | None = None
    error: str = ""


def n_jobs(settings: AblationSettings) -> int:
    """Processes at a time."""
    if settings.jobs:
        return settings.jobs
    import torch

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def costed(settings: AblationSettings, work: Path, inputs: Inputs) -> list[Plan]:
    """All arms, with what they cost found out on small inputs and the budget turned into steps."""
    sketch = shared_inputs(settings, sketch=True)
    arms, small = make_arms(settings, inputs.table), make_arms(settings, sketch.table)
    plans = [Plan(arm, plan_steps(settings, little, sketch)) for arm, little in zip(arms, small, strict=True)]
    run_steps(work, [step for plan in plans for step in plan.costs.values()], n_jobs(settings))
    for plan in plans:
        try:
            plan.steps = budgeted(settings, work, plan)
        except UserError as error:
            plan.error = str(error)
    return plans


def budgeted(settings: AblationSettings, work: Path, plan: Plan) -> dict[str, int]:
    """Stage -> optimiser steps that the budget allows."""
    budget, steps = settings.budget, {}
    for stage, amount in budget.amount.items():
        if stage not in plan.arm.stages:
            continue
        if budget.unit == "steps":
            steps[stage] = round(amount)
            continue
        found = planned(work, plan.costs[stage].folder)
        if found is None:
            why = failure(work, [step.folder for step in plan.costs[stage].chain()])
            raise UserError(f"the budget of {budget.unit} cannot be turned into steps: {why}")
        steps[stage] = max(1, round(amount * found["steps"] / found[budget.unit]))
    return steps


def told(settings: AblationSettings, work: Path, plans: list[Plan]) -> str:
    """What every arm would cost, as text."""
    rows: list[tuple[str, ...]] = [_HEAD]
    n_runs = len(settings.seeds) + len(settings.lr_scales) - 1
    total, pretrained = 0.0, set[str]()
    for plan in plans:
        for stage, step in plan.costs.items():
            found = planned(work, step.folder)
            if found is None:
                why = failure(work, [one.folder for one in step.chain()])
                rows.append((plan.arm.name, stage, f"cannot be planned: {why}", *[""] * 5))
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
            total += runs * found["seconds"] * share
            sizes = (f"{found['trainable']:,}", f"{found['parameters']:,}", f"{steps:,}", tokens)
            seconds = f"{found['seconds'] * share:.0f} s x {runs}"
            rows.append((plan.arm.name, stage, *sizes, f"{found['flops'] * share:.3g}", seconds))
        if plan.error:
            rows.append((plan.arm.name, "", plan.error, *[""] * 5))
        if plan.arm.remark:
            rows.append((plan.arm.name, "", plan.arm.remark, *[""] * 5))
    widths = [max(len(row[i]) for row in rows if row[4] or i < 2) for i in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    jobs = n_jobs(settings)
    lines.append(
        f"{len(plans)} arms, {len(settings.seeds)} seeds, {len(settings.lr_scales)} learning rates; "
        f"about {total / jobs / 60:.0f} min of training with {jobs} at a time, beside "
        "scoring and start-up; features that are kept make it less"
    )
    return "\n".join(lines)
