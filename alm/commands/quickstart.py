"""`alm quickstart`: train and score a small model from scratch."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from alm.commands import Command, add_overrides, seed
from alm.common.errors import ConfigError
from alm.common.processes import cpu_seconds


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "quickstart",
        help="train and score a small audio-language model on this machine, offline",
        description=(
            "Compose sound scenes, train a small LLM on text, pretrain an AudioMosaic encoder, align it with the LLM, "
            "tune both, and score the model and its controls. Offline, about ten minutes on two CPU cores. With "
            "--encoder, --llm and --data: train a projector between the two on labelled recordings, and ask about "
            "those that are held out. The same command again continues after the last finished stage."
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
    parser.add_argument(
        "--encoder", help="an encoder in place of the pretrained one: name, directory or hub id"
    )
    parser.add_argument("--llm", help="an LLM in place of the small one: directory, hub id or GGUF file")
    parser.add_argument(
        "--held-out",
        metavar="COLUMN=VALUE",
        help="with --encoder, --llm and --data: the recordings to ask about, for example speaker=ann (the last fold)",
    )
    parser.add_argument("--seed", type=seed, default=0, help="seed of data, weights and sampling (0)")
    parser.add_argument(
        "--inputs-only",
        action="store_true",
        help="only compose the scenes and train the small LLM, for runs of your own (alm ablate does this); with "
        "--held-out: only write the questions about the recordings of --data, into OUT/data",
    )
    add_overrides(
        parser,
        "settings of alm config show quickstart, for example instruct.optim.steps=500; with --encoder, --llm "
        "and --data those of quickstart-labelled, for example question='Which digit is spoken?'",
    )
    parser.set_defaults(run=_quickstart)


def _quickstart(arguments: argparse.Namespace) -> None:
    from train.quickstart.labelled import make_splits, run_labelled
    from train.quickstart.workflow import make_inputs, run_quickstart

    started, parts = time.perf_counter(), {"encoder": arguments.encoder, "llm": arguments.llm}
    if all(parts.values()) and arguments.data and not arguments.inputs_only:
        given = {**parts, "data": arguments.data, "held_out": arguments.held_out, "seed": arguments.seed}
        run_labelled(arguments.out, given, arguments.overrides)
        print(f"{time.perf_counter() - started:.0f} s; CPU time {cpu_seconds():.0f} s")
        return
    if arguments.held_out is not None:
        if not (arguments.data and arguments.inputs_only):
            raise ConfigError(
                "--held-out: needs --encoder, --llm and --data, or --data and --inputs-only; scenes hold out folds "
                "(compose.test_folds)"
            )
        given = {"data": arguments.data, "held_out": arguments.held_out or None}
        make_splits(arguments.out, given, arguments.overrides)
        return
    make = make_inputs if arguments.inputs_only else run_quickstart
    chosen = [f"{key}={json.dumps(value)}" for key, value in parts.items() if value]
    make(arguments.out, arguments.data, arguments.seed, [*chosen, *arguments.overrides])


COMMAND = Command(add, order=1)
