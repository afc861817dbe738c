"""Speech translation: recordings in one language, text in another, scored by BLEU and chrF.

`data` is a table, see `alm/data/corpora/speech_translation.py`. BLEU's tokenizer is for languages that put spaces
between words; for Chinese, Japanese and Thai only chrF is meaningful.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import corpus_reader
from eval.scoring.correctness import by_text

BENCHMARK = Benchmark(
    reader=corpus_reader("speech_translation"),
    prompt="{question}",
    metrics=("bleu_mt", "chrf"),
    is_right=by_text,
    max_new_tokens=256,
    citation="Post 2018, A Call for Clarity in Reporting BLEU Scores; Popović 2015, chrF.",
    splits=("all",),
    groups=("speaker", "language"),
)
