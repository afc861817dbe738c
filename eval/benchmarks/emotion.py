"""Speech emotion: which of the table's emotions a speaker expresses.

`data` is a table, see `alm/data/corpora/emotion.py`. `qa/balanced` is the unweighted average recall, which papers
report because classes differ in size; `qa/overall` is what they call weighted accuracy.
"""

from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, corpus_reader
from eval.scoring.correctness import by_choice

BENCHMARK = Benchmark(
    reader=corpus_reader("emotion"),
    prompt=CHOICE_PROMPT,
    metrics=("qa", "balanced"),
    is_right=by_choice,
    citation="Schuller et al. 2009, The INTERSPEECH 2009 Emotion Challenge (unweighted average recall).",
    splits=("all",),
    groups=("emotion", "speaker"),
)
