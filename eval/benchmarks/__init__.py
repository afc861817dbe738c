"""Benchmarks: one file per benchmark with a `BENCHMARK` record, the file name is the registry key."""

import importlib
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from eval.errors import EvaluationError

if TYPE_CHECKING:
    from eval.benchmarks._base import Benchmark
    from eval.scoring.scores import Scores

__all__ = ["describe_benchmarks", "list_benchmarks", "load_benchmark", "run_benchmark"]


def list_benchmarks() -> list[str]:
    """Name every benchmark that `load_benchmark` knows, sorted."""
    files = Path(__file__).parent.glob("*.py")
    return sorted(file.stem for file in files if not file.stem.startswith("_"))


def load_benchmark(name: str) -> "Benchmark":
    """Get the benchmark of that name.

    Raises:
        EvaluationError: No benchmark has that name.
    """
    known = list_benchmarks()
    if name not in known:
        nearest = get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise EvaluationError(f"unknown benchmark {name!r}{hint} Known benchmarks: {', '.join(known)}.")
    benchmark: Benchmark = importlib.import_module(f"eval.benchmarks.{name}").BENCHMARK
    return benchmark


def describe_benchmarks() -> str:
    """Every benchmark with its splits and where it is described, as a table."""
    lines = []
    for name in list_benchmarks():
        benchmark = load_benchmark(name)
        lines.append(f"{name:20s} {', '.join(benchmark.splits)}\n{'':20s} {benchmark.citation}")
    return "\n".join(lines)


def run_benchmark(
    config: str | Path, model: str | Path, out: str | Path | None = None, overrides: Sequence[str] = ()
) -> "Scores":
    """Run `alm eval`: read the benchmark's data, answer it, print and return the scores.

    Args:
        config: A YAML file, or the name of a benchmark for the config shipped with it.
        model: Audio-language model directory or hub id.
        out: Where predictions and scores go; None is `eval/<name>` in the model directory.
        overrides: `key=value` strings over the config, for example `data=test.jsonl`.

    Returns:
        The scores; see `eval.scoring.scores.score_predictions`.

    Raises:
        UserError: A bad config, benchmark, manifest or model, audio that cannot be read, or an out directory that
            cannot be written.
    """
    from eval.runner.benchmark import run

    return run(config, model, out, overrides)
