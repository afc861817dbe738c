"""`alm runs`: list training runs with their state, or compare some."""

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
        "folders",
        nargs="+",
        metavar="DIR",
        help="folders to search at any depth; with --compare, run directories",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="show how the configs of the given runs differ, and their metrics",
    )
    parser.set_defaults(run=_runs)


def _runs(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from train.pipeline.run_listing import compare_runs, find_runs, read_run, runs_table

    if arguments.compare:
        print(compare_runs([read_run(Path(folder)) for folder in arguments.folders]))
    else:
        print(runs_table(find_runs(arguments.folders)))


COMMAND = Command(add, order=15)
