"""AudioCaps captioning, five captions per clip.

Clips vanish from YouTube, so sets differ between papers: `missing_audio: leave_out` scores those that are there, says
how many are missing, and the hash of the ids in the scores tells whether two sets are the same.
"""

from eval.benchmarks._base import CAPTION_METRICS, Benchmark
from eval.benchmarks._readers import CAPTION_PROMPT, corpus_reader

BENCHMARK = Benchmark(
    reader=corpus_reader("audiocaps"),
    prompt=CAPTION_PROMPT,
    metrics=CAPTION_METRICS,
    citation="Kim et al. 2019, AudioCaps: Generating Captions for Audios in the Wild.",
    splits=("test", "val"),
)
