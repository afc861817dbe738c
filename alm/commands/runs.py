"""`alm runs`: what was trained, how far it came, and how runs differ."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "runs",
        help="list training runs, or compare some",
        description="List the run directories in some directories: stage, state, step and last metrics.",
    )
    parser.add_argument(
        "folders", nargs="+", metavar="DIR", help="searched at any depth; runs with --compare"
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="show in what the given runs' configs differ, and their metrics",
    )
    parser.set_defaults(run=_runs)


def _runs(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from train.pipeline.run_listing import compare_runs, find_runs, read_run, runs_table

    if arguments.compare:
        print(compare_runs([read_run(Path(folder)) for folder in arguments.folders]))
    else:
        print(runs_table(find_runs(arguments.folders)))


COMMAND = Command(add, order=14)
