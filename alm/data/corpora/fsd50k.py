"""FSD50K (Fonseca et al. 2022): `FSD50K.ground_truth/{dev,eval,vocabulary}.csv` and two audio folders.

dev.csv has the columns fname, labels, mids, split (train or val); eval.csv lacks the split; vocabulary.csv has no
header (index, label, mid). Labels are comma-separated and already carry their parents in the ontology. Clips are
whole Freesound recordings, so each is its own group; the published split keeps uploaders apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alm.common.errors import ManifestError
from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, check_classes, csv_rows


@dataclass(frozen=True)
class Fsd50k(Corpus):
    """Options.

    Attributes:
        root: The folder that holds FSD50K.ground_truth and the audio folders.
    """

    splits = ("train", "val", "test")
    trainable = multi_label = True

    def class_names(self, entries: Sequence[Entry] = ()) -> tuple[str, ...]:
        """The labels of the vocabulary, in its order."""
        rows = csv_rows(self.table("vocabulary.csv"), ("index", "label", "mid"), header=False)
        return tuple(row.text("label") for row in rows)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        classes = self.class_names()
        for part in ("dev", "eval") if split is None else ("eval" if split == "test" else "dev",):
            more = ("split",) if part == "dev" else ()
            for row in csv_rows(self.table(f"{part}.csv"), ("fname", "labels", *more)):
                labels = tuple(label.strip() for label in row.get("labels").split(",") if label.strip())
                check_classes(labels, classes, row.where)
                name, of = row.text("fname"), row.text("split") if more else "test"
                if of not in self.splits or (of == "test") == bool(more):
                    raise ManifestError(f"{row.where}: split is '{of}'; expected train or val")
                if split in (None, of):
                    folder = f"FSD50K.{part}_audio"
                    clip = audio.clip(f"{folder}/{name}.wav", inside=(folder,))
                    yield Entry(name, (clip,), row.where, of, labels=labels, group=name)


CORPUS = Fsd50k
