"""EnvSDD (Yin et al. 2025): environmental-sound deepfakes, one JSON list per split and attack type.

The layout of the official code: a metadata folder with `{tta,ata}/dev/{train,valid}.json` and
`{tta,ata}/test/test{01,02,03,04}.json`, each a list of `{"file_path", "label" (real or fake), "attack_type",
"generative_model"}`. The published archives do not hold these lists (the official scripts write them from the
archives' CSV tables), so this layout is an assumption that the scripts' names and keys support. Relative paths
start at `audio`; clips made from one recording share its file name and are one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from alm.data.corpora import (
    AudioFiles,
    Corpus,
    Entries,
    Entry,
    check_classes,
    check_option,
    in_its_folder,
    object_rows,
)

_TESTS = tuple(f"test/test{number:02d}" for number in (1, 2, 3, 4))
_TABLES = {"train": ("dev/train",), "validation": ("dev/valid",), "test": _TESTS}


@dataclass(frozen=True)
class EnvSdd(Corpus):
    """Options.

    Attributes:
        root: The metadata folder.
        attack: tta (text to audio) or ata (audio to audio).
        audio: What relative file paths start from; None is the root.
    """

    attack: str = "tta"
    audio: str | None = None
    splits = tuple(_TABLES)
    trainable = True
    metric = "equal_error_rate"
    positive = "fake"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("attack", self.attack, ("tta", "ata"))

    def audio_folders(self) -> list[Path]:
        """The folder of the options."""
        return [Path(self.audio).expanduser()] if self.audio else super().audio_folders()

    def class_names(self, entries: Sequence[Entry] = ()) -> tuple[str, ...]:
        """Real and fake."""
        return ("real", "fake")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for part in self.chosen(split):
            for name in _TABLES[part]:
                table = self.table(f"{self.attack}/{name}.json")
                for row in object_rows(table, ("file_path", "label")):
                    path, label = PurePosixPath(row.text("file_path")), row.text("label")
                    check_classes([label], self.class_names(), row.where)
                    yield Entry(
                        id=f"{table.stem}/{path}",
                        audio=(in_its_folder(audio, str(path)),),
                        where=row.where,
                        split=part,
                        labels=(label,),
                        group=f"{path.parent.name}/{path.stem}",
                        subset=table.stem if part == "test" else None,
                    )


CORPUS = EnvSdd
