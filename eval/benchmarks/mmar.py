"""MMAR: multiple-choice questions that need deep reasoning."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("mmar"),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    is_right=by_choice,
    citation="Ma et al. 2025, MMAR: A Challenging Benchmark for Deep Reasoning in Speech, Audio, Music, and Their Mix.",
    groups=("category", "sub-category", "language"),
    official="mmau",
)
