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
    r"one\b|\bone(?=\s+(?:of|that|which|saying|labell?ed|might|could|may|can|should|must|would)\b)",
    re.IGNORECASE,
)
# Choices that are everyday words of any sentence: they count after a cue, not wherever they turn up.
_COMMON = frozenset(["no", "not", "none", "yes", "it", "is", "or", "and", "an", "the"])
# What may stand between two words of a choice: any marks, or any but the end of a sentence.
_ANY_MARK = r"(?:[^\w#]|_)"
_INNER_MARK = r"(?:[^\w#.!?;\n]|_|[.!?;](?=\S))"

_NEGATION = re.compile(
    r"(?:\bnot\b(?! only)|n't\b|\bnever\b|\bneither\b|\bnor\b|\brather than\b|\binstead of\b|\bunlike\b|\bexcept\b"
    r"|\bexclud\w+|\brul(?:e|es|ed|ing) out\b|\beliminat\w+|\bother than\b|\bas opposed to\b|\bdismiss\w*"
    r"|\breject\w*|\bdiscard\w*|\bno\b(?! doubt)|\bcannot\b|\bwithout\b|\babsence of\b|\black of\b|\bbetween\b"
    r"|\bwhether\b|\bout of\b|\bamong(?:st)?\b|\b(?:i|we)"
    r"(?: (?:also|first|initially|briefly|had|have|originally))* considered\b)"
    r"\W*(?:[\w'\x00]+[ \t\"'(\[*-]+){0,5}$|\bthan\W+(?:[\w']+\W+){0,2}$",
    re.IGNORECASE,
)
_REJECTION = re.compile(
    r"^[\s\"')\]*.]{0,3}\s*(?:(?:is|are|was|were|seems?|can|could|would|does|do|did|has|have|looks?|sounds?|appears?)"
    r"(?:\s+(?:clearly|probably|also|definitely|both|all|be|to be|therefore|thus|very|most|much|quite|an?|the))*\s*"
    r"(?:not\b|n't|cannot|incorrect|wrong|unlikely|impossible|implausible|ruled out|excluded|eliminated|dismissed"
    r"|less likely|false|absent|missing|inconsistent|out of the question|(?:\w+\s+)?distractor)|cannot|can't"
    r"|[(:\u2013\u2014-]\s*(?:incorrect|wrong|no|not)\b)",
    re.IGNORECASE,
)
_CLAUSE_BREAK = re.compile(
    r"[.;:!?\n,](?=\s|$)|\b(?:but|however|although|though|while|whereas|so)\b", re.IGNORECASE
)
_CONTRAST = re.compile(
    r"unlike|instead|rather|as opposed|other than|except|between|whether|than|out of|among|consider"
)
_LIST_GLUE = re.compile(
    r"^(?:[\s,/&\"'()*\[\].:-]|\b(?:and|or|nor|the|an?|options?|choices?|[A-Z](?=[).:]))\b)*$", re.I
)
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]*]*(?=\s|$)(?!\s+(?:or|and|nor)\b)|\n+")


def canonical(text: str) -> str:
    """Even out width, quotes, number words and control characters, keeping case and punctuation."""
    text = unicodedata.normalize("NFKC", text).translate(_QUOTES).replace("\x00", " ")
    text = re.sub(r"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    # Ticks, arrows of lists and emoji around an answer say nothing about which it is.
    text = re.sub(r"[\u2600-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff]", " ", text)
    # Emphasis goes before number words are looked for: an underscore is a letter to them.
    text = re.sub(r"(?<!\w)_(?=\S)([^_\n]+?)(?<=\S)_(?!\w)", r"\1", text)
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
            found.append(tuple(words_of(canonical(text))))
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
        return [(i, re.compile(_pattern(self.words[i], self.texts[i]), re.IGNORECASE)) for i in distinct]

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
        key = tuple(words_of(text))
        if len(key) == 1 and len(key[0]) == 1 and key[0].isalpha():
            # A single letter: "A" is the label unless a choice is written just so.
            text = text.strip(" \t\n.,:;!\"'")
            return next((i for i, choice in enumerate(self.texts) if choice.strip() == text), None)
        return self.words.index(key) if key and key in self.words else None

    def common_mentions(self, text: str) -> list[Mention]:
        """Every place that holds a choice such as "no", whether or not it is meant there."""
        common = [(index, pattern) for index, pattern in self._patterns if self._is_common(index)]
        return [
            Mention(*match.span(), index) for index, pattern in common for match in pattern.finditer(text)
        ]

    def _is_common(self, index: int) -> bool:
        return len(self.words[index]) == 1 and self.words[index][0] in _COMMON

    def text_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by its text, longest match first, none overlapping."""
        found: list[Mention] = []
        for index, pattern in self._patterns:
            if self._is_common(index):
                continue
            for match in pattern.finditer(text):
                if all(match.end() <= other.start or match.start() >= other.end for other in found):
                    found.append(Mention(match.start(), match.end(), index))
        return sorted(found, key=lambda mention: mention.start)

    def label_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by its label: `(B)`, `option B`, `B)` or `B.` at the start of a line."""
        pattern = (
            r"[(\[]([A-Za-z])[)\]]|\b(?i:options?|choices?|letter)\s+[\"'(]*([A-Z]|[b-hj-z])\b(?!')"
            r"|^[ \t>*-]*([A-Z])[).:](?=\s|$)"
        )
        found = []
        for match in re.finditer(pattern, text, re.MULTILINE):
            index = self.letter_index(match[1] or match[2] or match[3])
            if index is not None:
                found.append(Mention(match.start(), match.end(), index))
            if match[2]:
                found += self._listed_labels(text, match.end())
        return found

    def _listed_labels(self, text: str, start: int) -> list[Mention]:
        """Bare letters that go on with a list begun by "options A": `, B and C`."""
        found = []
        while match := re.compile(r"\s*(?:,\s*(?:and|or)?|and|or|/|&)\s*([A-Z])\b(?!')").match(text, start):
            index = self.letter_index(match[1])
            if index is not None:
                found.append(Mention(match.start(1), match.end(), index))
            start = match.end()
        return found

    def mentions(self, text: str) -> list[Mention]:
        """Every place of a canonical text that names a choice, with whether it rejects it.

        A label and the text of the same choice side by side are one mention.
        """
        merged: list[Mention] = []
        labels = self.label_mentions(text)
        texts = self.text_mentions(text)
        # "Option D" is a label even where D is a choice's text; "(b)" within a choice's text is none.
        labels = [one for one in labels if not any(_inside(one, other) and one != other for other in texts)]
        texts = [one for one in texts if not any(_inside(one, other) for other in labels)]
        for mention in sorted([*labels, *texts], key=lambda one: one.start):
            last = merged[-1] if merged else None
            if (
                last
                and last.index == mention.index
                and not re.search(r"[\w]", text[last.end : mention.start])
            ):
                merged[-1] = Mention(last.start, mention.end, last.index)
            else:
                merged.append(mention)
        return _judge(text, merged)


def _number_pattern(number: str) -> str:
    """A pattern for a number written with or without thousands separators and final zeros."""
    whole, _, fraction = number.partition(".")
    groups = re.sub(r"(?<=\d)(?=(?:\d{3})+$)", ",?", whole)
    return groups + (rf"\.{fraction}0*" if fraction else r"(?:\.0+)?")


def _pattern(words: tuple[str, ...], text: str) -> str:
    """A pattern that finds a choice in canonical text whatever stands between its words."""
    pieces = [
        _number_pattern(word) if re.fullmatch(r"\d+(?:\.\d+)?", word) else re.escape(word) for word in words
    ]
    mark = _ANY_MARK if re.search(r"[.!?;]\s+\S", text) else _INNER_MARK
    gap = f"(?:{mark}+(?:(?:an?|the){mark}+)?)"
    pattern = pieces[0]
    for before, word, piece in zip(words, words[1:], pieces[1:], strict=False):
        joined = "#" in (before, word)
        # "16 s" and "16s" are the same.
        optional = before[-1].isdigit() and word[0].isalpha()
        pattern += (r"[^\w#]*" if joined else f"{gap}?" if optional else gap) + piece
    head, tail = words[0], words[-1]
    guard_before = r"(?<![\w#])" + (r"(?<!\d[.,:/])" if head[0].isdigit() else "")
    guard_after = r"(?![\w#])" + (r"(?![.,:/]\d)" if tail[-1].isdigit() else "")
    if len(words) == 1 and len(head) == 1 and head.isalpha():
        # Note names: "E" is not in "E:7", and an article is not the note A.
        pattern = f"(?-i:{re.escape(text.strip()[0] if text.strip() else head)})"
        guard_after += r"(?![:/]\w)" + (r"(?!\s+(?!(?:n?or|and|is)\b)[a-z])" if head in "ai" else "")
    return guard_before + pattern + guard_after


def _inside(inner: Mention, outer: Mention) -> bool:
    return outer.start <= inner.start and inner.end <= outer.end


def _judge(text: str, mentions: list[Mention]) -> list[Mention]:
    """Mark the mentions that the text rejects, asks about or lists with rejected ones."""
    masked = list(text)
    for mention in mentions:
        masked[mention.start : mention.end] = "\x00" * (mention.end - mention.start)
    plain = "".join(masked)
    rejected = [_is_rejected(plain, mention) for mention in mentions]
    carried = [""] * len(mentions)
    for order in (range(1, len(mentions)), range(len(mentions) - 1, 0, -1)):
        for i in order:
            glued = _LIST_GLUE.match(text[mentions[i - 1].end : mentions[i].start])
            # "not X, Y or Z" and "X, Y and Z are wrong", but "unlike X, Y fits"
            if glued and order.step == 1 and rejected[i - 1]:
                negation = carried[i - 1] or _before(plain, mentions[i - 1])
                if negation and (re.search(r"\b(?:and|n?or)\b", glued[0]) or not _CONTRAST.match(negation)):
                    rejected[i], carried[i] = True, negation
            if glued and order.step == -1 and rejected[i] and _REJECTION.match(plain[mentions[i].end :]):
                rejected[i - 1] = True
    return [Mention(one.start, one.end, one.index, bad) for one, bad in zip(mentions, rejected, strict=True)]


def _before(plain: str, mention: Mention) -> str:
    """The negation before a mention in its clause, in lower case; empty without."""
    head = plain[: mention.start]
    breaks = [match.end() for match in _CLAUSE_BREAK.finditer(head)]
    match = _NEGATION.search(head[breaks[-1] if breaks else 0 :])
    return match[0].lower() if match else ""


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
