"""MMSU (Wang et al. 2025): `question/mmsu.jsonl` and the folder `audio`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from alm.data.corpora.audio_files import AudioFiles
from alm.data.corpora.base import Corpus, Entry, in_its_folder
from alm.data.corpora.rows import object_rows

_CHOICES = tuple(f"choice_{letter}" for letter in "abcd")


class Mmsu(Corpus):
    """MMSU; multiple-choice questions."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        fields = ("id", "audio_path", "question", *_CHOICES, "answer_gt")
        for row in object_rows(self.table("mmsu.jsonl"), fields):
            yield Entry(
                id=row.text("id"),
                audio=(in_its_folder(audio, f"audio/{PurePosixPath(row.text('audio_path')).name}"),),
                where=row.where,
                split="test",
                question=row.text("question"),
                answer=row.text("answer_gt"),
                choices=tuple(filter(None, (row.get(key) for key in _CHOICES))),
                kind=row.get("category") or "mmsu",
                meta=dict(row.values),
            )


CORPUS = Mmsu
