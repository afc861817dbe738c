"""MuChoMusic: multiple-choice questions on music."""

from eval.benchmarks._readers import choice_benchmark

BENCHMARK = choice_benchmark(
    "muchomusic",
    "Weck et al. 2024, MuChoMusic: Evaluating Music Understanding in Multimodal Audio-Language Models.",
    groups=("genre", "dataset"),
)
