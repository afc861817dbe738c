"""Clotho v2 captioning, five captions per clip."""

from eval.benchmarks._base import CAPTION_METRICS, Benchmark
from eval.benchmarks._readers import CAPTION_PROMPT, corpus_reader

BENCHMARK = Benchmark(
    reader=corpus_reader("clotho"),
    prompt=CAPTION_PROMPT,
    metrics=CAPTION_METRICS,
    citation="Drossos et al. 2020, Clotho: an Audio Captioning Dataset.",
    splits=("evaluation", "validation", "development"),
)
