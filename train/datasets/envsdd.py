"""EnvSDD (Yin et al. 2025): environmental-sound deepfakes, one JSON list per split and attack type.

The layout of the official code: a metadata folder with `{tta,ata}/dev/{train,valid}.json` and
`{tta,ata}/test/test{01,02,03,04}.json`, each a list of `{"file_path", "label" (real or fake), "attack_type",
"generative_model"}`. The published archives do not hold these lists (the official scripts write them from the
archives' CSV tables), so this layout is an assumption that the scripts' names and keys support. Relative paths
start at `audio`; clips made from one recording share its file name and are one group.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from alm.common.errors import ConfigError
from train.datasets._base import DatasetReader, LabelledClip, LabelledData, check_classes, checked, folder_of
from train.datasets._json import read_entries

CLASSES = ("real", "fake")
_PARTS = {"dev/train": "train", "dev/valid": "validation"}
_PARTS |= {f"test/test{number:02d}": "test" for number in (1, 2, 3, 4)}


@dataclass(frozen=True)
class EnvSdd(DatasetReader):
    """Options.

    Attributes:
        root: The metadata folder.
        attack: tta (text to audio) or ata (audio to audio).
        audio: What relative file paths start from; None is the root.
        max_missing_rate: Largest share of listed clips that may have no file.
    """

    root: str
    attack: str = "tta"
    audio: str | None = None
    max_missing_rate: float = 0.0

    def __post_init__(self) -> None:
        if self.attack not in ("tta", "ata"):
            raise ConfigError(f"attack: got '{self.attack}', expected tta or ata")

    def read(self) -> LabelledData:
        """See the base class."""
        layout = (
            "expected dev/{train,valid}.json and test/test{01,02,03,04}.json as the official code has them"
        )
        start = Path(self.audio or self.root)
        clips = []
        for part, split in _PARTS.items():
            table = folder_of(self.root, self.attack, *f"{part}.json".split("/"), what=layout)
            for where, entry in read_entries(table, None, ("file_path", "label")):
                check_classes([entry["label"]], CLASSES, where)
                path = start / entry["file_path"]
                subset = table.stem if split == "test" else None
                clips.append(
                    LabelledClip(
                        id=f"{table.stem}/{entry['file_path']}",
                        path=path,
                        labels=(entry["label"],),
                        where=where,
                        group=f"{path.parent.name}/{path.stem}",
                        split=split,
                        subset=subset,
                    )
                )
        there, notes = checked(clips, self.max_missing_rate)
        return LabelledData(CLASSES, there, metric="equal_error_rate", positive="fake", notes=notes)


DATASET = EnvSdd
