"""`alm list`: what can be named in configs."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "list",
        help="list the encoders, projectors, metrics, benchmarks, data sets and corpora that are there",
        description="List what can be named in configs.",
    )
    kinds = ("encoders", "projectors", "metrics", "benchmarks", "datasets", "corpora")
    parser.add_argument("what", metavar="WHAT", choices=kinds, help=f"one of {', '.join(kinds)}")
    parser.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.what == "encoders":
        from encoders import list_encoders as names
    elif arguments.what == "projectors":
        from projectors import list_projectors as names
    elif arguments.what == "metrics":
        from eval.metrics import list_metrics as names
    elif arguments.what == "datasets":
        from train.finetune.datasets import list_datasets as names
    elif arguments.what == "corpora":
        from alm.data.convert import list_sources as names
    else:
        from eval.benchmarks import list_benchmarks as names
    print("\n".join(names()))


COMMAND = Command(add, order=13)
