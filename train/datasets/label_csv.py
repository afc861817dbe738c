"""Any labelled recordings: a CSV table `filename,category[,fold][,split][,group]`.

One of the columns `category`, `label`, `target` names the class; `labels` instead names any number of them,
separated by `;`. Files are looked for beside the table and in `audio/` beside it. The group of a clip, which
never falls on both sides of a split, is the column `group`, else `src_file` or `freesound_id` (ESC-50's
source recording), else what an ESC-50 file name says, else the file itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.scenes.events import recording_of
from train.datasets._base import DatasetReader, LabelledClip, LabelledData, check_classes, checked, read_rows

_LABEL_COLUMNS = ("category", "label", "target")
_GROUP_COLUMNS = ("group", "src_file", "freesound_id")
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation"}
_SPLITS |= {"test": "test", "eval": "test"}


@dataclass(frozen=True)
class LabelCsv(DatasetReader):
    """Options.

    Attributes:
        root: The table.
        fold_column: Its column of folds, where there is one.
        classes: A text file with one class name per line; None takes those of the table.
    """

    root: str
    fold_column: str = "fold"
    classes: str | None = None

    def read(self) -> LabelledData:
        """See the base class."""
        return read_tables({None: (self.root,)}, self.fold_column, self.classes)


def read_tables(
    tables: dict[str | None, Sequence[str]], fold_column: str = "fold", classes: str | None = None
) -> LabelledData:
    """Label tables as one data set.

    Args:
        tables: Split to tables; under None, tables that name their own splits or folds.
        fold_column: Column of the fold.
        classes: A text file with one class name per line; None takes those of the training tables.

    Raises:
        ManifestError: A table is not as it should be, or a class outside training has another name.
    """
    clips: list[LabelledClip] = []
    multi_label = False
    for split, paths in tables.items():
        for path in paths:
            found, several = _read_table(Path(path), split, fold_column)
            clips += found
            multi_label |= several
    there, notes = checked(clips)
    given = _class_list(Path(classes)) if classes else None
    taught = [clip for clip in clips if clip.split in ("train", None)]
    known = given or tuple(sorted({label for clip in taught for label in clip.labels}))
    for clip in clips:
        check_classes(clip.labels, known, clip.where)
    metric = "mean_average_precision" if multi_label else "accuracy"
    return LabelledData(known, there, multi_label, metric, notes=notes)


def _read_table(path: Path, split: str | None, fold_column: str) -> tuple[list[LabelledClip], bool]:
    clips, several = [], False
    for where, row in read_rows(path, ("filename",)):
        several = "labels" in row
        column = "labels" if several else next((c for c in _LABEL_COLUMNS if c in row), None)
        if column is None:
            raise ManifestError(f"{path}:1: no column 'category' (or 'labels'); add one")
        labels = (
            tuple(part.strip() for part in row[column].split(";") if part.strip())
            if several
            else (row[column],)
        )
        if not row["filename"] or (not several and not labels[0]):
            raise ManifestError(f"{where}: 'filename' or '{column}' is empty; fill it in or remove the row")
        own_split = row.get("split") or None
        if split is None and own_split is not None and own_split not in _SPLITS:
            raise ManifestError(f"{where}: split is '{own_split}'; expected train, validation or test")
        file = _find(path.parent, row["filename"])
        group = next((row[c] for c in _GROUP_COLUMNS if row.get(c)), None)
        clips.append(
            LabelledClip(
                id=f"{path.stem}/{row['filename']}" if split else row["filename"],
                path=file,
                labels=labels,
                where=where,
                group=group or recording_of(file),
                split=split or (_SPLITS[own_split] if own_split else None),
                fold=row.get(fold_column) or None,
            )
        )
    if not clips:
        raise ManifestError(f"{path}:1: no clips below the header; expected one row per recording")
    return clips, several


def _find(folder: Path, name: str) -> Path:
    """The file beside the table or in its folder `audio`; the first where neither is there."""
    places = (folder / name, folder / "audio" / name)
    return next((place for place in places if place.is_file()), places[0])


def _class_list(path: Path) -> tuple[str, ...]:
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as a list of classes ({error})") from error
    if not names or len(set(names)) != len(names):
        raise ManifestError(
            f"{path}: {len(names)} class names, {len(set(names))} different; expected one per line"
        )
    return tuple(names)


DATASET = LabelCsv
