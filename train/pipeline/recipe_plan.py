"""What a recipe is going to do and to cost: `alm train RECIPE --dry-run`. Nothing is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from alm.common.errors import UserError
from alm.common.settings import parse_settings
from train.engine import checkpoints
from train.pipeline.dry_run import plan
from train.pipeline.preparation import PREPARATIONS, prepared_by
from train.pipeline.recipe import REFERENCE, Recipe, Stage, references
from train.pipeline.rundir import is_attempt, is_finished
from train.pipeline.stages import decided_by, step_print

# What a model that is not there yet will be made of.
_PARTS = ("encoder", "encoder_options", "projector", "projector_options", "llm", "chat_template", "model")


def plan_recipe(recipe: Recipe) -> str:
    """Say of every stage whether it is finished, goes on or runs, and what that costs."""
    changing: set[str] = set()
    lines = []
    for number, stage in enumerate(recipe.stages, start=1):
        state = _state(recipe, stage, changing)
        if state != "finished":
            changing.add(stage.name)
        lines.append(f"== {number}/{len(recipe.stages)} {stage.name} ({stage.kind}): {state}")
        if state != "finished" and stage.kind not in PREPARATIONS:
            lines.append(_cost(recipe, stage))
    return "\n".join(lines)


def _state(recipe: Recipe, stage: Stage, changing: set[str]) -> str:
    used = dict.fromkeys(references(stage.values))
    if waits := [name for name in used if name in changing]:
        return f"runs after {', '.join(waits)}"
    folder = recipe.out / stage.name
    try:
        if stage.kind in PREPARATIONS:
            config: Any = parse_settings(PREPARATIONS[stage.kind].config, recipe.options(stage), stage.name)
            decides, inputs = prepared_by(stage.kind, config)
        else:
            decides, inputs = decided_by(recipe.settings(stage))
    except UserError as error:
        return f"cannot run: {error}"
    print_ = step_print(decides, inputs)
    if is_finished(folder, print_) and recipe.artifact(stage.name).exists():
        return "finished"
    saved = checkpoints.found(folder / "checkpoints") if is_attempt(folder, print_) else []
    return f"goes on from step {saved[-1][0]}" if saved else "runs"


def _cost(recipe: Recipe, stage: Stage) -> str:
    """The stage's plan, on untrained stand-ins for what earlier stages have not left yet; or what the config says."""
    settings = recipe.settings(stage)
    values = _with_stand_ins(recipe, stage.values)
    missing = [name for name in references(values) if not recipe.artifact(name).exists()]
    why = f"inputs of {', '.join(dict.fromkeys(missing))} are not there yet"
    if not missing:
        try:
            return str(plan(recipe.settings(replace(stage, values=values))))
        except UserError as error:
            why = str(error)
    optim = settings.optim
    trains = ", ".join(f"{part} {getattr(settings.policy, part)}" for part in ("encoder", "projector", "llm"))
    return "\n".join(
        [
            f"stage {stage.kind}",
            f"  steps    {optim.steps:,} of {optim.batch_size * optim.accumulation} samples per process",
            *([f"  policy   {trains}"] if stage.kind in ("align", "instruct") else []),
            f"  no more  {why}",
        ]
    )


def _with_stand_ins(recipe: Recipe, values: dict[str, Any]) -> dict[str, Any]:
    """A stage's config where an encoder or model that is not there yet is replaced by what it will be made of."""
    values = dict(values)
    for key, parts in (("model", _PARTS), ("encoder", _PARTS[:2])):
        while (source := _absent(recipe, values.get(key))) is not None:
            del values[key]
            values |= {part: source.values[part] for part in parts if part in source.values}
    return values


def _absent(recipe: Recipe, value: Any) -> Stage | None:
    """The stage that a reference names, where it has left nothing yet."""
    if not isinstance(value, str) or not value.startswith(REFERENCE):
        return None
    stage = recipe.stage(references(value)[0])
    return stage if not recipe.artifact(stage.name).exists() else None
