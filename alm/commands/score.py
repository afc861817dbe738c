"""`alm score`: score a file of answers."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "score",
        help="score a file of answers",
        description=(
            "Score predictions.jsonl by its own references, or any ids and answers against the questions of "
            "a benchmark. Missing answers count as wrong. The score by the published rule is shown as well."
        ),
    )
    parser.add_argument("predictions", metavar="PREDICTIONS", help="predictions.jsonl, or a JSON list")
    parser.add_argument("--benchmark", metavar="NAME", help="score against this benchmark's questions")
    parser.add_argument("--data", metavar="ROOT", help="folder or file of its data; no recordings are needed")
    parser.add_argument("--split", metavar="NAME", default="", help="split of the benchmark (its default)")
    parser.add_argument(
        "--official", metavar="RULE", default="", help="also show the score by this published rule (mmau)"
    )
    parser.add_argument(
        "--require",
        metavar="METRIC",
        action="append",
        default=[],
        help="fail if this metric cannot be computed",
    )
    parser.add_argument(
        "--judge",
        metavar="URL_OR_DIR",
        help="also judge short answers by a language model: an OpenAI-compatible URL, or a model",
    )
    parser.add_argument("--out", metavar="FILE", help="write the scores as JSON")
    parser.set_defaults(run=_score)


def _score(arguments: argparse.Namespace) -> None:
    from eval.reports.score_table import format_scores
    from eval.runner.score_file import score_file
    from eval.scoring.scores import write_scores

    scores = score_file(
        arguments.predictions,
        benchmark=arguments.benchmark,
        data=arguments.data,
        split=arguments.split,
        official=arguments.official,
        require=arguments.require,
        judge=arguments.judge,
    )
    print(format_scores(scores))
    if arguments.out:
        write_scores(arguments.out, scores)
        print(f"scores: {arguments.out}")


COMMAND = Command(add, order=5)
