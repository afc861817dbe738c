"""A choice in other words: "a cat is meowing" for "cat meowing", "nope" for "no"."""

import re

from eval.parsing.mentions import Options
from eval.parsing.normalise import normalise_answer, words_of

_EMPTY = frozenset(
    "it its this that there is are was were be being been has have of in on at to from by with and or some someone "
    "something sound sounds noise audio clip recording hear heard can i you my your his her their s".split()
)
# Words that may reverse a sentence; these sentences are not read.
_TURNED = re.compile(
    r"\b(?:not|no|never|neither|nor|without|none|cannot|unlike|except|either|rather|instead|but|ruled?|absent|unlikely"
    r"|if|unless|whether|maybe|perhaps|might|could|may)\b|n't\b|\?",
    re.IGNORECASE,
)
_SUFFIX = re.compile(r"(?:ing|ed|es|s)$")


def reworded(text: str, options: Options) -> int | None:
    """The choice that a text paraphrases without using its words in order.

    Args:
        text: The answer of a model, one plain sentence; anything longer or with a negation gives none.
        options: The choices.

    Returns:
        The only choice whose content words are all in the text; None if there is no such choice or several, or if the
        text holds a content word of another choice.
    """
    wordings = [" ".join(words_of(choice)) for choice in options.texts]
    if {"yes", "no"} <= set(wordings):
        first = normalise_answer(re.split(r"[,.;:!\n]", text.strip(), maxsplit=1)[0])  # "Nope, nothing there"
        return wordings.index(first) if first in ("yes", "no") else None
    if _TURNED.search(text) or len(re.findall(r"[.!;:\n](?=\s|$)", text.strip())) > 1:
        return None
    mentioned = _stems(text)
    stems = [_stems(choice) for choice in options.texts]
    # Short words are not enough: numbers and single letters are often labels, or belong to another statement.
    named = [
        i for i, own in enumerate(stems) if own and own <= mentioned and all(len(word) > 2 for word in own)
    ]
    if len({frozenset(stems[index]) for index in named}) != 1:
        return None
    others = set().union(*(own for own in stems if own != stems[named[0]]))
    return None if (others - stems[named[0]]) & mentioned else named[0]


def _stems(text: str) -> set[str]:
    """Content words without their endings; the doubled consonant of "dripping" goes as well."""
    words = (word.removesuffix("'s") for word in words_of(text))
    return {_stem(word) for word in words if word not in _EMPTY}


def _stem(word: str) -> str:
    short = _SUFFIX.sub("", word) if len(word) > 4 else word.removesuffix("s") if len(word) > 3 else word
    short = re.sub(r"([b-df-hj-np-tv-z])\1$", r"\1", short)
    return short.removesuffix("e") if len(short) > 3 else short
