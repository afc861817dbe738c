"""Closed-ended classification as in LTU: a model describes a sound, and its words are matched with a set of labels.

`split` names the corpus (see `alm/data/corpora`), `data` its folder. Its test clips are used, or all clips if it has
no splits. The labels are the record's choices; the prompt does not list them. There are three ways to match an answer
with the labels: by name, with the parser (`qa/overall`); by text embedding, as LTU does, if `ALM_SBERT_MODEL` names a
sentence embedding model (`qa/label_embedding`, `ranking/label_embedding_map`); and with `answer_by=rank` by likelihood
(`ranking/map`).
"""

from dataclasses import replace
from pathlib import Path

from alm.data.corpora import open_corpus
from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import entry_record, read_entries
from eval.errors import EvaluationError
from eval.scoring.correctness import by_choice

PROMPT = "What is the sound in this recording? Answer with its name."

_SETS = ("esc50", "vocalsound", "fsd50k", "vggsound", "tut17", "dcase17", "beijing_opera", "audioset")


def _plain(label: str) -> str:
    return label.replace("_", " ").strip()


def _read(root: Path, split: str) -> list[Record]:
    corpus = open_corpus(split, root)
    test = next((name for name in ("test", "eval") if name in corpus.splits), None)
    entries = read_entries(corpus, test)
    if not entries:
        raise EvaluationError(f"{root}: no clips of {split}; expected {corpus.layout()}")
    # A corpus with several labels per clip lists them in an order of its own.
    names = corpus.class_names(entries)
    labels = tuple(map(_plain, names)) if corpus.multi_label else tuple(sorted(map(_plain, names)))
    records = []
    for entry in entries:
        own = tuple(map(_plain, entry.labels))
        path = entry.audio[0].path
        asked = replace(
            entry, id=f"{path.parent.name}/{path.name}", question=PROMPT, answer=own[0], answers=own,
            choices=labels, kind=split,
        )  # fmt: skip
        records.append(entry_record(asked, show_choices=False))
    return records


BENCHMARK = Benchmark(
    reader=_read,
    prompt=PROMPT,
    metrics=("qa", "map", "label_embedding"),
    is_right=by_choice,
    max_new_tokens=16,
    citation="Gong et al. 2024, Listen, Think, and Understand, section 4.1 (closed-ended classification).",
    splits=_SETS,
)
