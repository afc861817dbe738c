"""MMAU-Pro, closed questions.

Open questions and instruction following, which the paper scores with a judge or by rules, are not asked.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("mmau_pro"),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    is_right=by_choice,
    citation="Kumar et al. 2025, MMAU-Pro: A Challenging and Comprehensive Benchmark for Audio General Intelligence.",
    groups=("length_type", "sub-cat"),
)
