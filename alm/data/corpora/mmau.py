"""MMAU (Sakshi et al. 2024): `mmau-test-mini.json` or `mmau-test.json`, and the folders its `audio_id` paths name.

The file was revised (a quarter of test-mini in v05.15.25). Answers of `test` are not published. Some revisions have
rows whose answer is none of the choices: an error, or with `wrong_answers=skip` rows that conversion skips and counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from alm.data.corpora import AudioFiles, Corpus, Entries, check_option, choice_question, object_rows


@dataclass(frozen=True)
class Mmau(Corpus):
    """MMAU; multiple-choice questions.

    Attributes:
        wrong_answers: How to treat rows whose answer is none of the choices: `error` or `skip`.
    """

    wrong_answers: str = "error"

    splits = ("test-mini", "test")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_option("wrong_answers", self.wrong_answers, ("error", "skip"))

    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """See the base class."""
        for part in self.chosen(split):
            table = self.table(f"mmau-{part}.json", f"mmau-{part}.jsonl")
            for row in object_rows(table, ("id", "audio_id", "question", "choices", "task")):
                paths, answer = [row.text("audio_id")], row.get("answer")
                choices, kind = row.texts("choices"), row.text("task")
                yield choice_question(row, audio, part, paths, answer, choices, kind, self.wrong_answers)


CORPUS = Mmau
