"""Spoken content: any table of recordings with what is said in them, scored by word and character error rate.

`data` is a JSONL file of objects with `audio` (relative to the file) and `text`, or a CSV with these columns; `id` and
`speaker` may be there, too. Scores are broken down by speaker. An answer that is missing has said nothing.
"""

from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import question_record, read_csv, read_items

PROMPT = "Write down what is said in this recording."


def _read(path: Path, split: str) -> list[Record]:
    fields = ["audio", "text"]
    rows = read_csv(path, fields) if path.suffix == ".csv" else read_items(path, fields)
    return [
        question_record(
            str(row.get("id") or row["audio"]),
            path.parent / str(row["audio"]),
            PROMPT,
            PROMPT,
            str(row["text"]),
            source,
            kind="transcript",
            meta={"speaker": row.get("speaker") or ""},
        )
        for source, row in rows
    ]


BENCHMARK = Benchmark(
    name="transcription",
    reader=_read,
    prompt=PROMPT,
    prompt_version="1",
    metrics=("wer", "cer", "qa"),
    parser="normalised",
    citation="Word and character error rate as jiwer computes them, eval/metrics/wer and eval/metrics/cer.",
    splits=("all",),
    groups=("speaker",),
)
