"""What data sets have in common: clips with labels, splits and groups, and the checks of their files."""

from __future__ import annotations

import csv
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from alm.common.errors import ManifestError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_MISSING_SHOWN = 5


@dataclass(frozen=True)
class LabelledClip:
    """One labelled recording, or a part of one.

    Attributes:
        id: Unique within the data set.
        path: The audio file.
        labels: Names of its classes; one unless the data set is multi-label.
        where: `file:line` of the table it is listed in, or the file itself.
        group: The source recording or speaker; clips of one group never fall on both sides of a split.
        split: `train`, `validation` or `test` where the data set says so.
        fold: The fold where the data set has folds.
        subset: Part of the test set that is scored by itself.
        start_s: Start of the part, in seconds; None is the file's start.
        end_s: Its end; None is the file's end.
    """

    id: str
    path: Path
    labels: tuple[str, ...]
    where: str
    group: str
    split: str | None = None
    fold: str | None = None
    subset: str | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class LabelledData:
    """A data set as read.

    Attributes:
        classes: All class names, in the order of the classifier's outputs.
        clips: The clips whose files are there.
        multi_label: Whether a clip may have several labels, or none.
        metric: What the data set is scored by, a name in `eval.metrics`.
        positive: The class to detect where the metric is an equal error rate.
        notes: What the user should know, for example how many files are missing.
    """

    classes: tuple[str, ...]
    clips: tuple[LabelledClip, ...]
    multi_label: bool = False
    metric: str = "accuracy"
    positive: str | None = None
    notes: tuple[str, ...] = ()


class DatasetReader(ABC):
    """A data set's options and how to read it."""

    @abstractmethod
    def read(self) -> LabelledData:
        """Read the tables and find the files.

        Raises:
            ManifestError: A table or a file is not as it should be.
        """


def folder_of(root: str, *parts: str, what: str) -> Path:
    """A folder or file below the root.

    Raises:
        ManifestError: It is not there; says what the layout should be.
    """
    path = Path(root).expanduser().joinpath(*parts)
    if not path.exists():
        raise ManifestError(
            f"data.dataset_options.root={root}: no {'/'.join(parts) or 'such folder'} there; {what}"
        )
    return path


def read_rows(
    path: Path, columns: Sequence[str], *, header: bool = True, comment: str | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Rows of a CSV table as (`file:line`, column to text).

    Args:
        path: The table.
        columns: Columns that must be there; without a header, the names of the columns in order.
        header: Whether the first line names the columns.
        comment: Lines that start with this are left out.

    Raises:
        ManifestError: Not readable, a column is missing, or a row is too short.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, skipinitialspace=True)
            names = None if header else list(columns)
            for row in lines:
                if not row or (comment and row[0].startswith(comment)):
                    continue
                if names is None:
                    names = [name.strip() for name in row]
                    _check_columns(names, columns, path, lines.line_num)
                    continue
                if len(row) < len(columns):
                    raise ManifestError(
                        f"{path}:{lines.line_num}: {len(row)} columns; expected {', '.join(names)}; complete the row"
                    )
                yield f"{path}:{lines.line_num}", {k: v.strip() for k, v in zip(names, row, strict=False)}
    except OSError as error:
        raise ManifestError(
            f"{path}: cannot be read ({error.strerror}); expected a CSV table there"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: not a UTF-8 CSV table ({error}); get it again") from error


def _check_columns(names: Sequence[str], wanted: Sequence[str], path: Path, line: int) -> None:
    for column in wanted:
        if column not in names:
            near = get_close_matches(column, names, n=1)
            hint = f"rename '{near[0]}'" if near else "add it"
            raise ManifestError(f"{path}:{line}: no column '{column}' among {', '.join(names)}; {hint}")


def check_classes(labels: Iterable[str], classes: Sequence[str] | set[str], where: str) -> None:
    """Refuse a label that is no class.

    Raises:
        ManifestError: Names the nearest class.
    """
    for label in labels:
        if label not in classes:
            near = get_close_matches(label, list(classes), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"the {len(classes)} classes have no such name"
            raise ManifestError(f"{where}: unknown class '{label}'; {hint}")


def checked(
    clips: Sequence[LabelledClip], max_missing_rate: float = 0.0
) -> tuple[tuple[LabelledClip, ...], tuple[str, ...]]:
    """The clips whose files are there, and a note on those that are not.

    Raises:
        ManifestError: No clips at all, an id twice, or more files missing than allowed.
    """
    if not clips:
        raise ManifestError("the data set lists no clips; check data.dataset_options")
    twice = [name for name, count in Counter(clip.id for clip in clips).items() if count > 1]
    if twice:
        places = [clip.where for clip in clips if clip.id == twice[0]]
        raise ManifestError(f"{places[1]}: '{twice[0]}' was already listed at {places[0]}; remove one row")
    there = tuple(clip for clip in clips if clip.path.is_file())
    if len(there) == len(clips):
        return there, ()
    present = {clip.id for clip in there}
    absent = [clip for clip in clips if clip.id not in present]
    rate = len(absent) / len(clips)
    names = ", ".join(clip.path.name for clip in absent[:_MISSING_SHOWN])
    more = ", ..." if len(absent) > _MISSING_SHOWN else ""
    note = f"{len(absent)} of {len(clips)} files are missing ({rate:.1%}): {names}{more}"
    if rate > max_missing_rate:
        raise ManifestError(
            f"{absent[0].where}: no file {absent[0].path}; {note}; add them or remove their rows "
            f"(allowed: {max_missing_rate:.1%})"
        )
    return there, (note,)


def index_audio(folder: Path) -> dict[str, Path]:
    """Audio files anywhere below a folder, by name without suffix."""
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in AUDIO_SUFFIXES:
                found[stem] = Path(place) / name
    return found
