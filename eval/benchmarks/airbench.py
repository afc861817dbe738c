"""AIR-Bench foundation: multiple-choice questions on speech, sound and music."""

from eval.benchmarks._readers import choice_benchmark

BENCHMARK = choice_benchmark(
    "airbench",
    "Yang et al. 2024, AIR-Bench: Benchmarking Large Audio-Language Models via Generative Comprehension.",
    splits=("foundation",),
    groups=("dataset_name",),
)
