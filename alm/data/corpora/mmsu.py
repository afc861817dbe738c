"""MMSU (Wang et al. 2025): `question/mmsu.jsonl` and the folder `audio`."""

from __future__ import annotations

from pathlib import PurePosixPath

from alm.data.corpora import AudioFiles, Corpus, Entries, choice_question, object_rows

_CHOICES = tuple(f"choice_{letter}" for letter in "abcd")


class Mmsu(Corpus):
    """MMSU; multiple-choice questions."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        fields = ("id", "audio_path", "question", *_CHOICES, "answer_gt")
        for row in object_rows(self.table("mmsu.jsonl"), fields):
            name = PurePosixPath(row.text("audio_path")).name
            choices = tuple(filter(None, (row.get(key) for key in _CHOICES)))
            kind = row.get("category") or "mmsu"
            yield choice_question(row, audio, "test", [f"audio/{name}"], row.text("answer_gt"), choices, kind)


CORPUS = Mmsu
