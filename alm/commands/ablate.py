"""`alm ablate`: train and score every arm of a grid."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_overrides


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "ablate",
        help="compare encoders, projectors or recipes: train and score every arm of a grid",
        description=(
            "Train and score every arm of a grid over several seeds, as processes of alm train and alm eval, and "
            "report scores with intervals, paired tests and costs. The same command again runs only the missing steps; "
            "an arm that fails is reported. alm config list ablation names configs to start from."
        ),
    )
    parser.add_argument(
        "config",
        metavar="CONFIG",
        nargs="?",
        help="a YAML file, or a shipped config (alm config list ablation): encoders-tiny",
    )
    add_overrides(parser, "for example seeds=[0,1] jobs=4")
    parser.add_argument(
        "--data",
        metavar="LABELS.csv",
        help="make the scenes from labelled recordings: filename, category, fold",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="only list the arms and estimate their cost")
    mode.add_argument(
        "--report-only", action="store_true", help="only rewrite the report from stored answers"
    )
    mode.add_argument(
        "--status",
        metavar="DIR",
        help="only show what runs, what is left and about how long that takes, for the ablation in this folder (out)",
    )
    parser.set_defaults(run=_ablate)


def _ablate(arguments: argparse.Namespace) -> None:
    from alm.common.errors import ConfigError
    from eval.ablation import run_ablation

    if arguments.status is not None:
        from pathlib import Path

        from eval.ablation.progress import ablation_status

        if arguments.config or arguments.data:
            raise ConfigError("--status: takes the folder alone; remove CONFIG, KEY=VALUE and --data")
        print(ablation_status(Path(arguments.status).resolve()))
        return
    if arguments.config is None:
        raise ConfigError(
            "alm ablate: give a config, or --status DIR; alm config list ablation names configs"
        )
    report = run_ablation(
        arguments.config,
        arguments.overrides,
        arguments.data,
        dry_run=arguments.dry_run,
        report_only=arguments.report_only,
    )
    if report is not None:
        print(
            f"\n{report.with_suffix('.md').read_text(encoding='utf-8').split('## How to read')[0]}\n{report}"
        )


COMMAND = Command(add, order=7)
