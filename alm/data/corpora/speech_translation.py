"""Any table of recordings with translations: JSON, JSON lines or CSV with `audio` and `translation`.

`audio` is relative to the table; `language` names the language of the translation (default English); `id` and `speaker`
are optional.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, in_its_folder, table_rows

_FIELDS = ("audio", "translation")


class SpeechTranslation(Corpus):
    """Recordings of speech with translations."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in table_rows(self.path, _FIELDS):
            language = row.get("language") or "English"
            yield Entry(
                id=row.get("id") or row.text("audio"),
                audio=(in_its_folder(audio, row.text("audio")),),
                where=row.where,
                question=f"Translate what is said in this recording into {language}.",
                answer=row.text("translation"),
                kind="translation",
                meta={"speaker": row.get("speaker"), "language": language},
            )


CORPUS = SpeechTranslation
