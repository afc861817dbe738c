"""AudioSet (Gemmeke et al. 2017): the published segment tables, and files cut to the segments.

`class_labels_indices.csv` (index, mid, display_name) and `{balanced_train,unbalanced_train,eval}_segments.csv`
(three comment lines, then `YTID, start_seconds, end_seconds, "mid,mid"`). Audio files have one of the names that
downloaders give them. Videos are removed from YouTube, so a share of the files may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alm.data.corpora import (
    AudioFiles,
    Corpus,
    Entries,
    Entry,
    check_classes,
    check_option,
    csv_rows,
    segment_names,
)

_TRAINING: dict[str, tuple[str, ...]] = {
    "balanced": ("balanced_train",),
    "unbalanced": ("unbalanced_train",),
    "full": ("balanced_train", "unbalanced_train"),
}
_SEGMENT = ("YTID", "start_seconds", "end_seconds", "positive_labels")


@dataclass(frozen=True)
class AudioSet(Corpus):
    """Options.

    Attributes:
        root: The folder of the tables.
        subset: balanced (AS-20K), unbalanced, or full (both, AS-2M).
        audio: Folder of the files; None is the root.
        max_missing_rate: Largest share of listed segments that may have no file.
    """

    subset: str = "balanced"
    audio: str | None = None
    max_missing_rate: float = 0.1
    splits = ("balanced_train", "unbalanced_train", "eval")
    trainable = multi_label = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("subset", self.subset, tuple(_TRAINING))

    def audio_folders(self) -> list[Path]:
        """The folder of the options."""
        return [Path(self.audio).expanduser()] if self.audio else super().audio_folders()

    def class_names(self, entries: Sequence[Entry] = ()) -> tuple[str, ...]:
        """The display names of the vocabulary, in its order."""
        return tuple(self._names().values())

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        names = self._names()
        for part in (*_TRAINING[self.subset], "eval") if split is None else (split,):
            # A space precedes the quotes in these tables.
            for row in csv_rows(self.table(f"{part}_segments.csv"), _SEGMENT, header=False, comment="#"):
                mids = [mid for mid in row.text("positive_labels").split(",") if mid]
                check_classes(mids, set(names), row.where)
                video, start_s, end_s = (
                    row.text("YTID"),
                    row.seconds("start_seconds"),
                    row.seconds("end_seconds"),
                )
                yield Entry(
                    id=f"{video}_{start_s:g}",
                    audio=(audio.clip(video, *segment_names(video, start_s, end_s)),),
                    where=row.where,
                    split=part,
                    labels=tuple(names[mid] for mid in mids),
                    group=video,
                )

    def _names(self) -> dict[str, str]:
        rows = csv_rows(self.table("class_labels_indices.csv"), ("mid", "display_name"))
        return {row.text("mid"): row.text("display_name") for row in rows}


CORPUS = AudioSet
