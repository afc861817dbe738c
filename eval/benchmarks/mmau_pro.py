"""MMAU-Pro, closed questions.

Open questions and instruction following, which the paper scores with a judge or by rules, are skipped.
"""

from eval.benchmarks._readers import choice_benchmark

BENCHMARK = choice_benchmark(
    "mmau_pro",
    "Kumar et al. 2025, MMAU-Pro: A Challenging and Comprehensive Benchmark for Audio General Intelligence.",
    groups=("length_type", "sub-cat"),
)
