"""MuChoMusic: `muchomusic.csv` and the recordings of the Song Describer and MusicCaps data sets (`sdd`, `musiccaps`).

The table lists the right answer first; the options are shuffled by a hash of the question, the same for every model.
"""

import hashlib
from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import CHOICE_PROMPT, audio_at, find, question_record, read_csv
from eval.errors import EvaluationError

_OPTIONS = ["correct_answer", "distractor_1_answer", "distractor_2_answer", "distractor_3_answer"]


def _read(root: Path, split: str) -> list[Record]:
    table = find(root, "muchomusic.csv", "data/muchomusic.csv")
    rows = read_csv(table, ["question", "dataset", "dataset_identifier", *_OPTIONS])
    names = {row["dataset"] for _, row in rows}
    audio = {name: _recordings(table.parent, name) for name in names}
    records = []
    for number, (source, row) in enumerate(rows):
        clip = row["dataset_identifier"].removesuffix(".json")
        # A MusicCaps identifier ends with the number of its question.
        clip = clip if row["dataset"] == "sdd" else clip.rpartition("_")[0]
        path = audio[row["dataset"]].get(clip)
        if path is None:
            raise EvaluationError(f"{source}: {row['dataset']} has no recording {clip!r} in its own table")
        options = sorted(
            (row[key] for key in _OPTIONS if row[key]),
            key=lambda text, number=number: hashlib.sha256(f"{number}:{text}".encode()).digest(),  # type: ignore[misc]
        )
        records.append(
            question_record(
                f"{number}:{row['dataset_identifier']}",
                path,
                CHOICE_PROMPT,
                row["question"],
                row["correct_answer"],
                source,
                choices=options,
                kind="reasoning" if (row.get("music_reasoning") or "[]") != "[]" else "knowledge",
                meta=row,
            )
        )
    return records


def _recordings(root: Path, name: str) -> dict[str, Path]:
    """Path of every recording of a data set, by the identifier that the questions use."""
    folder = root / name / "audio"
    if name == "sdd":
        rows = read_csv(root / name / "song_describer.csv", ["track_id", "path"])
        return {row["track_id"]: folder / row["path"].replace(".mp3", ".2min.mp3") for _, row in rows}
    rows = read_csv(root / name / "musiccaps-public.csv", ["ytid", "start_s", "end_s"])
    return {
        row["ytid"]: audio_at(
            [folder],
            f"[{row['ytid']}]-[{int(float(row['start_s']))}-{int(float(row['end_s']))}].wav",
            row["ytid"],
        )
        for _, row in rows
    }


BENCHMARK = Benchmark(
    name="muchomusic",
    reader=_read,
    prompt=CHOICE_PROMPT,
    prompt_version="1",
    metrics=("qa",),
    parser="choice",
    citation="Weck et al. 2024, MuChoMusic: Evaluating Music Understanding in Multimodal Audio-Language Models.",
    groups=("genre", "dataset"),
)
