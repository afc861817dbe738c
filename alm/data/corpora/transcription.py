"""Any table of recordings with what is said in them: JSON, JSON lines or CSV with `audio` and `text`.

`audio` is relative to the table; `id` and `speaker` may be there, too.
"""

from __future__ import annotations

from collections.abc import Iterator

from alm.data.corpora.audio_files import AudioFiles
from alm.data.corpora.base import Corpus, Entry, in_its_folder
from alm.data.corpora.rows import csv_rows, object_rows

PROMPT = "Write down what is said in this recording."
_FIELDS = ("audio", "text")


class Transcription(Corpus):
    """Recordings with what is said in them."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Iterator[Entry]:
        """See the base class."""
        path = self.path
        for row in csv_rows(path, _FIELDS) if path.suffix == ".csv" else object_rows(path, _FIELDS):
            yield Entry(
                id=row.get("id") or row.text("audio"),
                audio=(in_its_folder(audio, row.text("audio")),),
                where=row.where,
                question=PROMPT,
                answer=row.text("text"),
                kind="transcript",
                meta={"speaker": row.get("speaker")},
            )


CORPUS = Transcription
