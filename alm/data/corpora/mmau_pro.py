"""MMAU-Pro (Kumar et al. 2025): `test.parquet` and the recordings its `audio_path` lists name (`data/….wav`).

Only its closed questions are read. Open questions and instruction following are scored with a judge or by rules.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, choice_question, object_rows

_TABLES = ("test.parquet", "test-00000-of-00001.parquet", "test.jsonl", "test.json")
_FIELDS = ("id", "audio_path", "question", "choices", "answer", "category")


class MmauPro(Corpus):
    """MMAU-Pro; multiple-choice questions about one or several recordings."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in object_rows(self.table(*_TABLES), _FIELDS):
            choices, answer = row.texts("choices"), row.get("answer")
            # Without two options or with an answer in words of its own, a question is open.
            if len(choices) < 2 or answer not in choices:
                continue
            paths = row.values["audio_path"]
            names = row.texts("audio_path") if isinstance(paths, list) else (row.text("audio_path"),)
            yield choice_question(row, audio, "test", names, answer, choices, row.text("category"))


CORPUS = MmauPro
