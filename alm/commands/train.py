"""`alm train`: one training stage, or a recipe of several."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_overrides


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "train",
        help="run one training stage, or a recipe of several",
        description=(
            "Run one stage (pretrain, finetune, align, instruct), or the stages of a recipe one after the other. "
            "Finished stages are reused; a changed one, and all that depends on it, runs again. "
            "On several GPUs: torchrun --nproc-per-node N -m alm train CONFIG, or deepspeed --module alm train CONFIG."
        ),
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        help="a YAML file, or a shipped config by name (alm config list): recipes/ltu-tiny",
    )
    add_overrides(parser, "for example optim.lr=1e-4 out=runs/a")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="only estimate the cost: parameters, steps, tokens, memory, FLOPs, time from a few real steps",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the numbers of --dry-run as one line of JSON"
    )
    parser.set_defaults(run=_train)


def _train(arguments: argparse.Namespace) -> None:
    from train.engine.launchers import end_with_launcher

    end_with_launcher()  # before the imports, which take seconds
    from alm.common.errors import ConfigError
    from alm.common.processes import check_launch
    from alm.common.settings import apply_overrides, read_yaml
    from alm.configs.shipped import find_config
    from train.pipeline.runner import run_stage
    from train.stage import STAGES, parse_stage

    check_launch()
    path = find_config(arguments.config, ("recipes", *STAGES.names()))
    values = read_yaml(path)
    if "stages" in values:
        from train.pipeline.recipe import load_recipe, run_recipe
        from train.pipeline.recipe_plan import plan_recipe

        recipe = load_recipe(path, arguments.overrides)
        print(plan_recipe(recipe) if arguments.dry_run else run_recipe(recipe))
        return
    apply_overrides(values, arguments.overrides)
    settings = parse_stage(values, str(path))
    if not arguments.dry_run:
        print(run_stage(settings))
        return
    import dataclasses
    import json

    from encoders.audio.options import applied

    stage = STAGES.get(settings.stage)
    with applied(stage.audio(settings)):
        cost = stage.dry_run(settings)
    if cost is None:
        raise ConfigError(f"stage: '{settings.stage}' has no dry run; run it without --dry-run")
    print(json.dumps(dataclasses.asdict(cost)) if arguments.json else cost)


COMMAND = Command(add, order=3)
