"""Recipes: stages that run one after the other; a stage can start from the artifacts of earlier stages.

A recipe is one YAML file::

    out: runs/example
    defaults: {run: {precision: bf16}}          # for every training stage
    stages:
      - {name: align, stage: align, encoder: DIR, llm: DIR, data: {train: [captions.jsonl]}}
      - {name: instruct, stage: instruct, model: stage:align, data: {train: [qa.jsonl]}, evaluate: {data: test.jsonl}}

In the values of a stage, `stage:NAME` stands for the artifact of the stage NAME, and `stage:NAME/FILE` for a file in
it. Every stage has its own directory below `out`, with a fingerprint of its config, its inputs' content and the code. A
finished stage is skipped; a changed stage runs again, and so do the stages that use its artifact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.json_text import read_json_object
from alm.common.processes import is_main_process
from alm.common.settings import apply_overrides, parse_settings, read_yaml
from alm.data.readers.base import parse_source
from projectors.registry import check_projector
from train.pipeline.evaluation import AnswerSettings, score_model
from train.pipeline.recipe_report import write_recipe_report
from train.pipeline.rundir import facts_of
from train.pipeline.runner import run_stage
from train.processes import barrier, say
from train.settings import TrainSettings
from train.stage import STAGES, StageSettings, parse_stage
from train.stages.training import TrainingStage

REFERENCE = "stage:"


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeEvaluation(AnswerSettings):
    """How the model of a stage is evaluated; also the options of `AnswerSettings`.

    Attributes:
        data: Data with references, as in `data.train`: a path, or a mapping with `path`, `format` and more.
        controls: Which audio the model gets: the record's own (`none`), another clip's (`other_clip`), or none
            (`no_audio`).
    """

    data: Any
    controls: tuple[str, ...] = ("none", "other_clip")

    def __post_init__(self) -> None:
        """Check the data's settings, and those of the base class."""
        super().__post_init__()
        parse_source(self.data, "data")


@dataclasses.dataclass(frozen=True)
class RecipeStage:
    """One stage of a recipe.

    Attributes:
        name: Its name, and the name of its directory below `out`.
        values: Its config, defaults filled in, references not yet resolved.
        evaluate: How its model is evaluated; None does not evaluate it.
    """

    name: str
    values: dict[str, Any]
    evaluate: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        """Name of the stage that runs: pretrain, align, compose, ..."""
        return str(self.values["stage"])


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Stages in their order.

    Attributes:
        out: Directory of everything.
        stages: The stages.
    """

    out: Path
    stages: tuple[RecipeStage, ...]

    def artifact(self, name: str) -> Path:
        """Where the artifact of a stage is, once it is finished."""
        return self.out / name / STAGES.get(self.stage(name).kind).artifact

    def stage(self, name: str) -> RecipeStage:
        """The stage of a name."""
        return next(stage for stage in self.stages if stage.name == name)

    def resolve(self, value: Any) -> Any:
        """A value with every reference replaced by the path it stands for."""
        if isinstance(value, dict):
            return {key: self.resolve(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolve(item) for item in value]
        if isinstance(value, str) and value.startswith(REFERENCE):
            name, _, rest = value.removeprefix(REFERENCE).partition("/")
            return str(self.artifact(name) / rest)
        return value

    def settings(self, stage: RecipeStage) -> StageSettings:
        """The config of a stage, references resolved."""
        values = self.resolve(stage.values) | {"out": str(self.out / stage.name)}
        return parse_stage(values, f"{self.out.name}: stage '{stage.name}'")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and check everything in it that can be checked before anything runs.

    Args:
        path: The YAML file.
        overrides: `out=DIR`, `defaults.key=value`, or `NAME.key=value` of the stage NAME.

    Raises:
        ConfigError: Unknown keys, a name given twice, or a reference to a stage that is not an earlier one.
    """
    values = read_yaml(path)
    listed = values.pop("stages", None)
    if not isinstance(listed, list) or not listed or not all(isinstance(item, dict) for item in listed):
        raise ConfigError(f"{path}: stages: expected a list of stages, each with name and stage")
    by_name = _by_name(listed, path)
    apply_overrides(values | by_name, [item for item in overrides if item.split(".")[0] in by_name])
    apply_overrides(values, [item for item in overrides if item.split(".")[0] not in by_name])
    unknown = sorted(set(values) - {"out", "defaults"})
    if unknown or not values.get("out"):
        raise ConfigError(
            f"{path}: unknown key '{unknown[0]}'; a recipe has out, defaults and stages, overrides begin with one of "
            f"these or a stage's name ({', '.join(by_name)})"
            if unknown
            else f"{path}: out is missing; name a directory for the runs"
        )
    if not isinstance(values["out"], str):
        raise ConfigError(f"{path}: out is {str(values['out'])[:40]!r}, expected the name of a directory")
    defaults = values.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise ConfigError(f"{path}: defaults is {str(defaults)[:40]!r}, expected a section with keys")
    stages: list[RecipeStage] = []
    for name, given in by_name.items():
        stage = _stage(name, given, defaults, path)
        known = [earlier.name for earlier in stages]
        for reference in references([stage.values, stage.evaluate]):
            if reference not in known:
                raise ConfigError(
                    f"{path}: stage '{name}' refers to '{reference}', which is not an earlier stage "
                    f"({', '.join(known)})"
                )
        stages.append(stage)
    recipe = Recipe(Path(values["out"]), tuple(stages))
    for stage in stages:
        _check(recipe, stage, str(path))
    return recipe


def run_recipe(recipe: Recipe) -> Path:
    """Run every stage that is not finished; returns the last artifact."""
    results: list[dict[str, Any]] = []
    for number, stage in enumerate(recipe.stages, start=1):
        say(f"\n== {number}/{len(recipe.stages)} {stage.name} ({stage.kind})")
        run_stage(recipe.settings(stage))
        facts = facts_of(recipe.out / stage.name)
        results.append({"name": stage.name, "stage": stage.kind, "facts": facts})
        if stage.evaluate is not None:
            results[-1]["scores"] = _evaluate(recipe, stage)
        if is_main_process():
            # Written after every stage, so that it can be read while the recipe runs.
            table = write_recipe_report(recipe.out, results)
    if is_main_process():
        print(f"\n{table}\n\n{recipe.out / 'report.md'}")
    return recipe.artifact(recipe.stages[-1].name)


def _evaluate(recipe: Recipe, stage: RecipeStage) -> dict[str, Any]:
    """Score a stage's model."""
    options = parse_settings(RecipeEvaluation, recipe.resolve(stage.evaluate), f"{stage.name}.evaluate")
    folder = recipe.out / f"{stage.name}-scores"
    # The stage has run the code of its LLM already.
    trusted = getattr(recipe.settings(stage), "trust_remote_code", False)
    model, controls = recipe.artifact(stage.name), options.controls
    score_model(
        model, options.data, folder, options, controls=controls, title=stage.name, trust_remote_code=trusted
    )
    barrier()
    return read_json_object(folder / "scores.json", constants=True)


def _by_name(listed: list[dict[str, Any]], path: str | Path) -> dict[str, dict[str, Any]]:
    by_name: dict[str, dict[str, Any]] = {}
    for number, given in enumerate(listed):
        name = given.get("name")
        if not isinstance(name, str) or not name or set(name) & set("/.:= ") or name in ("out", "defaults"):
            raise ConfigError(
                f"{path}: stages[{number}].name is {name!r}; expected a word without '/', '.', ':', '='"
            )
        if name in by_name:
            raise ConfigError(f"{path}: stages[{number}].name: '{name}' is used twice")
        by_name[name] = {key: value for key, value in given.items() if key != "name"}
    return by_name


def _stage(name: str, given: dict[str, Any], defaults: dict[str, Any], path: str | Path) -> RecipeStage:
    kind = given.get("stage")
    if kind not in STAGES.names():
        raise ConfigError(
            f"{path}: stage '{name}': stage is {kind!r}, expected one of {', '.join(STAGES.names())}"
        )
    values = dict(given)
    evaluate = values.pop("evaluate", None)
    stage = STAGES.get(kind)
    if evaluate is not None and not stage.makes_model:
        raise ConfigError(
            f"{path}: stage '{name}': evaluate is for stages that make an audio-language model, not {kind}"
        )
    if "out" in values:
        raise ConfigError(f"{path}: stage '{name}': out is the recipe's; remove it")
    if isinstance(stage, TrainingStage):
        values = _merged(defaults, values)
    return RecipeStage(name, values, evaluate)


def _merged(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """`values` over `defaults`, section by section."""
    merged = {**defaults, **values}
    for key in defaults.keys() & values.keys():
        if isinstance(defaults[key], dict) and isinstance(values[key], dict):
            merged[key] = _merged(defaults[key], values[key])
    return merged


def references(value: Any) -> list[str]:
    """Names of the stages that a value refers to."""
    if isinstance(value, dict):
        return [name for item in value.values() for name in references(item)]
    if isinstance(value, list):
        return [name for item in value for name in references(item)]
    if isinstance(value, str) and value.startswith(REFERENCE):
        return [value.removeprefix(REFERENCE).partition("/")[0]]
    return []


def _check(recipe: Recipe, stage: RecipeStage, path: str) -> None:
    """Parse a stage's config, so that an error in the last stage is reported before the first one runs."""
    where = f"{path}: stage '{stage.name}'"
    values = recipe.resolve(stage.values) | {"out": str(recipe.out / stage.name)}
    settings = parse_stage(values, where)
    if isinstance(settings, TrainSettings):
        check_projector(settings.projector, settings.projector_options)
    if stage.evaluate is not None:
        parse_settings(RecipeEvaluation, recipe.resolve(stage.evaluate), f"{where}.evaluate")
