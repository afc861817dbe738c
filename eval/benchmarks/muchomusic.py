"""MuChoMusic: multiple-choice questions on music."""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader

BENCHMARK = Benchmark(
    name="muchomusic",
    reader=corpus_reader("muchomusic", CHOICE_PROMPT),
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Weck et al. 2024, MuChoMusic: Evaluating Music Understanding in Multimodal Audio-Language Models.",
    groups=("genre", "dataset"),
)
