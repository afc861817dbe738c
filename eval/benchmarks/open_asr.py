"""English speech recognition as the Open ASR leaderboard scores it: word error rate with Whisper's normaliser.

`data` is a table as of `transcription`, see `alm/data/corpora/transcription.py`. The leaderboard averages the rates of
several data sets; run each by itself.
"""

from alm.data.corpora import TRANSCRIBE
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import corpus_reader
from eval.scoring.correctness import by_text

BENCHMARK = Benchmark(
    reader=corpus_reader("transcription"),
    prompt=TRANSCRIBE,
    metrics=("wer_whisper", "wer"),
    is_right=by_text,
    max_new_tokens=256,
    citation="Srivastav et al. 2023, Open Automatic Speech Recognition Leaderboard.",
    splits=("all",),
    groups=("speaker",),
)
