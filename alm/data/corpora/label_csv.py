"""Any labelled recordings: a CSV table such as ESC-50's, `filename,category[,fold][,split][,group]`.

The file is in the column `filename`, `slice_file_name`, `file_name`, `fname` or `path`; the class in `category`,
`class`, `label` or `target`; a column `labels` names any number of classes, separated by `;`. The group of a clip,
which never falls on both sides of a split, is the column `group`, else `src_file` or `freesound_id` (ESC-50's source
recording), else what an ESC-50 file name says, else the file itself. Without `split` or `fold`, all is `train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from alm.common.errors import ManifestError
from alm.common.files import read_text
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, Row, csv_rows
from alm.data.scenes.events import FILE_COLUMNS, LABEL_COLUMNS, recording_of

# A number in `target` may stand beside names in `labels`.
_LABELS = (*LABEL_COLUMNS[:-1], "labels", LABEL_COLUMNS[-1])
_GROUPS = ("group", "src_file", "freesound_id")


@dataclass(frozen=True)
class LabelCsv(Corpus):
    """Options.

    Attributes:
        root: The table.
        fold_column: Its column of folds, where there is one.
        classes: A text file with one class name per line; None takes the classes of the table.
        separator: Separator between several labels of a clip; None takes `;` in the column `labels`, and one label per
            clip in any other.
    """

    fold_column: str = "fold"
    classes: str | None = None
    separator: str | None = None
    trainable = True

    def class_names(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        """The classes in the file `classes`; without it, the classes of the entries."""
        if self.classes is None:
            return super().class_names(entries)
        lines = read_text(Path(self.classes), "a list of classes").splitlines()
        names = [line.strip() for line in lines if line.strip()]
        if not names or len(set(names)) != len(names):
            raise ManifestError(
                f"{self.classes}: {len(names)} class names, {len(set(names))} different; expected one per line"
            )
        return tuple(names)

    def has_several_labels(self) -> bool:
        """Whether the table has a column `labels`, or a separator is given."""
        return self._separator(next(csv_rows(self._table()))) is not None

    def audio_folders(self) -> list[Path]:
        """The table's folder, and `audio` in or beside it, as ESC-50 has it."""
        if self.path.is_dir():
            return [self.path]
        folder = self.path.parent
        more = (folder / "audio", folder.parent / "audio")
        return [folder, *(place for place in more if place.is_dir())]

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        table = self._table()
        for row in csv_rows(table):
            name, labels = row.text(_column(table, row, FILE_COLUMNS)), self._labels(table, row)
            fold = row.get(self.fold_column) or None
            part = row.get("split") or None
            clip = audio.clip(name, *([f"fold{fold}/{name}"] if fold else []))
            group = next((row.get(key) for key in _GROUPS if row.get(key)), None)
            yield Entry(
                id=name,
                audio=(clip,),
                where=row.where,
                split=part,
                labels=labels,
                group=group or recording_of(Path(name)),
                fold=fold,
            )

    def _labels(self, table: Path, row: Row) -> tuple[str, ...]:
        column, separator = _column(table, row, _LABELS), self._separator(row)
        if separator is None:
            return (row.text(column),)
        return tuple(part.strip() for part in row.get(column).split(separator) if part.strip())

    def _separator(self, row: Row) -> str | None:
        several = next((key for key in _LABELS if key in row.values), None) == "labels"
        return self.separator or (";" if several else None)

    def _table(self) -> Path:
        """The root, or the one CSV table below it."""
        if self.path.is_file():
            return self.path
        found = [path for path in sorted(self.path.rglob("*.csv")) if not path.name.startswith(".")]
        if len(found) != 1:
            raise ManifestError(f"{self.path}: holds {len(found)} CSV tables; name the one to read")
        return found[0]


def _column(table: Path, row: Row, names: Sequence[str]) -> str:
    """The first of several columns that a table has.

    Raises:
        ManifestError: It has none of them.
    """
    column = next((name for name in names if name in row.values), None)
    if column is None:
        close = {old: get_close_matches(old, names, n=1, cutoff=0.8) for old in row.values}
        near = next(((old, *new) for old, new in close.items() if new), None)
        hint = (
            f"rename {near[0]!r} to {near[1]!r}"
            if near
            else f"rename the column that holds it to {names[0]!r}"
        )
        raise ManifestError(
            f"{table}:1: no column {' or '.join(map(repr, names))} among {', '.join(row.values)}; {hint}"
        )
    return column


CORPUS = LabelCsv
