"""The answers of a model as a report shows them: the wrong ones first, clips to hear, and confusion tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alm.data.records import Record
from eval.reports.score_report import example_of
from eval.reports.sections import Cell, Example, Section, Table
from eval.scoring.confusions import UNPARSED, VERDICTS, Confusion, confusions, verdict_of
from eval.scoring.correctness import Correctness, is_correct

# Clips in a page; each holds its sound.
_MAX_EXAMPLES = 12
# Rows in a page.
_MAX_ANSWERS = 400
# Characters of an answer, a question or a reference in a row.
_LONGEST = 400


def answer_sections(
    records: Sequence[Record],
    answers: Mapping[str, str],
    is_right: Correctness = is_correct,
    captions: Mapping[str, Sequence[str]] | None = None,
) -> list[Section]:
    """The answers with clips to hear, which a reader filters by verdict and kind; and a confusion table per kind.

    Args:
        records: The questions; one without an answer counts as unparsed.
        answers: By id.
        is_right: Decides whether an answer is right.
        captions: Further captions of a clip, by clip.
    """
    asked = [record for record in records if record.references]
    verdicts = {record.id: verdict_of(record, answers.get(record.id), is_right) for record in asked}
    n_wrong: dict[str, int] = {}
    for record in asked:
        n_wrong[record.clip] = n_wrong.get(record.clip, 0) + (verdicts[record.id] in ("wrong", UNPARSED))
    order = [*VERDICTS, ""]
    asked.sort(key=lambda record: (order.index(verdicts[record.id]), -n_wrong[record.clip]))
    found = confusions(((record, answers.get(record.id)) for record in asked), is_right)
    shown = [
        example_of(
            record,
            answers.get(record.id, ""),
            (captions or {}).get(record.clip, record.captions[1:]),
            is_right,
        )
        for record in _chosen(asked, verdicts)
    ]
    return [
        Section(
            "Answers",
            lead="The wrong ones first. Unparsed: no single choice could be read, or nothing was said.",
            examples=_ordered([one for one in shown if one]),
            tables=[_answer_table(asked, answers, verdicts)] if asked else [],
        ),
        *(
            [Section("Confusions", lead="Rows: the right answer. Columns: the answer given.")]
            if found
            else []
        ),
        *(Section(one.kind.replace("_", " "), tables=[_confusion_table(one)], level=3) for one in found),
    ]


def _chosen(asked: Sequence[Record], verdicts: Mapping[str, str]) -> list[Record]:
    """One question per clip, at least every other one wrong or unparsed, over the kinds in turn."""
    queues: dict[tuple[str, str], list[Record]] = {}
    for record in asked:
        queues.setdefault((verdicts[record.id], record.kind), []).append(record)
    failed = [queue for (verdict, _), queue in queues.items() if verdict in ("wrong", UNPARSED)]
    rest = [queue for (verdict, _), queue in queues.items() if verdict not in ("wrong", UNPARSED)]
    chosen: list[Record] = []
    clips: set[str] = set()

    def take(some: list[list[Record]], most: int) -> None:
        while any(some) and most > 0:
            for queue in filter(None, some):
                record = queue.pop(0)
                if record.clip not in clips and most > 0:
                    clips.add(record.clip)
                    chosen.append(record)
                    most -= 1

    take(failed, _MAX_EXAMPLES * 2 // 3)
    take(rest, _MAX_EXAMPLES - len(chosen))
    take(failed, _MAX_EXAMPLES - len(chosen))
    return chosen


def _ordered(examples: Sequence[Example]) -> list[Example]:
    return sorted(examples, key=lambda one: [*VERDICTS, ""].index(one.verdict))


def _answer_table(asked: Sequence[Record], answers: Mapping[str, str], verdicts: Mapping[str, str]) -> Table:
    """One row per answer, the wrong ones first, up to the limit of a page."""
    shown = asked[:_MAX_ANSWERS]
    if len(asked) > len(shown):
        # The wrong ones fill the table only up to three quarters, so that there are right ones to compare with.
        failed = [record for record in asked if verdicts[record.id] in ("wrong", UNPARSED)]
        rest = asked[len(failed) :]
        room = max(_MAX_ANSWERS * 3 // 4, _MAX_ANSWERS - len(rest))
        shown = [*failed[:room], *rest[: _MAX_ANSWERS - min(room, len(failed))]]
    note = (
        f"{len(shown)} of {len(asked)} answers; all are in predictions.jsonl."
        if len(shown) < len(asked)
        else ""
    )
    rows: list[list[str | Cell]] = [
        [
            _cut(record.clip),
            record.kind.replace("_", " "),
            _cut(_question(record)),
            _cut("; ".join(record.references)),
            Cell(_cut(answers.get(record.id, "")) or "nothing", verdicts[record.id]),
        ]
        for record in shown
    ]
    tags = [(verdicts[record.id], record.kind) for record in shown]
    head = ("clip", "kind", "question", "reference", "answer")
    return Table(head, rows, "Answers, the wrong ones first", note=note, words=True, tags=tags)


def _question(record: Record) -> str:
    listed = all(choice in record.question for choice in record.choices)
    return record.question if listed else f"{record.question} ({' / '.join(record.choices)})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _confusion_table(found: Confusion) -> Table:
    name = found.kind.replace("_", " ")
    rows: list[list[str | Cell]] = [
        [
            right,
            *(Cell(str(count) if count else "", share=count / sum(row) if count else None) for count in row),
        ]
        for right, row in zip(found.answers, found.counts, strict=False)
    ]
    left = f"{found.n_left_out} questions with rarer right answers have no row." if found.n_left_out else ""
    return Table(("right answer", *found.answers), rows, f"Confusion table of {name}", note=left)
