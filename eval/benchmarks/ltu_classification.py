"""Closed-ended classification as in LTU: a model describes a sound, and its words are matched with a set of labels.

`split` names the data set, `data` its folder in the layout of its own release:

- `esc50`: `meta/esc50.csv`, `audio/`
- `vocalsound`: `class_labels_indices_vs.csv`, `datafiles/te.json`, `audio_16k/`
- `fsd50k`: `FSD50K.ground_truth/{eval,vocabulary}.csv`, `FSD50K.eval_audio/`
- `vggsound`: `vggsound.csv` (id, second, label, split; no header), `audio/<id>_<second as six digits>.wav`
- `tut17`: `meta.txt` or `evaluate.txt` (path, scene; tab-separated)
- `dcase17`: `groundtruth_release.csv` (file, start, end, label; tab-separated, a line per label), `audio/`
- `beijing_opera`: a folder of recordings per instrument
- `audioset`: `eval_segments.csv`, `class_labels_indices.csv`, `audio/<id>.wav`

The labels are the record's choices without being shown. What a model says is matched with them three ways: by the
parser, that is by name (`qa/overall`); by text embedding, as LTU does, where `ALM_SBERT_MODEL` names a sentence
embedding model (`qa/label_embedding`, `ranking/label_embedding_map`); and with `answer_by=rank` the labels are ranked
by likelihood (`ranking/map`).
"""

import csv
from collections.abc import Callable
from pathlib import Path

from alm.data.records import Record
from eval.benchmarks._base import Benchmark
from eval.benchmarks._readers import (
    AUDIO_SUFFIXES,
    audio_at,
    find,
    grouped,
    question_record,
    read_csv,
    read_items,
)
from eval.errors import EvaluationError

Clip = tuple[str, Path, list[str]]
"""`file:line`, recording, labels."""

PROMPT = "What is the sound in this recording? Answer with its name."


def _plain(label: str) -> str:
    return label.replace("_", " ").strip()


def _table(path: Path, delimiter: str) -> list[tuple[str, list[str]]]:
    """Rows of a table without a header; lines that start with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise EvaluationError(f"{path}: cannot be read ({error.strerror})") from error
    kept = [(number, line) for number, line in enumerate(lines, start=1) if line.strip() and line[0] != "#"]
    rows = csv.reader((line for _, line in kept), delimiter=delimiter, skipinitialspace=True)
    return [(f"{path}:{number}", row) for (number, _), row in zip(kept, rows, strict=True)]


def _esc50(root: Path) -> list[Clip]:
    rows = read_csv(find(root, "meta/esc50.csv", "esc50.csv"), ["filename", "category"])
    return [(source, root / "audio" / row["filename"], [_plain(row["category"])]) for source, row in rows]


def _vocalsound(root: Path) -> list[Clip]:
    table = find(root, "class_labels_indices_vs.csv", "datafiles/class_labels_indices_vs.csv")
    names = {row["mid"]: _plain(row["display_name"]) for _, row in read_csv(table, ["mid", "display_name"])}
    audio = find(root, "audio_16k", "audio_44k", "audio")
    items = read_items(find(root, "datafiles/te.json", "te.json"), ["wav", "labels"])
    return [(source, audio / Path(item["wav"]).name, [names[item["labels"]]]) for source, item in items]


def _fsd50k(root: Path) -> list[Clip]:
    rows = read_csv(find(root, "FSD50K.ground_truth/eval.csv", "eval.csv"), ["fname", "labels"])
    audio = root / "FSD50K.eval_audio"
    return [
        (source, audio / f"{row['fname']}.wav", [_plain(label) for label in row["labels"].split(",")])
        for source, row in rows
    ]


def _vggsound(root: Path) -> list[Clip]:
    rows = _table(find(root, "vggsound.csv", "data/vggsound.csv"), ",")
    return [
        (source, audio_at([root / "audio", root], f"{row[0]}_{int(row[1]):06d}.wav"), [_plain(row[2])])
        for source, row in rows
        if row[3] == "test"
    ]


def _tut17(root: Path) -> list[Clip]:
    rows = _table(find(root, "evaluate.txt", "meta.txt", "evaluation_setup/evaluate.txt"), "\t")
    return [(source, root / row[0], [_plain(row[1])]) for source, row in rows]


def _dcase17(root: Path) -> list[Clip]:
    rows = _table(find(root, "groundtruth_release.csv", "groundtruth_strong_label_evaluation_set.csv"), "\t")
    clips = grouped((row[0], (source, _plain(row[3]))) for source, row in rows)
    return [
        (
            given[0][0],
            audio_at([root / "audio", root], name, f"Y{name}"),
            list(dict.fromkeys(label for _, label in given)),
        )
        for name, given in clips.items()
    ]


def _beijing_opera(root: Path) -> list[Clip]:
    paths = sorted(path for path in root.rglob("*") if path.suffix.lower() in AUDIO_SUFFIXES)
    return [(str(path), path, [_plain(path.parent.name)]) for path in paths]


def _audioset(root: Path) -> list[Clip]:
    table = read_csv(find(root, "class_labels_indices.csv"), ["mid", "display_name"])
    names = {row["mid"]: _plain(row["display_name"]) for _, row in table}
    folders = [root / name for name in ("audio", "eval", "eval_segments", ".")]
    return [
        (
            source,
            audio_at(folders, row[0], f"Y{row[0]}", f"{row[0]}_{int(float(row[1]))}"),
            [names[mid] for mid in row[3].split(",")],
        )
        for source, row in _table(find(root, "eval_segments.csv"), ",")
    ]


# Per data set: reader of the clips, and where the labels are listed that the clips may not all show.
_SETS: dict[str, Callable[[Path], list[Clip]]] = {
    "esc50": _esc50,
    "vocalsound": _vocalsound,
    "fsd50k": _fsd50k,
    "vggsound": _vggsound,
    "tut17": _tut17,
    "dcase17": _dcase17,
    "beijing_opera": _beijing_opera,
    "audioset": _audioset,
}


def _labels(root: Path, split: str, clips: list[Clip]) -> list[str]:
    """All labels of a data set, also those that none of its test clips has."""
    if split == "audioset":
        rows = read_csv(root / "class_labels_indices.csv", ["display_name"])
        return [_plain(row["display_name"]) for _, row in rows]
    if split == "fsd50k":
        rows_ = _table(find(root, "FSD50K.ground_truth/vocabulary.csv", "vocabulary.csv"), ",")
        return [_plain(row[1]) for _, row in rows_]
    return sorted({label for _, _, labels in clips for label in labels})


def _read(root: Path, split: str) -> list[Record]:
    clips = _SETS[split](root)
    if not clips:
        raise EvaluationError(
            f"{root}: no clips of {split}; see eval/benchmarks/ltu_classification.py for its layout"
        )
    labels = _labels(root, split, clips)
    return [
        question_record(
            f"{path.parent.name}/{path.name}",
            path,
            PROMPT,
            PROMPT,
            own[0],
            source,
            choices=labels,
            shown=False,
            kind=split,
            answers=own,
        )
        for source, path, own in clips
    ]


BENCHMARK = Benchmark(
    name="ltu_classification",
    reader=_read,
    prompt=PROMPT,
    prompt_version="1",
    metrics=("qa", "map", "label_embedding"),
    parser="choice",
    citation="Gong et al. 2024, Listen, Think, and Understand, section 4.1 (closed-ended classification).",
    splits=tuple(_SETS),
)
