"""ESC-50 and ESC-10 (Piczak 2015): `meta/esc50.csv` and `audio/*.wav`, 2,000 clips in 5 folds.

The published table has the columns filename, fold, target, category, esc10, src_file, take. Takes of one source
recording (src_file) share a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

from alm.common.errors import ConfigError, ManifestError
from train.datasets._base import DatasetReader, LabelledClip, LabelledData, checked, folder_of, read_rows

_COLUMNS = ("filename", "fold", "category", "esc10", "src_file")


@dataclass(frozen=True)
class Esc50(DatasetReader):
    """Options.

    Attributes:
        root: The folder of the published archive.
        subset: esc50, or esc10 for the 400 clips of ESC-10.
    """

    root: str
    subset: str = "esc50"

    def __post_init__(self) -> None:
        if self.subset not in ("esc50", "esc10"):
            raise ConfigError(f"subset: got '{self.subset}', expected esc50 or esc10")

    def read(self) -> LabelledData:
        """See the base class."""
        layout = "expected meta/esc50.csv and audio/ of the published archive"
        table = folder_of(self.root, "meta", "esc50.csv", what=layout)
        audio = folder_of(self.root, "audio", what=layout)
        clips = []
        for where, row in read_rows(table, _COLUMNS):
            if self.subset == "esc10" and row["esc10"].lower() != "true":
                continue
            for key in ("filename", "fold", "category", "src_file"):
                if not row[key]:
                    raise ManifestError(f"{where}: '{key}' is empty; fill it in or remove the row")
            clips.append(
                LabelledClip(
                    id=row["filename"],
                    path=audio / row["filename"],
                    labels=(row["category"],),
                    where=where,
                    group=row["src_file"],
                    fold=row["fold"],
                )
            )
        there, notes = checked(clips)
        classes = tuple(sorted({clip.labels[0] for clip in clips}))
        return LabelledData(classes, there, notes=notes)


DATASET = Esc50
