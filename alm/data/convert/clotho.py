"""Clotho (Drossos et al. 2020): five captions per clip, `clotho_captions_{development,validation,evaluation}.csv`.

Columns `file_name, caption_1 .. caption_5`; audio in `development/`, `validation/`, `evaluation/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alm.data.convert import AudioFiles, Item, read_table, tables

SPLITS = ("development", "validation", "evaluation")
_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


def convert(root: Path, files: AudioFiles) -> Iterator[Item]:
    """One captioning record per clip."""
    for path in tables(root, [f"clotho_captions_{split}.csv" for split in SPLITS], "Clotho"):
        split = path.stem.removeprefix("clotho_captions_")
        # The archives unpack into a folder of the split's name; a flat folder is searched by file name alone.
        inside = (split,) if files.has_folder(split) else ()
        for _, row in read_table(path, ("file_name", *_CAPTIONS)):
            captions = [row[name].strip() for name in _CAPTIONS if row[name].strip()]
            name = row["file_name"].strip()
            values = {
                "id": f"clotho-{split}-{Path(name).stem}",
                "captions": captions,
                "clip": f"clotho/{name}",
            }
            yield Item(split, (f"{split}/{name}",), values, inside)
