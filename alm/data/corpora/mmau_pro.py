"""MMAU-Pro (Kumar et al. 2025): `test.parquet` and the recordings its `audio_path` lists name (`data/….wav`).

Only its closed questions are read. Open questions and instruction following are scored with a judge or by rules.
"""

from __future__ import annotations

from collections.abc import Iterator

from alm.data.corpora.audio_files import AudioFiles
from alm.data.corpora.base import Corpus, Entry, in_its_folder
from alm.data.corpora.rows import object_rows

_TABLES = ("test.parquet", "test-00000-of-00001.parquet", "test.jsonl", "test.json")
_FIELDS = ("id", "audio_path", "question", "choices", "answer", "category")


class MmauPro(Corpus):
    """MMAU-Pro; multiple-choice questions about one or several recordings."""

    splits = ("test",)

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        for row in object_rows(self.table(*_TABLES), _FIELDS):
            choices, answer = row.texts("choices"), row.get("answer")
            # Without two options or with an answer in words of its own, a question is open.
            if len(choices) < 2 or answer not in choices:
                continue
            paths = row.values["audio_path"]
            names = row.texts("audio_path") if isinstance(paths, list) else (row.text("audio_path"),)
            yield Entry(
                id=row.text("id"),
                audio=tuple(in_its_folder(audio, name) for name in names),
                where=row.where,
                split="test",
                question=row.text("question"),
                answer=answer,
                choices=choices,
                kind=row.text("category"),
                meta=dict(row.values),
            )


CORPUS = MmauPro
