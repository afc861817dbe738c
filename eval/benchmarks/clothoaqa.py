"""ClothoAQA: short questions that three annotators answered.

An answer to a yes/no question is right if most annotators gave it; an answer to a single-word question is right if any
annotator gave it. The breakdown `unanimous` shows the questions on which all annotators agree.
"""

from dataclasses import replace
from pathlib import Path

from alm.data.corpora import open_corpus
from alm.data.corpora.clothoaqa import agreed_answers
from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import SHORT_PROMPT, entry_record, read_entries
from eval.parsing.normalise import normalise_answer
from eval.scoring.correctness import by_text


def _read(root: Path, split: str) -> list[Record]:
    records = []
    for entry in read_entries(open_corpus("clothoaqa", root), split):
        answer, accepted = agreed_answers(entry.answers, normalise_answer)
        agreed = len(set(map(normalise_answer, entry.answers))) == 1
        asked = replace(
            entry,
            answer=answer,
            answers=tuple(accepted),
            kind="single_word" if accepted else "yes_no",
            meta={"unanimous": "yes" if agreed else "no"},
        )
        records.append(entry_record(asked))
    return records


BENCHMARK = Benchmark(
    reader=_read,
    prompt=SHORT_PROMPT,
    metrics=("qa",),
    is_right=by_text,
    max_new_tokens=16,
    citation="Lipping et al. 2022, Clotho-AQA: A Crowdsourced Dataset for Audio Question Answering.",
    splits=("test", "val"),
    groups=("unanimous",),
)
