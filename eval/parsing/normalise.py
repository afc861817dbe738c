"""Normalises short answers: case, articles, punctuation, number words, yes and no."""

import re
import unicodedata
from functools import lru_cache

from eval.parsing.markup import shortened

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_VALUES = {word: value for value, word in enumerate(_UNITS)} | {
    word: 10 * value for value, word in enumerate(_TENS, start=2)
}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 1_000_000}
_NUMBER_WORD = "|".join([*_VALUES, *_SCALES])
_NUMBER_RUN = re.compile(rf"\b(?:{_NUMBER_WORD})\b(?:(?:,? and |, | |-)(?:{_NUMBER_WORD})\b)*", re.IGNORECASE)
# An article belongs to the words after it; the A of "A minor" or "A:7" is a note.
_ARTICLE = re.compile(r"\b(?:an?|the)\s+(?=[\w\"'(])(?!(?:minor|major|sharp|flat|maj|min)\b)", re.IGNORECASE)
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'", "`": "'"})
_TOKEN = re.compile(r"\d+(?:[.,:]\d+)+|[^\W_]+(?:'[^\W_]+)*|[#%]")
_YES = frozenset(["yes", "yeah", "yep", "yup", "true", "correct", "affirmative"])
_NO = frozenset(["no", "nope", "nah", "false", "incorrect", "negative"])
_LEAD_IN = re.compile(r"^\s*(?:the\s+)?(?:final\s+|correct\s+)?answer\s*(?:is\s*:?|:|=)\s*", re.IGNORECASE)


def digits_for_number_words(text: str) -> str:
    """Write number words as digits: `twenty-three dogs` becomes `23 dogs`.

    Args:
        text: Any text. Words that do not make one number together become several: `two three` gives `2 3`.

    Returns:
        The text with every run of number words from zero to the millions replaced, the rest unchanged.
    """
    return _NUMBER_RUN.sub(lambda run: _write_digits(run[0]), text)


def _write_digits(run: str) -> str:
    """Digits for a run of number words, keeping the separators between numbers that do not combine."""
    pieces = re.split(r"((?:,? and |, | |-))", run, flags=re.IGNORECASE)
    words, gaps = [piece.lower() for piece in pieces[::2]], pieces[1::2]
    numbers: list[list[str]] = [[words[0]]]
    joints: list[str] = []
    for gap, word in zip(gaps, words[1:], strict=True):
        if _continues(numbers[-1], gap, word):
            numbers[-1].append(word)
        else:
            numbers.append([word])
            joints.append(gap)
    written = [str(_value(number)) for number in numbers]
    return written[0] + "".join(gap + number for gap, number in zip(joints, written[1:], strict=True))


def _continues(number: list[str], gap: str, word: str) -> bool:
    """Whether a word continues the number so far: `twenty` + `three`, `one` + `hundred`, `hundred` + `five`."""
    last = number[-1]
    if word in _SCALES:
        return gap in (" ", "-") and (last not in _SCALES or _SCALES[last] < _SCALES[word])
    if last in _SCALES:
        return True
    return gap in (" ", "-") and last in _TENS and 0 < _VALUES[word] < 10


def _value(words: list[str]) -> int:
    total, current = 0, 0
    for word in words:
        if word not in _SCALES:
            current += _VALUES[word]
        elif word == "hundred":
            current = max(1, current) * 100
        else:
            total += max(1, current) * _SCALES[word]
            current = 0
    return total + current


def words_of(text: str) -> list[str]:
    """Cut text into lower-case words and numbers; number words become digits, articles and punctuation go."""
    text = _ARTICLE.sub("", unicodedata.normalize("NFKC", text).translate(_QUOTES))
    words = []
    for token in _TOKEN.findall(digits_for_number_words(text)):
        word = token.casefold()
        if word[0].isdigit():
            word = re.sub(r",(?=\d{3}\b)", "", word)
            word = re.sub(r"^(\d+)\.(\d*?)0*$", r"\1.\2", word).rstrip(".")
        words.append(word)
    return words


@lru_cache(maxsize=65536)
def normalise_answer(text: str) -> str:
    """Bring a short answer to the form in which answers are compared.

    Case, punctuation, articles and a leading "the answer is" go; number words become digits; ways of saying only yes
    or no become `yes` and `no`.

    Returns:
        Words joined by single spaces; empty for text without words. Articles stay when there is nothing else.
    """
    words = words_of(_LEAD_IN.sub("", text))
    if len(words) == 1 and words[0] in _YES | _NO:
        return "yes" if words[0] in _YES else "no"
    return " ".join(words)


def parse_yes_no(text: str) -> bool | None:
    """Read a yes or a no out of an answer; never guesses.

    Returns:
        True or False where the answer starts with yes or no (or a synonym), ends with one after an answer cue, or
        holds exactly one of the two words; None otherwise.
    """
    text = re.sub(r"(?is)^.*</think(?:ing)?>|<think(?:ing)?>.*$", " ", shortened(text))
    words = words_of(_LEAD_IN.sub("", text.replace("*", " ")))
    if not words:
        return None
    if words[0] in _YES | _NO:
        return None if words[1:2] == ["or"] else words[0] in _YES
    cue = re.findall(r"(?i)\banswer(?:\s+is|\s+would\s+be|\s*:)[\s\"'(]*(yes|no)\b(?!\s+or\b)", text)
    if cue:
        return bool(cue[-1].lower() == "yes")
    found = {word for word in words if word in ("yes", "no")}
    return found == {"yes"} if len(found) == 1 and (found == {"yes"} or words[-1] == "no") else None


def answers_match(prediction: str, reference: str) -> bool:
    """Whether a short answer equals a reference after normalisation.

    Where the reference is yes or no, a sentence that says so counts ("Yes, a dog barks").
    """
    target = normalise_answer(reference)
    prediction = shortened(prediction)
    if normalise_answer(prediction) == target:
        return True
    if target in ("yes", "no"):
        return parse_yes_no(prediction) is (target == "yes")
    return False
