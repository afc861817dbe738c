"""TUT Acoustic Scenes 2017, evaluation set: `evaluate.txt` or `meta.txt` (path, scene; tab-separated)."""

from __future__ import annotations

from collections.abc import Iterator

from alm.data.corpora.audio_files import AudioFiles
from alm.data.corpora.base import Corpus, Entry
from alm.data.corpora.rows import csv_rows


class Tut17(Corpus):
    """TUT Acoustic Scenes 2017; one scene per recording."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        table = self.table("evaluate.txt", "meta.txt")
        for row in csv_rows(table, ("path", "scene"), header=False, delimiter="\t", comment="#"):
            name = row.text("path")
            yield Entry(name, (audio.clip(name),), row.where, labels=(row.text("scene"),), group=name)


CORPUS = Tut17
