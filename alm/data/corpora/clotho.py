"""Clotho (Drossos et al. 2020): five captions per clip, `clotho_captions_{development,validation,evaluation}.csv`.

Columns `file_name, caption_1 .. caption_5`; audio in folders named after the splits. Some names begin with a space.
"""

from __future__ import annotations

from pathlib import Path

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows

_CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))


class Clotho(Corpus):
    """Clotho; one entry per clip."""

    splits = ("development", "validation", "evaluation")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        folders = {name: (name, f"clotho_audio_{name}") for name in self.splits}
        # The archives unpack into a folder per split; a flat folder is searched by file name alone.
        flat = not any(audio.has_folder(folder) for both in folders.values() for folder in both)
        for path in self.tables(f"clotho_captions_{name}.csv" for name in self.chosen(split)):
            part = path.stem.removeprefix("clotho_captions_")
            for row in csv_rows(path, ("file_name", *_CAPTIONS), keep_spaces=True):
                name, raw = row.text("file_name"), str(row.values["file_name"])
                captions = tuple(filter(None, (row.get(key) for key in _CAPTIONS)))
                if not captions:
                    raise ManifestError(f"{row.where} has no caption; fill one in, or remove the row")
                inside = () if flat else folders.get(part, (part,))
                yield Entry(
                    id=raw,
                    audio=(audio.clip(f"{part}/{raw}", inside=inside),),
                    where=row.where,
                    split=part,
                    captions=captions,
                    manifest={"id": f"clotho-{part}-{Path(name).stem}", "clip": f"clotho/{name}"},
                )


CORPUS = Clotho
