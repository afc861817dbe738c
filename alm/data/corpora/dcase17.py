"""DCASE 2017 task 4: `groundtruth_release.csv` (file, start, end, label; tab-separated, a line per label)."""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows, grouped

_TABLES = ("groundtruth_release.csv", "groundtruth_strong_label_evaluation_set.csv")


class Dcase17(Corpus):
    """DCASE 2017 task 4; the labels of all events of a recording."""

    multi_label = True

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        table = self.table(*_TABLES)
        rows = csv_rows(table, ("file", "start", "end", "label"), header=False, delimiter="\t", comment="#")
        for name, given in grouped((row.text("file"), row) for row in rows).items():
            labels = tuple(dict.fromkeys(row.text("label") for row in given))
            yield Entry(name, (audio.clip(name, f"Y{name}"),), given[0].where, labels=labels, group=name)


CORPUS = Dcase17
