"""`alm list`: the names of components."""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any

from alm.commands import Command

KINDS = {
    "encoders": "encoders.registry:ENCODERS",
    "projectors": "projectors.registry:PROJECTORS",
    "metrics": "eval.metrics:METRICS",
    "benchmarks": "eval.benchmarks:BENCHMARKS",
    "official_rules": "eval.scoring.official:RULES",
    "models": "eval.models:MODEL_KINDS",
    "model_families": "eval.models.families:FAMILIES",
    "corpora": "alm.data.corpora:CORPORA",
    "formats": "alm.data.readers:READERS",
    "stages": "train.stage:STAGES",
    "losses": "train.pretrain.losses:LOSSES",
    "mask_layouts": "train.pretrain.masks:MASK_LAYOUTS",
    "chat_templates": "alm.templates:CHAT_TEMPLATES",
    "commands": "alm.commands:COMMANDS",
}
"""Every kind of component that one file adds, and its registry."""


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "list",
        help="list the components of one kind: encoders, projectors, metrics, benchmarks, corpora, stages, …",
        description="List the names that configs and commands take, including those of plug-in folders.",
    )
    kinds = (*KINDS, "datasets")
    parser.add_argument("what", metavar="WHAT", choices=kinds, help=f"one of {', '.join(kinds)}")
    parser.set_defaults(run=_list)


def _list(arguments: argparse.Namespace) -> None:
    if arguments.what == "datasets":  # the corpora that fine-tuning can use
        from train.finetune.datasets import list_datasets

        names = list_datasets()
    else:
        module, _, name = KINDS[arguments.what].partition(":")
        names = getattr(import_module(module), name).names()
    print("\n".join(names))


COMMAND = Command(add, order=14)
