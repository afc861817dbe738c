"""Benchmarks: one file per benchmark that declares a `BENCHMARK` record; the file name is the registry key.

A file with a `BENCHMARK` record in a plug-in folder is a benchmark as well. What a model is asked, how long its answers
may be, how they are read and by which metrics they are scored stands in the record and nowhere else.
"""

from dataclasses import replace

from alm.common.plugins import Registry
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import choice_benchmark, corpus_reader

__all__ = [
    "BENCHMARKS",
    "Benchmark",
    "choice_benchmark",
    "corpus_reader",
    "describe_benchmarks",
    "list_benchmarks",
    "load_benchmark",
]

BENCHMARKS: Registry[Benchmark] = Registry(
    "benchmark",
    "BENCHMARK",
    "eval.benchmarks",
    accepts=lambda found: isinstance(found, Benchmark),
    expected="Benchmark(...)",
)


def list_benchmarks() -> list[str]:
    """Name every benchmark that `load_benchmark` knows, sorted."""
    return BENCHMARKS.names()


def load_benchmark(name: str) -> Benchmark:
    """Get the benchmark of that name.

    Raises:
        ConfigError: No benchmark has that name; names the nearest.
    """
    return replace(BENCHMARKS.get(name), name=name)


def describe_benchmarks() -> str:
    """Every benchmark with its splits and where it is described, as a table."""
    lines = []
    for name in list_benchmarks():
        benchmark = load_benchmark(name)
        lines.append(f"{name:20s} {', '.join(benchmark.splits)}\n{'':20s} {benchmark.citation}")
    return "\n".join(lines)
