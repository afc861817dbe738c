"""AIR-Bench foundation: multiple-choice questions on speech, sound and music."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("airbench"),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    is_right=by_choice,
    citation="Yang et al. 2024, AIR-Bench: Benchmarking Large Audio-Language Models via Generative Comprehension.",
    splits=("foundation",),
    groups=("dataset_name",),
)
