"""MMAR: `MMAR-meta.json` and the folder `audio`."""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, find, question_record, read_items


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, "MMAR-meta.json", "MMAR-meta.jsonl", "meta.json")
    return [
        question_record(
            item["id"],
            root / item["audio_path"],
            CHOICE_PROMPT,
            item["question"],
            item["answer"],
            source,
            choices=item["choices"],
            kind=item["modality"],
            meta=item,
        )
        for source, item in read_items(
            table, ["id", "audio_path", "question", "choices", "answer", "modality"]
        )
    ]


BENCHMARK = Benchmark(
    name="mmar",
    reader=_read,
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Ma et al. 2025, MMAR: A Challenging Benchmark for Deep Reasoning in Speech, Audio, Music, and Their Mix.",
    groups=("category", "sub-category", "language"),
    official="mmau",
)
