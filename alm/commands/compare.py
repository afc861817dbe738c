"""`alm compare`: two models on the same questions."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="compare two models on the same questions",
        description=(
            "Compare the predictions of two models: paired differences with 95 % intervals, permutation and McNemar "
            "tests, p-values corrected for the number of scores (Holm)."
        ),
    )
    parser.add_argument(
        "first", metavar="A", help="folder of an evaluation, of several, or a predictions.jsonl"
    )
    parser.add_argument("second", metavar="B", help="the same for the other model")
    parser.add_argument(
        "--out", metavar="DIR", help="write comparison.html, comparison.md and comparison.json"
    )
    parser.set_defaults(run=_compare)


def _compare(arguments: argparse.Namespace) -> None:
    from eval.reports.compare import compare_runs
    from eval.reports.comparison_page import format_comparison, write_comparison

    comparison = compare_runs(arguments.first, arguments.second)
    print(format_comparison(comparison))
    if arguments.out:
        print(f"comparison: {write_comparison(arguments.out, comparison)}")


COMMAND = Command(add, order=6)
