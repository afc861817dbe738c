"""``alm eval``: score a model on a benchmark."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "eval",
        help="score a model on a benchmark, beside its controls",
        description=(
            "Answer every question of a benchmark, and score the answers with 95 %% intervals beside the same "
            "model's scores without audio and with another clip's audio. Interrupted runs go on where they were."
        ),
    )
    parser.add_argument(
        "benchmark", metavar="CONFIG_OR_BENCHMARK", help="a config in configs/eval, or a name"
    )
    parser.add_argument(
        "--model", required=True, metavar="DIR", help="audio-language model directory or hub id"
    )
    parser.add_argument("--out", metavar="DIR", help="where predictions and scores go (MODEL/eval/BENCHMARK)")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="for example data=test.jsonl limit=100"
    )
    parser.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> None:
    from eval.benchmarks import run_benchmark

    run_benchmark(arguments.benchmark, arguments.model, arguments.out, arguments.overrides)
