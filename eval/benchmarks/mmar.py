"""MMAR: multiple-choice questions that need deep reasoning."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader

BENCHMARK = Benchmark(
    name="mmar",
    reader=corpus_reader("mmar", CHOICE_PROMPT),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Ma et al. 2025, MMAR: A Challenging Benchmark for Deep Reasoning in Speech, Audio, Music, and Their Mix.",
    groups=("category", "sub-category", "language"),
    official="mmau",
)
