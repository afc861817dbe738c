"""Published scoring rules, reproduced with their faults, to compare with numbers in papers; never ours.

`mmau` (also MMAR's): an answer is right where it holds every word of the right choice and no word that only wrong
choices have. A bare letter is therefore wrong, and so is naming another option on the way; samples without a
prediction leave the denominator.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

from alm.data.records import Record
from eval.errors import EvaluationError

Rule = Callable[[str, str, Sequence[str]], bool]


def mmau_match(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    r"""The rule of MMAU's `evaluation.py`.

    Args:
        prediction: What a model said.
        answer: The right choice.
        choices: All choices.

    Returns:
        Whether all words (`\w+`, lower case) of the answer are said, and none that the answer lacks and another
        choice has.
    """
    said, wanted = _words(prediction), _words(answer)
    if not said:
        return False
    wrong = set().union(*(_words(choice) - wanted for choice in choices if _words(choice) != wanted))
    return wanted <= said and not said & wrong


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))


RULES: dict[str, Rule] = {"mmau": mmau_match}


def official_score(rule: str, records: Sequence[Record], answers: Sequence[str | None]) -> dict[str, Any]:
    """Score answers by a published rule.

    Args:
        rule: One of `RULES`.
        records: The questions.
        answers: One per record; None where there is none.

    Returns:
        `rule`, `value` over the answered questions (None without any), `n_right`, `n_answered`, `n_records`, and
        `strict`, the same rule with the missing ones counted as wrong.

    Raises:
        EvaluationError: There is no such rule.
    """
    if rule not in RULES:
        raise EvaluationError(f"no official rule {rule!r}; expected one of {', '.join(RULES)}")
    given = [
        (record, answer)
        for record, answer in zip(records, answers, strict=True)
        if answer is not None and record.choices
    ]
    right = sum(RULES[rule](answer, record.references[0], record.choices) for record, answer in given)
    return {
        "rule": rule,
        "value": right / len(given) if given else None,
        "n_right": right,
        "n_answered": len(given),
        "n_records": len(records),
        "strict": right / len(records),
    }
