"""AIR-Bench foundation: `Foundation_meta.json` and a folder `<task_name>_<dataset_name>` per task."""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, find, question_record, read_items


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, "Foundation_meta.json", "Foundation/Foundation_meta.json")
    fields = ["path", "question", "choice_a", "choice_b", "answer_gt", "task_name", "dataset_name", "uniq_id"]
    records = []
    for source, item in read_items(table, fields):
        path = table.parent / f"{item['task_name']}_{item['dataset_name']}" / item["path"]
        # The release names these recordings .wav in its table and keeps them as .flac.
        path = path.with_suffix(".flac") if item["task_name"] == "Audio_Grounding" else path
        records.append(
            question_record(
                str(item["uniq_id"]),
                path,
                CHOICE_PROMPT,
                item["question"],
                item["answer_gt"],
                source,
                # Questions have two to four options; the others are null.
                choices=[item[f"choice_{letter}"] for letter in "abcd" if item.get(f"choice_{letter}")],
                kind=item["task_name"],
                meta=item,
            )
        )
    return records


BENCHMARK = Benchmark(
    name="airbench",
    reader=_read,
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Yang et al. 2024, AIR-Bench: Benchmarking Large Audio-Language Models via Generative Comprehension.",
    splits=("foundation",),
    groups=("dataset_name",),
)
