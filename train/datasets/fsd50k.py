"""FSD50K (Fonseca et al. 2022): `FSD50K.ground_truth/{dev,eval,vocabulary}.csv` and two audio folders.

dev.csv has the columns fname, labels, mids, split (train or val); eval.csv lacks the split; vocabulary.csv has no
header (index, label, mid). Labels are comma-separated and already carry their parents in the ontology. Clips are
whole Freesound recordings, so each is its own group; the published split keeps uploaders apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from alm.common.errors import ManifestError
from train.datasets._base import (
    DatasetReader,
    LabelledClip,
    LabelledData,
    check_classes,
    checked,
    folder_of,
    read_rows,
)

_SPLITS = {"train": "train", "val": "validation"}


@dataclass(frozen=True)
class Fsd50k(DatasetReader):
    """Options.

    Attributes:
        root: The folder that holds FSD50K.ground_truth and the audio folders.
        max_missing_rate: Largest share of listed clips that may have no file.
    """

    root: str
    max_missing_rate: float = 0.0

    def read(self) -> LabelledData:
        """See the base class."""
        layout = "expected FSD50K.ground_truth/, FSD50K.dev_audio/ and FSD50K.eval_audio/"
        truth = folder_of(self.root, "FSD50K.ground_truth", what=layout)
        tables = [truth / f"{name}.csv" for name in ("vocabulary", "dev", "eval")]
        rows = read_rows(tables[0], ("index", "label", "mid"), header=False)
        classes = tuple(row["label"] for _, row in rows)
        clips = []
        for part, table in (("dev", tables[1]), ("eval", tables[2])):
            audio = folder_of(self.root, f"FSD50K.{part}_audio", what=layout)
            columns = ("fname", "labels", "mids", *(("split",) if part == "dev" else ()))
            for where, row in read_rows(table, columns):
                labels = tuple(label for label in row["labels"].split(",") if label)
                check_classes(labels, classes, where)
                if part == "dev" and row["split"] not in _SPLITS:
                    raise ManifestError(f"{where}: split is '{row['split']}'; expected train or val")
                clips.append(
                    LabelledClip(
                        id=row["fname"],
                        path=audio / f"{row['fname']}.wav",
                        labels=labels,
                        where=where,
                        group=row["fname"],
                        split=_SPLITS[row["split"]] if part == "dev" else "test",
                    )
                )
        there, notes = checked(clips, self.max_missing_rate)
        return LabelledData(classes, there, True, "mean_average_precision", notes=notes)


DATASET = Fsd50k
