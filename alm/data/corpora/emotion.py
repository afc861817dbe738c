"""Any table of recordings with the emotion of their speaker: JSON, JSON lines or CSV with `audio` and `emotion`.

`audio` is relative to the table, and the emotions in the table are the choices. `id` and `speaker` are optional.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, in_its_folder, table_rows

_FIELDS = ("audio", "emotion")


class Emotion(Corpus):
    """Recordings of speech with the emotion of the speaker."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        rows = list(table_rows(self.path, _FIELDS))
        emotions = tuple(sorted({row.text("emotion") for row in rows}))
        for row in rows:
            yield Entry(
                id=row.get("id") or row.text("audio"),
                audio=(in_its_folder(audio, row.text("audio")),),
                where=row.where,
                question="Which emotion does the speaker express?",
                answer=row.text("emotion"),
                choices=emotions,
                kind="emotion",
                meta={"speaker": row.get("speaker"), "emotion": row.text("emotion")},
            )


CORPUS = Emotion
