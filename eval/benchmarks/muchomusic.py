"""MuChoMusic: multiple-choice questions on music."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("muchomusic"),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    is_right=by_choice,
    citation="Weck et al. 2024, MuChoMusic: Evaluating Music Understanding in Multimodal Audio-Language Models.",
    groups=("genre", "dataset"),
)
