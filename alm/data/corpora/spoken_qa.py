"""Any table of spoken questions with their answers: JSON, JSON lines or CSV with `audio` and `answer`.

The question is in the recording alone. `audio` is relative to the table; JSON may hold `answers`, a list of all answers
that count as right; `id`, `speaker` and `topic` are optional.
"""

from __future__ import annotations

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, in_its_folder, table_rows

_FIELDS = ("audio", "answer")


class SpokenQuestions(Corpus):
    """Recordings of questions with the answers."""

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for row in table_rows(self.path, _FIELDS):
            answer = row.text("answer")
            yield Entry(
                id=row.get("id") or row.text("audio"),
                audio=(in_its_folder(audio, row.text("audio")),),
                where=row.where,
                question="Answer the question that is asked in this recording. Give the answer alone.",
                answer=answer,
                answers=tuple(dict.fromkeys((answer, *row.texts("answers")))),
                kind="spoken_question",
                meta={"speaker": row.get("speaker"), "topic": row.get("topic")},
            )


CORPUS = SpokenQuestions
