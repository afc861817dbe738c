"""The kinds of configs: the command that runs each, its checks, its values with all defaults, its JSON schema."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.settings import apply_overrides, parse_settings, read_yaml
from alm.configs.keys import plain
from alm.configs.schema import DRAFT, schema_of


@dataclass(frozen=True)
class ConfigKind:
    """One kind of config.

    Attributes:
        name: Its name.
        command: The command that runs it.
        resolve: Checks a file with overrides; returns all its values, as plain ones.
        schema: Its JSON schema.
    """

    name: str
    command: str
    resolve: Callable[[Path, Sequence[str]], dict[str, Any]]
    schema: Callable[[], dict[str, Any]]


def kind_of(path: Path) -> ConfigKind:
    """The kind of a config, by its keys.

    Raises:
        ConfigError: It cannot be read, or has the keys of no kind.
    """
    values = read_yaml(path)
    if isinstance(values.get("stages"), list):
        return KINDS["recipe"]
    for key, kind in (
        ("stage", "stage"),
        ("benchmark", "eval"),
        ("text_llm", "quickstart"),
        ("arms", "quickstart"),
    ):
        if key in values:
            return KINDS[kind]
    if values.keys() & {"stages", "axes", "extends", "inputs"}:
        return KINDS["ablation"]
    if path.stem.startswith("quickstart-"):
        return KINDS["quickstart"]
    raise ConfigError(
        f"{path}: not recognised; expected a key stage or stages (alm train), benchmark (alm eval) or axes (alm ablate)"
    )


def _stage(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from projectors.registry import check_projector
    from train.settings import TrainSettings
    from train.stage import parse_stage

    values = read_yaml(path)
    apply_overrides(values, overrides)
    settings = parse_stage(values, str(path))
    if isinstance(settings, TrainSettings):
        check_projector(settings.projector, settings.projector_options)
    return dict(plain(settings))


def _recipe(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from train.pipeline.recipe import RecipeEvaluation, load_recipe

    recipe = load_recipe(path, overrides)
    stages = []
    for stage in recipe.stages:
        values = {"name": stage.name, **plain(recipe.settings(stage))}
        values.pop("out")  # the recipe's own
        if stage.evaluate is not None:
            values["evaluate"] = plain(
                parse_settings(RecipeEvaluation, recipe.resolve(stage.evaluate), str(path))
            )
        stages.append(values)
    return {"out": str(recipe.out), "stages": stages}


def _eval(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from alm.common.settings import load_settings
    from eval.benchmarks import load_benchmark
    from eval.runner.settings import EvalSettings

    settings = load_settings(EvalSettings, path, overrides)
    load_benchmark(settings.benchmark)
    return dict(plain(settings))


def _ablation(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from eval.ablation.settings import load_ablation

    return dict(plain(load_ablation(path, list(overrides), None)))


def _quickstart(path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    from train.quickstart.labelled import load_labelled
    from train.quickstart.workflow import load_quickstart

    if path.stem == "quickstart-labelled":
        given = {"encoder": "ENCODER_DIR", "llm": "LLM_DIR", "data": "LABELS.csv"}
        return dict(plain(load_labelled(given, overrides)))
    recordings = "LABELS.csv" if path.stem == "quickstart-recordings" else None
    return dict(plain(load_quickstart(recordings, 0, overrides)))


def _stage_schema() -> dict[str, Any]:
    from train.stage import STAGES

    definitions: dict[str, Any] = {}
    cases = []
    for name in STAGES.names():
        reference = schema_of(STAGES.get(name).settings, definitions)
        cases.append({"if": {"properties": {"stage": {"const": name}}}, "then": reference})
    stage = {"enum": STAGES.names(), "description": "Name of the stage."}
    return {
        "$schema": DRAFT, "title": "A stage of alm train", "type": "object", "required": ["stage"],
        "properties": {"stage": stage}, "allOf": cases, "$defs": definitions,
    }  # fmt: skip


def _recipe_schema() -> dict[str, Any]:
    from train.pipeline.recipe import RecipeEvaluation
    from train.settings import TrainSettings
    from train.stage import STAGES

    definitions: dict[str, Any] = {}
    evaluate = schema_of(RecipeEvaluation, definitions)
    named = {"type": "string", "description": "Name of the stage, and of its folder."}
    cases = []
    for name in STAGES.names():
        settings = STAGES.get(name).settings
        schema_of(settings, definitions)
        of_stage = definitions[settings.__name__]
        keys = {key: value for key, value in of_stage["properties"].items() if key != "out"}
        keys |= {"name": named, "evaluate": evaluate}
        rule = {"properties": keys, "additionalProperties": False}
        cases.append({"if": {"properties": {"stage": {"const": name}}}, "then": rule})
    schema_of(TrainSettings, definitions)
    item = {
        "type": "object", "required": ["name", "stage"], "properties": {"stage": {"enum": STAGES.names()}},
        "allOf": cases,
    }  # fmt: skip
    keys = {
        "out": {"type": "string", "description": "Folder of all runs."},
        "defaults": {
            "type": "object", "description": "Values of every training stage.", "additionalProperties": False,
            "properties": definitions[TrainSettings.__name__]["properties"],
        },
        "stages": {
            "type": "array", "description": "The stages in their order: the keys of the stage, and name and evaluate.",
            "minItems": 1, "items": item,
        },
    }  # fmt: skip
    return {
        "$schema": DRAFT, "title": "A recipe of alm train", "type": "object", "required": ["out", "stages"],
        "properties": keys, "additionalProperties": False, "$defs": definitions,
    }  # fmt: skip


def _of_class(title: str, load: Callable[[], type[Any]]) -> Callable[[], dict[str, Any]]:
    def schema() -> dict[str, Any]:
        definitions: dict[str, Any] = {}
        reference = schema_of(load(), definitions)
        return {"$schema": DRAFT, "title": title, **reference, "$defs": definitions}

    return schema


def eval_class() -> type[Any]:
    """The dataclass of an evaluation's config."""
    from eval.runner.settings import EvalSettings

    return EvalSettings


def ablation_class() -> type[Any]:
    """The dataclass of an ablation's config."""
    from eval.ablation.settings import AblationSettings

    return AblationSettings


def quickstart_class() -> type[Any]:
    """The dataclass of the quickstart's config."""
    from train.quickstart.workflow import QuickstartSettings

    return QuickstartSettings


def _quickstart_schema() -> dict[str, Any]:
    from train.quickstart.labelled import LabelledSettings

    schema = _of_class("The quickstart", quickstart_class)()
    labelled = schema_of(LabelledSettings, schema["$defs"])
    schema["$defs"][LabelledSettings.__name__]["required"] = []  # the command line gives them
    schema["anyOf"] = [{"$ref": schema.pop("$ref")}, labelled]
    return schema


def _ablation_schema() -> dict[str, Any]:
    schema = _of_class("An ablation of alm ablate", ablation_class)()
    settings = schema["$defs"]["AblationSettings"]
    settings["properties"]["extends"] = {"type": "string", "description": "The config that this one changes."}
    settings["required"] = []  # the extended config may give them
    return schema


KINDS = {
    kind.name: kind
    for kind in (
        ConfigKind("stage", "alm train", _stage, _stage_schema),
        ConfigKind("recipe", "alm train", _recipe, _recipe_schema),
        ConfigKind("eval", "alm eval", _eval, _of_class("An evaluation of alm eval", eval_class)),
        ConfigKind("ablation", "alm ablate", _ablation, _ablation_schema),
        ConfigKind("quickstart", "alm quickstart", _quickstart, _quickstart_schema),
    )
}
