"""Clotho v2 captioning: `clotho_captions_evaluation.csv` and the folder `evaluation` of recordings."""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import CAPTION_METRICS, Benchmark
from eval.benchmarks._readers import CAPTION_PROMPT, caption_record, find, read_csv

_CAPTIONS = [f"caption_{number}" for number in range(1, 6)]


def _read(root: Path, split: str) -> list[Record]:
    name = f"clotho_captions_{split}.csv"
    table = find(root, name, f"clotho_csv_files/{name}", f"csv/{name}")
    audio = find(root, split, f"clotho_audio_files/{split}", f"audio/{split}", f"clotho_audio_{split}")
    return [
        caption_record(row["file_name"], audio / row["file_name"], [row[key] for key in _CAPTIONS], source)
        for source, row in read_csv(table, ["file_name", *_CAPTIONS])
    ]


BENCHMARK = Benchmark(
    name="clotho",
    reader=_read,
    prompt=CAPTION_PROMPT,
    prompt_version="1",
    metrics=CAPTION_METRICS,
    parser="none",
    citation="Drossos et al. 2020, Clotho: an Audio Captioning Dataset.",
    splits=("evaluation", "validation", "development"),
)
