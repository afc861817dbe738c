r"""The rule of MMAU, which MMAR uses as well.

An answer is right if it holds every word of the right choice and no word that only wrong choices have. A bare letter
is therefore wrong, and so is an answer that also names another option.
"""

import re
from collections.abc import Sequence


def mmau_match(prediction: str, answer: str, choices: Sequence[str]) -> bool:
    r"""The rule of MMAU's `evaluation.py`.

    Returns:
        Whether the prediction has all words (`\w+`, lower case) of the right choice, and no word that only another
        choice has.
    """
    said, wanted = _words(prediction), _words(answer)
    if not said:
        return False
    wrong = set().union(*(_words(choice) - wanted for choice in choices if _words(choice) != wanted))
    return wanted <= said and not said & wrong


def _words(text: str) -> set[str]:
    return set(re.findall(r"\b\w+\b", text.lower()))


OFFICIAL_RULE = mmau_match
