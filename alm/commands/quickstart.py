"""`alm quickstart`: train and score a small model from nothing."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, seed


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "quickstart",
        help="train and score a small audio-language model on this machine, offline",
        description=(
            "Compose sound scenes, train a small LLM on text, pretrain an AudioMosaic encoder, align it with the LLM, "
            "tune both, and score the model beside its controls. Offline, about ten minutes on two CPU cores. Run "
            "again, it continues after the last finished stage."
        ),
    )
    parser.add_argument(
        "--out", default="quickstart", metavar="DIR", help="folder for all results (quickstart)"
    )
    parser.add_argument(
        "--data",
        metavar="LABELS.csv",
        help="make the scenes from labelled recordings: a CSV with filename, category, fold (as ESC-50's)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of data, weights and sampling (0)")
    parser.add_argument(
        "--inputs-only",
        action="store_true",
        help="only compose the scenes and train the small LLM, for runs of your own (alm ablate does this)",
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings of configs/quickstart.yaml, for example llm=DIR_OR_HUB_ID or instruct.optim.steps=500",
    )
    parser.set_defaults(run=_quickstart)


def _quickstart(arguments: argparse.Namespace) -> None:
    from train.quickstart.workflow import make_inputs, run_quickstart

    make = make_inputs if arguments.inputs_only else run_quickstart
    make(arguments.out, arguments.data, arguments.seed, arguments.overrides)


COMMAND = Command(add, order=1)
