"""MMSU: multiple-choice questions on spoken language."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader

BENCHMARK = Benchmark(
    name="mmsu",
    reader=corpus_reader("mmsu", CHOICE_PROMPT),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Wang et al. 2025, MMSU: A Massive Multi-task Spoken Language Understanding and Reasoning Benchmark.",
    groups=("sub-category", "task_name"),
)
