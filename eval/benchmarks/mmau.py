"""MMAU: `mmau-test-mini.json` or `mmau-test.json`, and the folders its `audio_id` paths name.

The file was revised (a quarter of test-mini in v05.15.25); its hash is in the scores. Answers of `test` are not
published: a run of it writes `submission.json` instead of scores.
"""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, find, question_record, read_items


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, f"mmau-{split}.json", f"mmau-{split}.jsonl")
    return [
        question_record(
            item["id"],
            root / item["audio_id"],
            CHOICE_PROMPT,
            item["question"],
            item.get("answer") or None,
            source,
            choices=item["choices"],
            kind=item["task"],
            meta=item,
        )
        for source, item in read_items(table, ["id", "audio_id", "question", "choices", "task"])
    ]


BENCHMARK = Benchmark(
    name="mmau",
    reader=_read,
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Sakshi et al. 2024, MMAU: A Massive Multi-Task Audio Understanding and Reasoning Benchmark.",
    splits=("test-mini", "test"),
    groups=("difficulty", "category", "sub-category"),
    official="mmau",
)
