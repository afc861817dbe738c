"""TUT Acoustic Scenes 2017, evaluation set: `evaluate.txt` or `meta.txt` (path, scene; tab-separated)."""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows


class Tut17(Corpus):
    """TUT Acoustic Scenes 2017; one scene per recording."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        table = self.table("evaluate.txt", "meta.txt")
        for row in csv_rows(table, ("path", "scene"), header=False, delimiter="\t", comment="#"):
            name = row.text("path")
            yield Entry(name, (audio.clip(name),), row.where, labels=(row.text("scene"),), group=name)


CORPUS = Tut17
