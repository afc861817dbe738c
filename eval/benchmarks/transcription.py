"""Transcription: any table of recordings and transcripts, scored by word and character error rate.

`data` is the table, see `alm/data/corpora/transcription.py`. Scores are broken down by speaker. A missing answer
counts as an empty transcript.
"""

from alm.data.corpora import TRANSCRIBE
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import corpus_reader
from eval.scoring.correctness import by_text

BENCHMARK = Benchmark(
    reader=corpus_reader("transcription"),
    prompt=TRANSCRIBE,
    metrics=("wer", "cer", "qa"),
    is_right=by_text,
    max_new_tokens=128,
    citation="Word and character error rate as jiwer computes them, eval/metrics/wer and eval/metrics/cer.",
    splits=("all",),
    groups=("speaker",),
)
