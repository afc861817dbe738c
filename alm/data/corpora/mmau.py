"""MMAU (Sakshi et al. 2024): `mmau-test-mini.json` or `mmau-test.json`, and the folders its `audio_id` paths name.

The file was revised (a quarter of test-mini in v05.15.25). Answers of `test` are not published.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, choice_question, object_rows


class Mmau(Corpus):
    """MMAU; multiple-choice questions."""

    splits = ("test-mini", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for part in self.chosen(split):
            table = self.table(f"mmau-{part}.json", f"mmau-{part}.jsonl")
            for row in object_rows(table, ("id", "audio_id", "question", "choices", "task")):
                paths, answer = [row.text("audio_id")], row.get("answer")
                yield choice_question(row, audio, part, paths, answer, row.texts("choices"), row.text("task"))


CORPUS = Mmau
