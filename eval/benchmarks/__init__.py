"""Benchmarks: one file per benchmark that declares a `BENCHMARK` record; the file name is the registry key.

A file with a `BENCHMARK` record in a plug-in folder is a benchmark as well. The record alone defines the prompt, the
length limit of answers, how they are parsed and the metrics.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from alm.common.plugins import Registry
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import choice_benchmark, corpus_reader

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "benchmark_of",
    "choice_benchmark",
    "corpus_reader",
    "describe_benchmarks",
    "load_benchmark",
]

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    "BENCHMARK",
    "eval.benchmarks",
    accepts=lambda found: isinstance(found, Benchmark),
    expected="Benchmark(...)",
)


def load_benchmark(name: str) -> Benchmark:
    """Get the benchmark of that name.

    Raises:
        ConfigError: No benchmark has that name; names the nearest.
    """
    return replace(BENCHMARKS.get(name), name=name)


def benchmark_of(run: Mapping[str, Any]) -> Benchmark | None:
    """The benchmark of an evaluation; None if it is unknown or its plug-in is missing.

    Args:
        run: The entry `run` of the evaluation's `scores.json`.
    """
    name = run.get("benchmark")
    return load_benchmark(name) if name in BENCHMARKS.names() else None


def describe_benchmarks() -> str:
    """Every benchmark with its splits and where it is described, as a table."""
    lines = []
    for name in BENCHMARKS.names():
        benchmark = load_benchmark(name)
        lines.append(f"{name:20s} {', '.join(benchmark.splits)}\n{'':20s} {benchmark.citation}")
    return "\n".join(lines)
