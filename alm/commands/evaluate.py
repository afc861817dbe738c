"""`alm eval`: score a model on a benchmark."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from alm.commands import Command, add_overrides


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "eval",
        help="score a model and its controls on a benchmark",
        description=(
            "Answer every question of a benchmark, and score the answers with 95 % intervals. As controls, the same "
            "model is scored without audio and with another clip's audio. The same command resumes an interrupted run. "
            "'alm eval list' names the benchmarks, 'alm eval compare-prompts BENCHMARK' shows how much the scores "
            "depend on prompt and parser. On several GPUs: torchrun --nproc-per-node N -m alm eval …"
        ),
    )
    parser.add_argument(
        "benchmark",
        metavar="CONFIG_OR_BENCHMARK",
        help="a YAML file, the name of a benchmark, 'list', or 'compare-prompts' and a name",
    )
    parser.add_argument(
        "--model",
        metavar="WHAT",
        help="the model to evaluate: a directory or hub id (ours, or any audio-text model of transformers), "
        "openai:MODEL@URL, or a Python file with an ANSWERER",
    )
    parser.add_argument("--data", metavar="ROOT", help="folder or file of the benchmark's data")
    parser.add_argument("--batch-size", metavar="N", help="questions per batch (16)")
    parser.add_argument(
        "--limit", metavar="N", help="evaluate only the first N records; the scores record this"
    )
    parser.add_argument(
        "--require",
        metavar="METRIC",
        action="append",
        help="fail if this metric cannot be computed",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="folder for predictions and scores (MODEL/eval/BENCHMARK; eval/MODEL/BENCHMARK without a directory MODEL)",
    )
    add_overrides(parser, "for example answer_by=rank controls=[none]")
    parser.set_defaults(run=_eval)


def _eval(arguments: argparse.Namespace) -> None:
    from train.engine.launchers import end_with_launcher

    end_with_launcher()  # before the imports, which take seconds
    from alm.common.errors import ConfigError
    from alm.common.processes import check_launch
    from eval.benchmarks import describe_benchmarks
    from eval.runner.benchmark import run_benchmark
    from eval.runner.prompt_comparison import compare_prompts

    if arguments.benchmark == "list":
        print(describe_benchmarks())
        return
    check_launch()
    given = {"data": arguments.data, "batch_size": arguments.batch_size, "limit": arguments.limit}
    overrides = [f"{key}={value}" for key, value in given.items() if value is not None]
    if arguments.require:
        overrides.append(f"require=[{', '.join(arguments.require)}]")
    benchmark, more = arguments.benchmark, list(arguments.overrides)
    run: Callable[..., Any] = run_benchmark
    if benchmark == "compare-prompts":
        if not more or "=" in more[0]:
            raise ConfigError("compare-prompts: name a benchmark, for example alm eval compare-prompts mmau")
        benchmark, run = more.pop(0), compare_prompts
    run(benchmark, arguments.model or "", arguments.out, [*more, *overrides])


COMMAND = Command(add, order=4)
