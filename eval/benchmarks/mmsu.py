"""MMSU: `question/mmsu.jsonl` and the folder `audio`."""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, find, question_record, read_items

_LETTERS = "abcd"


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, "question/mmsu.jsonl", "mmsu.jsonl")
    fields = ["id", "audio_path", "question", *(f"choice_{letter}" for letter in _LETTERS), "answer_gt"]
    return [
        question_record(
            item["id"],
            root / "audio" / Path(item["audio_path"]).name,
            CHOICE_PROMPT,
            item["question"],
            item["answer_gt"],
            source,
            choices=[item[f"choice_{letter}"] for letter in _LETTERS if item[f"choice_{letter}"]],
            kind=str(item.get("category") or "mmsu"),
            meta=item,
        )
        for source, item in read_items(table, fields)
    ]


BENCHMARK = Benchmark(
    name="mmsu",
    reader=_read,
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Wang et al. 2025, MMSU: A Massive Multi-task Spoken Language Understanding and Reasoning Benchmark.",
    groups=("sub-category", "task_name"),
)
