"""Any table of recordings with what is said in them: JSON, JSON lines or CSV with `audio` and `text`.

`audio` is relative to the table; `id` and `speaker` are optional.
"""

from __future__ import annotations

from alm.data.corpora import (
    TRANSCRIBE,
    AudioFiles,
    Corpus,
    Entries,
    Entry,
    in_its_folder,
    table_rows,
)

_FIELDS = ("audio", "text")


class Transcription(Corpus):
    """Recordings with what is said in them."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in table_rows(self.path, _FIELDS):
            yield Entry(
                id=row.get("id") or row.text("audio"),
                audio=(in_its_folder(audio, row.text("audio")),),
                where=row.where,
                question=TRANSCRIBE,
                answer=row.text("text"),
                kind="transcript",
                meta={"speaker": row.get("speaker")},
            )


CORPUS = Transcription
