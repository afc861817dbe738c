"""Label tables like ESC-50's (`meta/esc50.csv`) and UrbanSound8K's: captions and questions are written from labels.

A column for the file (`filename`, `slice_file_name`, `file_name`, `fname`), one for the label (`category`,
`class`, `label`, `labels`) and, if there is one, `split` or `fold`: each becomes a manifest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.convert import AudioFiles, Item, read_table
from alm.data.from_labels import KINDS, QuestionWriter, Templates

_FILES = ("filename", "slice_file_name", "file_name", "fname", "path")
_LABELS = ("category", "class", "label", "labels")
_SPLITS = ("split", "fold")


def convert(root: Path, files: AudioFiles) -> Iterator[Item]:
    """A caption, an open, a multiple-choice and a yes/no question per clip."""
    yield from questions(_table(root))


def questions(
    path: Path,
    kinds: tuple[str, ...] = KINDS,
    templates: Templates | None = None,
    separator: str | None = None,
) -> Iterator[Item]:
    """Records about the clips of a table.

    Args:
        path: The table.
        kinds: What to write for each clip; see `alm.data.from_labels.QuestionWriter`.
        templates: The wordings.
        separator: What stands between several labels of a clip; None: each has one.

    Raises:
        ManifestError: No column of a file or label, or a row without one.
    """
    rows = list(read_table(path, ()))
    if not rows:
        raise ManifestError(f"{path}: has no rows")
    name, label = _column(path, rows[0][1], _FILES), _column(path, rows[0][1], _LABELS)
    split = next((column for column in _SPLITS if column in rows[0][1]), None)
    clips: dict[str, tuple[str, list[str]]] = {}
    for where, row in rows:
        text = (row[label] or "").strip()
        labels = [part.strip() for part in text.split(separator) if part.strip()] if separator else [text]
        if not row[name] or not labels or not labels[0]:
            raise ManifestError(f"{where}: no {name} or no {label}; fill it in or leave the row out")
        part = "train" if split is None else row[split] if split == "split" else f"fold{row[split]}"
        # Tables with onsets name a clip once per event; its labels belong together.
        clips.setdefault(row[name].strip(), (part, []))[1].extend(labels)
    writer = QuestionWriter([label for _, labels in clips.values() for label in labels], kinds, templates)
    for clip, (part, labels) in clips.items():
        folder = f"{part}/" if part.startswith("fold") else ""
        for values in writer.write(clip, list(dict.fromkeys(labels))):
            yield Item(part, (f"{folder}{clip}",), {**values, "clip": clip})


def _table(root: Path) -> Path:
    """The label table below a folder."""
    if root.is_file():
        return root
    found = [path for path in sorted(root.rglob("*.csv")) if not path.name.startswith(".")]
    if len(found) != 1:
        raise ManifestError(f"{root}: holds {len(found)} CSV tables; name the one to convert")
    return found[0]


def _column(path: Path, row: dict[str, str], names: tuple[str, ...]) -> str:
    column = next((name for name in names if name in row), None)
    if column is None:
        raise ManifestError(f"{path}:1: no column {' or '.join(names)}; it has {', '.join(row)}")
    return column
