"""MMAU: multiple-choice questions.

The question file was revised (a quarter of test-mini in v05.15.25); its hash is in the scores. Answers of `test` are
not published: a run of it writes `submission.json` instead of scores.
"""

from eval.benchmarks._readers import choice_benchmark

BENCHMARK = choice_benchmark(
    "mmau",
    "Sakshi et al. 2024, MMAU: A Massive Multi-Task Audio Understanding and Reasoning Benchmark.",
    splits=("test-mini", "test"),
    groups=("difficulty", "category", "sub-category"),
    official="mmau",
    prompts={
        # R1-AQA, src/test_mmau.py
        "r1_aqa": "{stem} Please choose the answer from the following options: {choices}. Output the final answer in "
        "<answer> </answer>."
    },
)
