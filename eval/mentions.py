"""Where an answer names the choices of a question, and whether it asserts or rejects them."""

import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from eval.normalise import digits_for_number_words, words_of

_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00b4": "'"})
# "one" that is a pronoun, not a number.
_PRONOUN = re.compile(
    r"\b((?:this|that|which|right|correct|best|only|no|any|every|each|first|second|third|last|wrong|other|another)\s+)"
    r"one\b|\bone(?=\s+(?:of|might|could|may|can|should|must|would)\b)",
    re.IGNORECASE,
)
_ARTICLES = frozenset(["a", "an", "the"])
# Choices that are everyday words of any sentence: they count after a cue, not wherever they turn up.
_COMMON = frozenset(["no", "not", "none", "yes", "it", "is", "or", "and", "i", "a", "an", "the"])
_GAP = r"(?:(?:[^\w#]|_)+(?:(?:an?|the)(?:[^\w#]|_)+)?)"

_NEGATION = re.compile(
    r"(?:\bnot\b(?! only)|n't\b|\bnever\b|\bneither\b|\bnor\b|\brather than\b|\binstead of\b|\bunlike\b|\bexcept\b"
    r"|\bexclud\w+|\brul(?:e|es|ed|ing) out\b|\beliminat\w+|\bother than\b|\bas opposed to\b|\bdismiss\w*"
    r"|\breject\w*|\bdiscard\w*|\bno\b(?! doubt)|\bcannot\b|\bwithout\b|\babsence of\b|\black of\b|\bbetween\b)"
    r"\W*(?:[\w'\x00]+[ \t\"'(\[*-]+){0,5}$|\bthan\W+(?:[\w']+\W+){0,2}$",
    re.IGNORECASE,
)
_REJECTION = re.compile(
    r"^[\s\"')\]*.]{0,3}\s*(?:(?:is|are|was|were|seems?|can|could|would|does|do|did|has|have|looks?|sounds?|appears?)"
    r"(?:\s+(?:clearly|probably|also|definitely|both|all|be|to be|therefore|thus|very|most|much|quite|an?|the))*\s*"
    r"(?:not\b|n't|cannot|incorrect|wrong|unlikely|impossible|implausible|ruled out|excluded|eliminated|dismissed"
    r"|less likely|false|absent|missing|inconsistent|out of the question|(?:\w+\s+)?distractor)|cannot|can't"
    r"|\(?(?:incorrect|wrong|no)\b)",
    re.IGNORECASE,
)
_CLAUSE_BREAK = re.compile(r"[.;:!?\n,](?=\s|$)|\b(?:but|however|although|though|while|whereas|so)\b", re.IGNORECASE)
_LIST_GLUE = re.compile(r"^(?:[\s,/&\"'()*\[\].:-]|\b(?:and|or|nor|the|an?|options?|choices?|[A-Z](?=[).:]))\b)*$", re.I)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]*]*(?=\s|$)|\n+")


def canonical(text: str) -> str:
    """Even out width, quotes, number words and control characters, keeping case and punctuation."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).replace("\x00", " ")
    text = re.sub(r"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    text = _PRONOUN.sub(lambda match: f"{match[1] or ''}someone", text)
    return digits_for_number_words(text)


@dataclass(frozen=True)
class Mention:
    """One place of a canonical text that names a choice.

    Attributes:
        start: First character.
        end: One past the last character.
        index: The choice.
        rejected: Whether the text says that this is not the answer, asks, or only weighs it.
    """

    start: int
    end: int
    index: int
    rejected: bool = False


@dataclass(frozen=True)
class Options:
    """The choices of one question, ready to be looked for.

    Attributes:
        texts: The choices as given.
    """

    texts: tuple[str, ...]

    @cached_property
    def words(self) -> list[tuple[str, ...]]:
        """Per choice its words without articles, number words as digits."""
        found = []
        for text in self.texts:
            words = words_of(canonical(text))
            found.append(tuple(word for word in words if word not in _ARTICLES) or tuple(words))
        return found

    @cached_property
    def same_as(self) -> list[int]:
        """Per choice the first choice of the same words, so that a choice listed twice is one choice."""
        return [index if not words else self.words.index(words) for index, words in enumerate(self.words)]

    @property
    def letters(self) -> str:
        """The labels `A`, `B`, … of the choices."""
        return string.ascii_uppercase[: len(self.texts)]

    def letter_index(self, letter: str) -> int | None:
        """The choice of a label in either case, None for a letter beyond the last choice."""
        at = self.letters.find(letter.upper())
        return self.same_as[at] if letter and at >= 0 else None

    @cached_property
    def _patterns(self) -> list[tuple[int, re.Pattern[str]]]:
        """Distinct choices with words, longest first."""
        distinct = [i for i, words in enumerate(self.words) if words and self.same_as[i] == i]
        distinct.sort(key=lambda i: -sum(map(len, self.words[i])))
        return [(i, re.compile(_pattern(self.words[i]), re.IGNORECASE)) for i in distinct]

    def text_at(self, text: str, start: int) -> Mention | None:
        """The longest choice whose text stands at `start` (an article may stand before it)."""
        best: Mention | None = None
        for begin in {start, start + len(re.match(r"(?:(?:an?|the)\s+)?", text[start:], re.I)[0])}:  # type: ignore[index]
            for index, pattern in self._patterns:
                match = pattern.match(text, begin)
                if match and (best is None or match.end() > best.end):
                    best = Mention(start, match.end(), index)
        return best

    def equal_to(self, text: str) -> int | None:
        """The choice that a whole text equals, articles and punctuation aside."""
        words = words_of(text)
        words = [word for word in words if word not in _ARTICLES] or words
        key = tuple(words)
        return self.words.index(key) if key and key in self.words else None

    def text_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by its text, longest match first, none overlapping."""
        found: list[Mention] = []
        for index, pattern in self._patterns:
            if len(self.words[index]) == 1 and self.words[index][0] in _COMMON:
                continue
            for match in pattern.finditer(text):
                if all(match.end() <= other.start or match.start() >= other.end for other in found):
                    found.append(Mention(match.start(), match.end(), index))
        return sorted(found, key=lambda mention: mention.start)

    def label_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by its label: `(B)`, `option B`, `B)` or `B.` at the start of a line."""
        pattern = (
            r"[(\[]([A-Za-z])[)\]]|\b(?:options?|choices?|letter)\s+[\"'(]*([A-Z]|[b-hj-z])\b(?!')"
            r"|^[ \t>*-]*([A-Z])[).:](?=\s|$)"
        )
        found = []
        for match in re.finditer(pattern, text, re.MULTILINE):
            index = self.letter_index(match[1] or match[2] or match[3])
            if index is not None:
                found.append(Mention(match.start(), match.end(), index))
        return found

    def mentions(self, text: str) -> list[Mention]:
        """Every place of a canonical text that names a choice, with whether it rejects it.

        A label and the text of the same choice side by side are one mention.
        """
        merged: list[Mention] = []
        inside = self.text_mentions(text)
        labels = [
            label
            for label in self.label_mentions(text)
            if all(label.end <= other.start or label.start >= other.end for other in inside)
        ]
        for mention in sorted([*inside, *labels], key=lambda one: one.start):
            last = merged[-1] if merged else None
            if last and last.index == mention.index and not re.search(r"[\w]", text[last.end : mention.start]):
                merged[-1] = Mention(last.start, mention.end, last.index)
            else:
                merged.append(mention)
        return _judge(text, merged)


def _pattern(words: tuple[str, ...]) -> str:
    """A pattern that finds a choice in canonical text whatever stands between its words."""
    pieces = [re.escape(word) for word in words]
    pattern = pieces[0]
    for before, word, piece in zip(words, words[1:], pieces[1:], strict=False):
        pattern += (r"[^\w#]*" if "#" in (before, word) else _GAP) + piece
    head, tail = words[0], words[-1]
    guard_before = r"(?<![\w#])" + (r"(?<!\d[.,:/])" if head[0].isdigit() else "")
    guard_after = r"(?![\w#])" + (r"(?![.,:/]\d)" if tail[-1].isdigit() else "")
    if len("".join(words)) <= 2 and not head[0].isdigit():
        # Chords and note names: "E" is not in "E:7", nor the article in "A dog".
        pattern = f"(?-i:{pattern.upper() if len(words) == 1 else pattern[0].upper() + pattern[1:]})"
        guard_after += r"(?![:/]\w)" + (r"(?!\s+[a-z])" if len(words) == 1 and head in "ai" else "")
    return guard_before + pattern + guard_after


def _judge(text: str, mentions: list[Mention]) -> list[Mention]:
    """Mark the mentions that the text rejects, asks about or lists with rejected ones."""
    masked = list(text)
    for mention in mentions:
        masked[mention.start : mention.end] = "\x00" * (mention.end - mention.start)
    plain = "".join(masked)
    rejected = [_is_rejected(plain, mention) for mention in mentions]
    for order in (range(1, len(mentions)), range(len(mentions) - 1, 0, -1)):
        for i in order:
            glued = _LIST_GLUE.match(text[mentions[i - 1].end : mentions[i].start])
            # "not X, Y or Z" and "X, Y and Z are wrong"
            if glued and order.step == 1 and rejected[i - 1] and _before(plain, mentions[i - 1]):
                rejected[i] = True
            if glued and order.step == -1 and rejected[i] and _REJECTION.match(plain[mentions[i].end :]):
                rejected[i - 1] = True
    return [
        Mention(one.start, one.end, one.index, bad) for one, bad in zip(mentions, rejected, strict=True)
    ]


def _before(plain: str, mention: Mention) -> bool:
    """Whether a negation stands before a mention in its clause (list members count as one clause)."""
    head = plain[: mention.start]
    breaks = [match.end() for match in _CLAUSE_BREAK.finditer(head)]
    return bool(_NEGATION.search(head[breaks[-1] if breaks else 0 :]))


def _is_rejected(plain: str, mention: Mention) -> bool:
    if _before(plain, mention):
        return True
    tail = plain[mention.end :]
    if _REJECTION.match(tail):
        return True
    end = _SENTENCE_END.search(tail)
    return bool(end and "?" in end[0])


def sentences(text: str, mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Spans of the sentences of a text; a full stop inside a mention ends none."""
    spans, start = [], 0
    for match in _SENTENCE_END.finditer(text):
        if any(one.start < match.end() < one.end for one in mentions):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    return [(begin, end) for begin, end in spans if text[begin:end].strip()]


@lru_cache(maxsize=4096)
def options_for(choices: tuple[str, ...]) -> Options:
    """Options of a question, built once per set of choices."""
    return Options(choices)
