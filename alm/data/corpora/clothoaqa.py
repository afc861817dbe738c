"""ClothoAQA (Lipping et al. 2022): `clotho_aqa_{train,val,test}.csv`, audio in `audio_files/`.

Columns `file_name, QuestionText, answer, confidence`; every question was answered by three people. In training each
answer is an entry. In val and test each question is one entry, with the most frequent answer (of equally frequent ones
the first). For a yes/no question only that answer is right; for a single-word question every given answer is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from alm.data.corpora import AudioFiles, Corpus, Entries, Entry, csv_rows, grouped

_YES_NO = ("yes", "no")


class ClothoAqa(Corpus):
    """ClothoAQA; `Entry.answers` holds what all annotators said."""

    splits = ("train", "val", "test")

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for path in self.tables(f"clotho_aqa_{name}.csv" for name in self.chosen(split)):
            part = path.stem.removeprefix("clotho_aqa_")
            rows = csv_rows(path, ("file_name", "QuestionText", "answer"), keep_spaces=True)
            questions = grouped(((row.values["file_name"], row.values["QuestionText"]), row) for row in rows)
            for number, ((name, _), given) in enumerate(questions.items()):
                answers = [row.text("answer") for row in given]
                answer, accepted = agreed_answers(answers)
                identity = f"clothoaqa-{part}-{number:05d}"
                said: list[tuple[str, dict[str, Any]]]
                if part == "train":
                    said = [
                        (reply, {"id": f"{identity}-{place}", "confidence": row.get("confidence")})
                        for place, (row, reply) in enumerate(zip(given, answers, strict=True))
                    ]
                else:
                    more = {"answers": accepted} if accepted else {}
                    said = [(_said(answer, answers), {"id": identity, "votes": answers, **more})]
                for place, (reply, keys) in enumerate(said):
                    yes_no = _form(reply) in _YES_NO if part == "train" else not accepted
                    keys |= {"kind": "yes_no" if yes_no else "open", "clip": f"clotho/{name.strip()}"}
                    yield Entry(
                        id=f"{number}:{name}" + (f":{place}" if part == "train" else ""),
                        audio=(audio.clip(name),),
                        where=given[place].where,
                        split=part,
                        question=given[0].text("QuestionText"),
                        answer=reply,
                        answers=tuple(answers),
                        kind="single_word" if accepted else "yes_no",
                        manifest=keys,
                    )


def agreed_answers(answers: Sequence[str], form: Callable[[str], str] | None = None) -> tuple[str, list[str]]:
    """The right answers to a question that several annotators answered.

    Args:
        answers: Their answers, in order.
        form: Brings an answer to the form in which answers are compared; None only ignores case and punctuation.

    Returns:
        The most frequent answer (of equally frequent ones the first), in that form; and all answers that count as
        right. The list is empty for a yes/no question, where only the first counts.
    """
    votes = Counter(map(form or _form, answers))
    return votes.most_common(1)[0][0], [] if set(votes) <= set(_YES_NO) else list(votes)


def _said(form: str, answers: Sequence[str]) -> str:
    """The first answer of a form, as the annotator wrote it."""
    return next(answer for answer in answers if _form(answer) == form)


def _form(answer: str) -> str:
    return answer.casefold().strip(" .!?\"'") or answer


CORPUS = ClothoAqa
