"""MMAU-Pro, closed questions: `test.parquet` and the recordings its `audio_path` lists name (`data/….wav`).

Open questions and instruction following, which the paper scores with a judge or by rules, are not asked.
"""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, find, question_record, read_items


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, "test.parquet", "data/test-00000-of-00001.parquet", "test.jsonl", "test.json")
    fields = ["id", "audio_path", "question", "choices", "answer", "category"]
    records = []
    for source, item in read_items(table, fields):
        choices = [str(choice).strip() for choice in item["choices"] or ()]
        # Without two options or with an answer in words of its own, a question is open.
        if len(choices) < 2 or str(item["answer"]).strip() not in choices:
            continue
        paths = [item["audio_path"]] if isinstance(item["audio_path"], str) else item["audio_path"]
        records.append(
            question_record(
                item["id"],
                [root / path for path in paths],
                CHOICE_PROMPT,
                item["question"],
                item["answer"],
                source,
                choices=choices,
                kind=item["category"],
                meta=item,
            )
        )
    return records


BENCHMARK = Benchmark(
    name="mmau_pro",
    reader=_read,
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Kumar et al. 2025, MMAU-Pro: A Challenging and Comprehensive Benchmark for Audio General Intelligence.",
    groups=("length_type", "sub-cat"),
)
