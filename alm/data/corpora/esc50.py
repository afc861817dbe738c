"""ESC-50 and ESC-10 (Piczak 2015): `meta/esc50.csv` and `audio/*.wav`, 2,000 clips in 5 folds.

The published table has the columns filename, fold, target, category, esc10, src_file, take. Takes of one source
recording (src_file) share a fold.
"""

from __future__ import annotations

from dataclasses import dataclass

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, check_option, csv_rows


@dataclass(frozen=True)
class Esc50(Corpus):
    """Options.

    Attributes:
        root: The folder of the published archive.
        subset: esc50, or esc10 for the 400 clips of ESC-10.
    """

    subset: str = "esc50"
    trainable = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("subset", self.subset, ("esc50", "esc10"))

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        more = ("esc10",) if self.subset == "esc10" else ()
        for row in csv_rows(self.table("esc50.csv"), ("filename", "category", *more)):
            if not more or row.text("esc10").lower() == "true":
                name = row.text("filename")
                yield Entry(
                    id=name,
                    audio=(audio.clip(f"audio/{name}"),),
                    where=row.where,
                    labels=(row.text("category"),),
                    group=row.text("src_file") if "src_file" in row.values else name,
                    fold=row.text("fold") if "fold" in row.values else None,
                )


CORPUS = Esc50
