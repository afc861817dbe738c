"""An ablation from config to report: costs, learning rates, runs, and the index that the report reads."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from alm.common.errors import UserError
from alm.common.files import write_text_atomic
from eval.ablation.arm_steps import Inputs, arm_steps, probe_step, shared_inputs
from eval.ablation.costs import ArmPlan, cost_table, n_jobs, plan_arms
from eval.ablation.progress import Watch, planned_steps
from eval.ablation.report import write_ablation_report
from eval.ablation.results import INDEX, failure, validation_loss
from eval.ablation.runner import run_steps, step_starter
from eval.ablation.settings import AblationSettings, load_ablation
from eval.ablation.steps import Step
from eval.ablation.warm_start import AVAILABLE

Run = Callable[[list[Step]], None]


def run_ablation(
    config: str | Path,
    overrides: Sequence[str] = (),
    data: str | None = None,
    *,
    dry_run: bool = False,
    report_only: bool = False,
) -> Path | None:
    """Run the missing steps of an ablation and write its report.

    Args:
        config: The config file.
        overrides: `key.sub=value`.
        data: A label table of recordings to make the scenes from.
        dry_run: Only print the arms and what they cost.
        report_only: Only write the report, from the stored answers.

    Returns:
        The report's page; None after a dry run.

    Raises:
        UserError: A wrong config, or a folder that cannot be written. An arm that fails is in the report instead.
    """
    settings = load_ablation(config, list(overrides), data)
    root = Path(settings.out).resolve()
    if report_only:
        return write_ablation_report(root)
    work = Path(settings.work or settings.out).resolve()
    for key, folder in (("out", root), ("work", work / "steps")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"{key}={getattr(settings, key)}: cannot write there ({error.strerror})"
            ) from error
    inputs = shared_inputs(settings)
    with step_starter(n_jobs(settings)) if settings.warm_start and AVAILABLE else nullcontext() as starter:
        watch = Watch(root, work, n_jobs(settings))
        run = partial(
            run_steps,
            work,
            jobs=n_jobs(settings),
            say=watch.say,
            starter=starter,
            watch=None if dry_run else watch,
        )
        try:
            plans = plan_arms(settings, work, inputs, run)
            if dry_run:
                print(cost_table(settings, work, plans))
                return None
            _choose_learning_rates(settings, work, inputs, plans, run, watch)
            _run_arms(settings, root, work, inputs, plans, run, watch)
        finally:
            watch.clear()
    return write_ablation_report(root)


def _make_runs(settings: AblationSettings, inputs: Inputs, plans: list[ArmPlan]) -> list[ArmPlan]:
    """The arms that can be run, with the steps of all seeds at their learning rate."""
    ready = [plan for plan in plans if not plan.error]
    for plan in ready:
        for seed in settings.seeds:
            plan.runs[seed] = arm_steps(settings, plan.arm, inputs, seed, plan.lr_scale, plan.steps)
        plan.probe = probe_step(settings, plan.arm, inputs, plan.runs[settings.seeds[0]])
    return ready


def _run_arms(
    settings: AblationSettings,
    root: Path,
    work: Path,
    inputs: Inputs,
    plans: list[ArmPlan],
    run: Run,
    watch: Watch,
) -> None:
    """Train, score and probe every arm, seed by seed."""
    ready = _make_runs(settings, inputs, plans)
    watch.expect(planned_steps(work, plans))
    # Seed by seed: arms with one encoder then find its features cached, and no two processes compute the same ones.
    last = [plan.runs[seed].score for seed in settings.seeds for plan in ready]
    last += [plan.probe for plan in ready if plan.probe is not None]
    _write_index(settings, root, work, plans)
    run(last)


def _choose_learning_rates(
    settings: AblationSettings,
    work: Path,
    inputs: Inputs,
    plans: list[ArmPlan],
    run: Run,
    watch: Watch | None = None,
) -> None:
    """Per arm the factor with the best validation loss of the first seed; test answers are not used."""
    ready = [plan for plan in plans if not plan.error]
    for plan in ready:
        plan.lr_scale = settings.lr_scales[0]
    if len(settings.lr_scales) == 1:
        return
    for plan in ready:
        for scale in settings.lr_scales:
            made = arm_steps(settings, plan.arm, inputs, settings.seeds[0], scale, plan.steps)
            plan.sweep[scale] = made
    _make_runs(settings, inputs, plans)  # of the same length at whichever learning rate
    if watch is not None:
        watch.expect(planned_steps(work, plans))
    run([made.train[-1] for plan in ready for made in plan.sweep.values()])
    for plan in ready:
        plan.runs, plan.probe = {}, None
        plan.losses = {
            scale: validation_loss(work, made.train[-1].folder) for scale, made in plan.sweep.items()
        }
        found = {scale: loss for scale, loss in plan.losses.items() if loss is not None}
        if found:
            plan.lr_scale = min(found, key=lambda scale: found[scale])
        else:
            first = plan.sweep[settings.lr_scales[0]].train[-1]
            plan.error = str(failure(work, [step.folder for step in first.chain()]) or "no validation loss")


def _write_index(settings: AblationSettings, root: Path, work: Path, plans: list[ArmPlan]) -> None:
    """Write down which steps make up which arm, before they are run."""
    arms = []
    for plan in plans:
        arm = plan.arm
        runs = [
            {
                "seed": seed,
                "key": made.score.key,
                "train": [step.folder for step in made.tuned],
                "score": made.score.folder,
                "chain": [step.folder for step in made.score.chain()],
            }
            for seed, made in plan.runs.items()
        ]
        arms.append(
            {
                "name": arm.name,
                "track": arm.track,
                "tokens_per_s": arm.tokens_per_s,
                "remark": arm.remark,
                "config": arm.stages,
                "steps": plan.steps,
                "plan": {stage: step.folder for stage, step in plan.costs.items()},
                "lr_scale": plan.lr_scale,
                "sweep": {f"{scale:g}": loss for scale, loss in plan.losses.items()},
                "probe": [step.folder for step in plan.probe.chain()] if plan.probe else [],
                "runs": runs,
                "error": plan.error,
            }
        )
    index = {"settings": dataclasses.asdict(settings), "work": os.path.relpath(work, root), "arms": arms}
    text = json.dumps(index, indent=1)
    write_text_atomic(root / INDEX, text + "\n")
