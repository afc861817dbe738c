"""Whether an answer to a question is right."""

from collections.abc import Callable, Iterable

from alm.data.records import Record
from eval.errors import EvaluationError
from eval.parsing.choices import parse_choice
from eval.parsing.mentions import options_for
from eval.parsing.normalise import answers_match

Correctness = Callable[[Record, str], bool]
"""From a question and an answer to whether the answer is right."""


def answers_of(record: Record) -> tuple[str, ...]:
    """Every answer that counts as right."""
    more = record.meta.get("answers")
    return tuple(more) if more else record.references


def by_choice(record: Record, answer: str) -> bool:
    """Whether an answer to a multiple-choice question picks the right choice, see `eval.parsing.choices`."""
    options = options_for(record.choices)
    right = {options.same_as[record.choices.index(one)] for one in answers_of(record)}
    return parse_choice(answer, record.choices) in right


def by_text(record: Record, answer: str) -> bool:
    """Whether a short answer equals a reference after normalisation, see `eval.parsing.normalise`."""
    return any(answers_match(answer, reference) for reference in answers_of(record))


def is_correct(record: Record, answer: str) -> bool:
    """`by_choice` for questions with choices, `by_text` for the others."""
    return by_choice(record, answer) if record.choices else by_text(record, answer)


def check_references(records: Iterable[Record]) -> None:
    """Check that every record can be scored, whatever the answers are.

    Raises:
        EvaluationError: A record without a reference, with answers that are no texts, or with an answer that is not
            one of its choices.
    """
    for record in records:
        if not record.references:
            raise EvaluationError(
                f"{record.source}: the record has no reference answer; add 'answer' or 'captions'"
            )
        more = record.meta.get("answers")
        if more and (isinstance(more, str) or not all(isinstance(one, str) for one in more)):
            raise EvaluationError(f"{record.source}: 'answers' is {more!r}, expected a list of texts")
        for answer in answers_of(record) if record.choices else ():
            if answer not in record.choices:
                raise EvaluationError(
                    f"{record.source}: the answer {answer!r} is not one of the choices {list(record.choices)}"
                )
