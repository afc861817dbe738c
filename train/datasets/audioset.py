"""AudioSet (Gemmeke et al. 2017): the published segment tables, and files cut to the segments.

`class_labels_indices.csv` (index, mid, display_name) and `{balanced_train,unbalanced_train,eval}_segments.csv`
(three comment lines, then `YTID, start_seconds, end_seconds, "mid,mid"`) lie in the root. Audio files lie
anywhere below `audio/`, named `YTID`, `YYTID` (a Y before the id, as yt-dlp scripts often do),
`YTID_START` or `YTID_START_END` with times in seconds or milliseconds. Videos vanish, so files may be missing
up to a rate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from alm.common.errors import ConfigError, ManifestError
from train.datasets._base import (
    DatasetReader,
    LabelledClip,
    LabelledData,
    check_classes,
    checked,
    folder_of,
    index_audio,
    read_rows,
)

_TRAINING: dict[str, tuple[str, ...]] = {
    "balanced": ("balanced_train",),
    "unbalanced": ("unbalanced_train",),
    "full": ("balanced_train", "unbalanced_train"),
}
_SEGMENT = ("YTID", "start_seconds", "end_seconds", "positive_labels")


@dataclass(frozen=True)
class AudioSet(DatasetReader):
    """Options.

    Attributes:
        root: The folder of the tables.
        subset: balanced (AS-20K), unbalanced, or full (both, AS-2M).
        audio: Folder of the files; None is `root/audio`.
        max_missing_rate: Largest share of listed segments that may have no file.
    """

    root: str
    subset: str = "balanced"
    audio: str | None = None
    max_missing_rate: float = 0.1

    def __post_init__(self) -> None:
        if self.subset not in _TRAINING:
            raise ConfigError(f"subset: got '{self.subset}', expected one of {', '.join(_TRAINING)}")
        if not 0 <= self.max_missing_rate < 1:
            raise ConfigError(
                f"max_missing_rate: got {self.max_missing_rate}, expected 0 or more and less than 1"
            )

    def read(self) -> LabelledData:
        """See the base class."""
        layout = "expected the tables of the AudioSet download page"
        vocabulary = folder_of(self.root, "class_labels_indices.csv", what=layout)
        audio = (
            Path(self.audio)
            if self.audio
            else folder_of(self.root, "audio", what="put the files there or set audio")
        )
        rows = read_rows(vocabulary, ("index", "mid", "display_name"))
        names = {row["mid"]: row["display_name"] for _, row in rows}
        files = index_audio(audio)
        clips: list[LabelledClip] = []
        for part in (*_TRAINING[self.subset], "eval"):
            table = folder_of(self.root, f"{part}_segments.csv", what=layout)
            clips += list(self._segments(table, names, files, audio, "test" if part == "eval" else "train"))
        there, notes = checked(clips, self.max_missing_rate)
        return LabelledData(tuple(names.values()), there, True, "mean_average_precision", notes=notes)

    def _segments(
        self, table: Path, names: dict[str, str], files: dict[str, Path], audio: Path, split: str
    ) -> Iterator[LabelledClip]:
        """The clips of one table."""
        for where, row in read_rows(table, _SEGMENT, header=False, comment="#"):
            mids = [mid for mid in row["positive_labels"].split(",") if mid]
            check_classes(mids, set(names), where)
            ytid = row["YTID"]
            try:
                start_s, end_s = float(row["start_seconds"]), float(row["end_seconds"])
            except ValueError as error:
                raise ManifestError(
                    f"{where}: the times are no numbers of seconds; get the table again"
                ) from error
            yield LabelledClip(
                id=f"{ytid}_{start_s:g}",
                path=next(
                    (files[n] for n in _stems(ytid, start_s, end_s) if n in files), audio / f"{ytid}.wav"
                ),
                labels=tuple(names[mid] for mid in mids),
                where=where,
                group=ytid,
                split=split,
            )


def _stems(ytid: str, start_s: float, end_s: float) -> Iterator[str]:
    """What a segment's file may be called."""
    for name in (ytid, f"Y{ytid}"):
        yield name
        for unit in (1, 1000):
            start, end = round(start_s * unit), round(end_s * unit)
            yield f"{name}_{start}"
            yield f"{name}_{start}_{end}"
        yield f"{name}_{start_s:.3f}_{end_s:.3f}"


DATASET = AudioSet
