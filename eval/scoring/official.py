"""Published scoring rules, reproduced with their errors, for comparison with the numbers in papers.

Samples without a prediction are excluded from the denominator, as in the published scripts; `strict` counts them as
wrong. Questions without choices are ignored, because the rules do not apply to them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from alm.common.plugins import Registry
from alm.data.records import Record

Rule = Callable[[str, str, Sequence[str]], bool]
"""From an answer, the right choice and all choices to whether the answer is right."""

RULES: Registry[Rule] = Registry(
    "official rule", "OFFICIAL_RULE", "eval.scoring.official_rules", accepts=callable, expected="a function"
)


def official_score(rule: str, records: Sequence[Record], answers: Sequence[str | None]) -> dict[str, Any]:
    """Score answers by a published rule.

    Args:
        rule: Name of the rule, one of `RULES.names()`.
        records: The questions; those without choices are ignored.
        answers: One per record; None if it is missing.

    Returns:
        `rule`, `value` over the answered questions (None without any), `n_right`, `n_answered`, `n_records` (questions
        with choices), and `strict`, the same rule with the missing ones counted as wrong (None without questions).

    Raises:
        ConfigError: No rule has that name.
    """
    is_right = RULES.get(rule)
    asked = [(record, answer) for record, answer in zip(records, answers, strict=True) if record.choices]
    given = [(record, answer) for record, answer in asked if answer is not None]
    right = sum(is_right(answer, record.references[0], record.choices) for record, answer in given)
    return {
        "rule": rule,
        "value": right / len(given) if given else None,
        "n_right": right,
        "n_answered": len(given),
        "n_records": len(asked),
        "strict": right / len(asked) if asked else None,
    }
