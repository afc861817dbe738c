"""MMAU-Pro, closed questions.

Open questions and instruction following, which the paper scores with a judge or by rules, are not asked.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader

BENCHMARK = Benchmark(
    name="mmau_pro",
    reader=corpus_reader("mmau_pro", CHOICE_PROMPT),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Kumar et al. 2025, MMAU-Pro: A Challenging and Comprehensive Benchmark for Audio General Intelligence.",
    groups=("length_type", "sub-cat"),
)
