"""Spoken questions: the question is in the recording, the answer is text.

`data` is a table, see `alm/data/corpora/spoken_qa.py`. An answer is right if it equals one of the references after
normalisation; `answer/token_f1` is the F1 of words. For long answers add a judge: `alm score FILE --judge`.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import corpus_reader
from eval.scoring.correctness import by_text

BENCHMARK = Benchmark(
    reader=corpus_reader("spoken_qa"),
    prompt="{question}",
    metrics=("qa", "token_f1"),
    is_right=by_text,
    citation="Chen et al. 2024, VoiceBench: Benchmarking LLM-Based Voice Assistants.",
    splits=("all",),
    groups=("topic", "speaker"),
)
