"""MMSU: multiple-choice questions on spoken language."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("mmsu"),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    is_right=by_choice,
    citation="Wang et al. 2025, MMSU: A Massive Multi-task Spoken Language Understanding and Reasoning Benchmark.",
    groups=("sub-category", "task_name"),
)
