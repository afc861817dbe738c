"""AudioCaps captioning, five captions per clip.

Clips are removed from YouTube, so test sets differ between papers. `missing_audio: leave_out` scores the clips that
exist and says how many are missing. Two runs scored the same clips if their scores have the same hash of the ids.
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
