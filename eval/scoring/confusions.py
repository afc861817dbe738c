"""The verdict on each answer, and confusion tables of right and given answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alm.data.records import Record
from eval.parsing.choices import parse_choice
from eval.parsing.normalise import normalise_answer, parse_yes_no
from eval.scoring.correctness import Correctness, answers_of, is_correct

UNPARSED = "unparsed"
VERDICTS = ("wrong", UNPARSED, "right")
"""In the order in which reports show answers; captions have the verdict ''."""

OTHER = "anything else"
_MOST_CLASSES = 10


@dataclass(frozen=True)
class Confusion:
    """Right answers against given ones, of the questions of one kind.

    Attributes:
        kind: Kind of the questions.
        answers: Names of the columns, the first `len(counts)` of them also of the rows.
        counts: Per right answer, how often each answer was given.
        n_left_out: Questions whose right answer has no row, because more frequent ones fill the table.
    """

    kind: str
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    n_left_out: int


def verdict_of(record: Record, answer: str | None, is_right: Correctness = is_correct) -> str:
    """One of `VERDICTS`; '' for captions.

    An answer is unparsed if it names no single choice, is empty or is missing.
    """
    if record.captions:
        return ""
    if answer is not None and is_right(record, answer):
        return "right"
    return "wrong" if answer is not None and _read(record, answer) else UNPARSED


def confusions(
    pairs: Iterable[tuple[Record, str | None]], is_right: Correctness = is_correct
) -> list[Confusion]:
    """A table per kind of question with recurring right answers: at least two different ones, each twice on average.

    Args:
        pairs: Questions with their answers; captions do not count.
        is_right: Decides whether an answer is right; right answers stand on the diagonal.
    """
    by_kind: dict[str, list[tuple[str, str]]] = {}
    for record, answer in pairs:
        if not record.captions:
            wanted = normalise_answer(answers_of(record)[0])
            right = verdict_of(record, answer, is_right) == "right"
            said = wanted if right else _read(record, answer or "")
            by_kind.setdefault(record.kind, []).append((wanted, said))
    found = [_confusion(kind, seen) for kind, seen in sorted(by_kind.items())]
    return [one for one in found if one]


def _read(record: Record, answer: str) -> str:
    """The parsed answer, normalised; empty if it could not be parsed."""
    if not record.choices:
        yes = parse_yes_no(answer) if normalise_answer(answers_of(record)[0]) in ("yes", "no") else None
        return normalise_answer(answer) if yes is None else "yes" if yes else "no"
    chosen = parse_choice(answer, record.choices)
    return "" if chosen is None else normalise_answer(record.choices[chosen])


def _confusion(kind: str, seen: Sequence[tuple[str, str]]) -> Confusion | None:
    wanted = Counter(right for right, _ in seen)
    if len(wanted) < 2 or len(seen) < 2 * len(wanted):
        return None
    frequent = sorted(wanted, key=lambda name: (-wanted[name], name))[:_MOST_CLASSES]
    rows = sorted(
        frequent, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name)
    )
    kept = [(right, said) for right, said in seen if right in rows]
    other = Counter("" if not said else OTHER for _, said in kept if said not in rows)
    columns = [*rows, *([OTHER] if other[OTHER] else []), *([UNPARSED] if other[""] else [])]
    pairs = Counter((right, said if said in rows else OTHER if said else UNPARSED) for right, said in kept)
    counts = tuple(tuple(pairs[right, column] for column in columns) for right in rows)
    return Confusion(kind, tuple(columns), counts, len(seen) - len(kept))
