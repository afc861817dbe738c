"""MMAR: multiple-choice questions that need deep reasoning."""

from eval.benchmarks._readers import choice_benchmark

BENCHMARK = choice_benchmark(
    "mmar",
    "Ma et al. 2025, MMAR: A Challenging Benchmark for Deep Reasoning in Speech, Audio, Music, and Their Mix.",
    groups=("category", "sub-category", "language"),
    official="mmau",
)
