"""MMAR (Ma et al. 2025): `MMAR-meta.json` and the folder `audio`."""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, choice_question, object_rows

_FIELDS = ("id", "audio_path", "question", "choices", "answer", "modality")


class Mmar(Corpus):
    """MMAR; multiple-choice questions."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in object_rows(self.table("MMAR-meta.json", "MMAR-meta.jsonl", "meta.json"), _FIELDS):
            paths, answer, kind = [row.text("audio_path")], row.text("answer"), row.text("modality")
            yield choice_question(row, audio, "test", paths, answer, row.texts("choices"), kind)


CORPUS = Mmar
