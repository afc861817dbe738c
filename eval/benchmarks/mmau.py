"""MMAU: multiple-choice questions.

The question file was revised (a quarter of test-mini in v05.15.25); its hash is in the scores. Answers of `test` are
not published: a run of it writes `submission.json` instead of scores.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("mmau"),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    is_right=by_choice,
    citation="Sakshi et al. 2024, MMAU: A Massive Multi-Task Audio Understanding and Reasoning Benchmark.",
    splits=("test-mini", "test"),
    groups=("difficulty", "category", "sub-category"),
    official="mmau",
)
