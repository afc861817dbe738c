"""MMAU (Sakshi et al. 2024): `mmau-test-mini.json` or `mmau-test.json`, and the folders its `audio_id` paths name.

The file was revised (a quarter of test-mini in v05.15.25). Answers of `test` are not published.
"""

from __future__ import annotations

from collections.abc import Iterator

from alm.data.corpora.audio_files import AudioFiles
from alm.data.corpora.base import Corpus, Entry, in_its_folder
from alm.data.corpora.rows import object_rows


class Mmau(Corpus):
    """MMAU; multiple-choice questions."""

    splits = ("test-mini", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        for part in self.chosen(split):
            table = self.table(f"mmau-{part}.json", f"mmau-{part}.jsonl")
            for row in object_rows(table, ("id", "audio_id", "question", "choices", "task")):
                yield Entry(
                    id=row.text("id"),
                    audio=(in_its_folder(audio, row.text("audio_id")),),
                    where=row.where,
                    split=part,
                    question=row.text("question"),
                    answer=row.get("answer") or None,
                    choices=row.texts("choices"),
                    kind=row.text("task"),
                    meta=dict(row.values),
                )


CORPUS = Mmau
