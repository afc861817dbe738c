"""MMAR (Ma et al. 2025): `MMAR-meta.json` and the folder `audio`."""

from __future__ import annotations

from collections.abc import Iterator

from alm.data.corpora.audio_files import AudioFiles
from alm.data.corpora.base import Corpus, Entry, in_its_folder
from alm.data.corpora.rows import object_rows

_FIELDS = ("id", "audio_path", "question", "choices", "answer", "modality")


class Mmar(Corpus):
    """MMAR; multiple-choice questions."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        for row in object_rows(self.table("MMAR-meta.json", "MMAR-meta.jsonl", "meta.json"), _FIELDS):
            yield Entry(
                id=row.text("id"),
                audio=(in_its_folder(audio, row.text("audio_path")),),
                where=row.where,
                split="test",
                question=row.text("question"),
                answer=row.text("answer"),
                choices=row.texts("choices"),
                kind=row.text("modality"),
                meta=dict(row.values),
            )


CORPUS = Mmar
