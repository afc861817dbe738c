"""The dry run of a recipe (`alm train RECIPE --dry-run`): which stages are finished, which run, and their cost.

Nothing is written.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alm.common.errors import UserError
from train.engine import checkpoints
from train.pipeline.recipe import REFERENCE, Recipe, RecipeStage, references
from train.pipeline.rundir import damage, is_attempt, is_finished
from train.pipeline.runner import fingerprint_inputs, step_fingerprint
from train.settings import TrainSettings
from train.stage import STAGES

# The options that say what a model is built from.
_PARTS = ("encoder", "encoder_options", "projector", "projector_options", "llm", "chat_template", "model")


def plan_recipe(recipe: Recipe) -> str:
    """For each stage, whether it is finished, resumes or runs, and its cost."""
    changing: set[str] = set()
    lines = []
    for number, stage in enumerate(recipe.stages, start=1):
        state = _state(recipe, stage, changing)
        if state != "finished":
            changing.add(stage.name)
        lines.append(f"== {number}/{len(recipe.stages)} {stage.name} ({stage.kind}): {state}")
        if state != "finished" and isinstance(recipe.settings(stage), TrainSettings):
            lines.append(_cost(recipe, stage))
    return "\n".join(lines)


def _state(recipe: Recipe, stage: RecipeStage, changing: set[str]) -> str:
    used = dict.fromkeys(references(stage.values))
    if waits := [name for name in used if name in changing]:
        return f"runs after {', '.join(waits)}"
    folder = recipe.out / stage.name
    try:
        key = step_fingerprint(*fingerprint_inputs(recipe.settings(stage)))
    except UserError as error:
        return f"cannot run: {error}"
    if is_finished(folder, key) and recipe.artifact(stage.name).exists():
        wrong = damage(folder, hashes=False)
        return f"cannot run: its finished result has changed ({wrong})" if wrong else "finished"
    saved = checkpoints.found(folder / "checkpoints") if is_attempt(folder, key) else []
    return f"resumes from step {saved[-1][0]}" if saved else "runs"


def _cost(recipe: Recipe, stage: RecipeStage) -> str:
    """The stage's measured cost, with untrained stand-ins for missing inputs; else the config's steps and policy."""
    settings = recipe.settings(stage)
    assert isinstance(settings, TrainSettings)
    values = _with_stand_ins(recipe, stage.values)
    missing = [name for name in references(values) if not recipe.artifact(name).exists()]
    why = f"inputs not built yet: {', '.join(dict.fromkeys(missing))}"
    if not missing:
        try:
            cost = STAGES.get(stage.kind).dry_run(recipe.settings(replace(stage, values=values)))
            if cost is not None:
                return str(cost)
            why = f"stage {stage.kind} has no dry run"
        except UserError as error:
            why = str(error)
    optim, policy = settings.optim, settings.policy
    length = f"steps         {optim.steps:,}" if optim.epochs is None else f"epochs        {optim.epochs:g}"
    lines = [
        f"stage {stage.kind}",
        f"  {length} of {optim.batch_size * optim.accumulation} samples per process",
    ]
    if STAGES.get(stage.kind).makes_model:
        trains = ", ".join(f"{part} {getattr(policy, part)}" for part in ("encoder", "projector", "llm"))
        lines.append(f"  policy        {trains}")
    return "\n".join([*lines, f"  cost unknown  {why}"])


def _with_stand_ins(recipe: Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """A stage's config in which an encoder or model that is not built yet is replaced by the parts it is built from."""
    values = dict(values)
    for key, parts in (("model", _PARTS), ("encoder", _PARTS[:2])):
        while (source := _absent(recipe, values.get(key))) is not None:
            del values[key]
            values |= {part: source.values[part] for part in parts if part in source.values}
    return values


def _absent(recipe: Recipe, value: Any) -> RecipeStage | None:
    """The stage that a reference names, if its artifact is not built yet."""
    if not isinstance(value, str) or not value.startswith(REFERENCE):
        return None
    stage = recipe.stage(references(value)[0])
    return stage if not recipe.artifact(stage.name).exists() else None
