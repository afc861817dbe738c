"""MMSU: multiple-choice questions on spoken language."""

from eval.benchmarks._readers import choice_benchmark

BENCHMARK = choice_benchmark(
    "mmsu",
    "Wang et al. 2025, MMSU: A Massive Multi-task Spoken Language Understanding and Reasoning Benchmark.",
    groups=("sub-category", "task_name"),
)
