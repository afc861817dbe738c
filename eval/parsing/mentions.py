"""Where an answer names the choices of a question, by text, label or place in the list."""

import re
import string
import unicodedata
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from eval.parsing.normalise import digits_for_number_words, words_of

# Maps quotation marks, brackets and full stops of other scripts to the ASCII ones that the patterns use.
_PLAIN = str.maketrans(
    dict.fromkeys("\u2018\u2019\u201a\u00b4", "'")
    | dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb\u300c\u300d\u300e\u300f", '"')
    | {"\u3010": "[", "\u3011": "]", "\u27e8": "<", "\u27e9": ">", "\u3002": ".", "\u3001": ","}
)
YES_MARK, NO_MARK = "\ue001", "\ue000"
"""Replacements of ticks and crosses: private-use characters, which are neither words nor punctuation."""
# "one" that is a pronoun, not a number.
_PRONOUN = re.compile(
    r"\b((?:this|that|which|right|correct|best|only|no|any|every|each|first|second|third|fourth|fifth|sixth|seventh"
    r"|eighth|\d(?:st|nd|rd|th)|last|final|wrong|other|another"
    r"|likely|probable|plausible|suitable|appropriate|fitting|accurate)\s+)"
    r"one\b|\bone(?=\s+(?:of|that|which|saying|labell?ed|might|could|may|can|should|must|would)\b)",
    re.IGNORECASE,
)
# Choices that are everyday words of any sentence: they count after a cue, not wherever they turn up.
_COMMON = frozenset(["no", "not", "none", "yes", "it", "is", "or", "and", "an", "the"])
# What may stand between two words of a choice: any marks, or any but the end of a sentence.
_ANY_MARK = r"(?:[^\w#]|_)"
_INNER_MARK = r"(?:[^\w#.!?;\n]|_|[.!?;](?=\S))"

_NOUN = (
    r"(?i:options?|choices?|letter|alternative|item|statement|response"
    r"|answer\s+choice|answer(?=\s*['\"(\[#:]*[A-Z]\b))"
)
_LABEL = re.compile(
    r"[(\[{<]\s*([A-Za-z])\s*[)\]}>]"
    r"|(?<![\w'])['\"]([A-Z])['\"](?![\w'])"
    rf"|\b{_NOUN}[\s#:.-]*[\"'(\[]*([A-Z]|[b-hj-z])(?![\w'-])"
    r"|^[ \t>*-]*([A-Z])(?=[).:](?:\s|$))",
    re.MULTILINE,
)
# A capital letter that stands alone, in any script's text: `so B.`, `A fits`, but not `A dog`, `vitamin C`, `A minor`.
_BARE = re.compile(
    r"(?<!N/)(?<![A-Za-z0-9_'#.&+\u00c0-\u024f-])([A-Z])(?![A-Za-z0-9_'#&+\u00c0-\u024f-])"
    r"(?!\s+(?:major|minor|flat|sharp|natural|maj|min|string|chord|note|section)\b)"
)
_NO_LABEL = re.compile(
    r"\b(?:vitamin|plan|type|grade|key\s+(?:of|is)|in|hepatitis|chord|note|string|section|part|verse"
    r"|group|class)\s+$",
    re.I,
)
# A capital letter within a choice, such as "C major" or "grade B", that an answer may give alone. An initial
# ("J. Salinger"), an article ("A Western") and the start of a chord ("A:maj7") do not count.
_OWN_LETTER = re.compile(
    r"(?<![\w'.])(?!A\s+(?!(?i:major|minor|flat|sharp|natural|maj|min|string|chord|note|section)\b)[^\W\d_]{2})"
    r"([A-Z])(?![\w'#]|[:/][\w(]|\.(?=\s*\w))"
)
_NO_LABEL_LENGTH = 40  # the longest match of `_NO_LABEL`
_LEADING_ARTICLE = re.compile(r"(?:an?|the)\s+", re.IGNORECASE)
# Words after a capital A or I that is a label, such as `A is right`. Before other lower-case words A and I are words.
_AFTER_LABEL = re.compile(
    r"\s+(?!\w+ly\s*(?:[.,;!]|$)|\w+(?:s|ed)\s+(?:the|what|all|best|better|with)\b|(?:is|are|was|were|do|did|seems?|fits?"
    r"|match\w*|looks?|stands|should|would|could|can|has|does|gets|makes|appears|sounds|best|as|because"
    r"|since|given|based|due|for|and|or|but|to|from|not|rather|instead|over|than|with|which|then|while"
    r"|whereas|though|it|the|my|this|that|these)\b)[a-z]"
)
_NEXT_LABEL = re.compile(r"\s*(?:,\s*(?:and|or)?|and|or|/|&)\s*([A-Z])\b(?!')")
_PLACES = {
    word: place
    for place, words in enumerate(
        (("first", "1st"), ("second", "2nd"), ("third", "3rd"), ("fourth", "4th"), ("fifth", "5th"), ("sixth", "6th"),
         ("seventh", "7th"), ("eighth", "8th"))
    )
    for word in words
}  # fmt: skip
_PLACE = re.compile(
    rf"\bthe\s+({'|'.join(_PLACES)}|last|final)\s+(?:(?:listed|given|possible|answer)\s+)?"
    r"(?:options?|choices?|alternative|someone|one(?!\s+to)|answer(?!\s*(?:is|:))|(?:of"
    r"|in)\s+the\s+(?:\w+\s+)?(?:options|choices|list))\b"
    r"|\b(?:options?|choice|alternative)\s*(?:number\s*|no\.\s*)?#?(\d)\b(?![.,]?\d)",
    re.IGNORECASE,
)


def canonical(text: str) -> str:
    """Normalise width, quotes, number words and control characters; keep case and punctuation."""
    text = unicodedata.normalize("NFKC", text).translate(_PLAIN).replace("\x00", " ")
    text = re.sub(r"[\r\x0b\x0c\x1c-\x1e\x85\u2028\u2029]", "\n", text)
    # Long runs of one character or of white space say no more than shorter ones, but cost time in every pattern.
    text = re.sub(r"(?s)(.)\1{99,}", lambda run: run[1] * 99, text)
    text = re.sub(r"\s{20,}", lambda run: "\n\n" if "\n" in run[0] else " ", text)
    text = re.sub(r"[\u200b-\u200f\u2060\ufeff\xad]", "", text)
    text = re.sub(r"[\u2713\u2714\u2705\u2611\U0001f5f8]", YES_MARK, text)
    text = re.sub(r"[\u2717\u2718\u2715\u2716\u274c\u274e\u2612]", NO_MARK, text)
    # Arrows of lists and emoji around an answer say nothing about which it is.
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
        rejected: Whether the text says that this is not the answer, or asks whether it is.
        weighed: Whether the text only considers it before it names another choice.
    """

    start: int
    end: int
    index: int
    rejected: bool = False
    weighed: bool = False


@dataclass(frozen=True)
class Options:
    """The choices of one question, ready to be searched for.

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
        """For each choice the index of the first one with the same words: a choice listed twice is one choice."""
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

    @cached_property
    def _by_first_letter(self) -> dict[str, list[tuple[int, re.Pattern[str]]]]:
        """The patterns by the first character of what they match, in lower case."""
        found = defaultdict(list)
        for index, pattern in self._patterns:
            found[self.words[index][0][0]].append((index, pattern))
        return found

    def text_at(self, text: str, start: int) -> Mention | None:
        """The longest choice whose text stands at `start` (an article may stand before it)."""
        best: Mention | None = None
        article = _LEADING_ARTICLE.match(text, start)
        for begin in {start, article.end() if article else start}:
            for index, pattern in self._by_first_letter.get(text[begin : begin + 1].casefold()[:1], ()):
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
        """Every place with a choice that is an everyday word ("no"), whether or not the choice is meant."""
        common = [(index, pattern) for index, pattern in self._patterns if self._is_common(index)]
        return [
            Mention(*match.span(), index) for index, pattern in common for match in pattern.finditer(text)
        ]

    def _is_common(self, index: int) -> bool:
        return len(self.words[index]) == 1 and self.words[index][0] in _COMMON

    def text_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by its text, longest match first, none overlapping."""
        found: list[Mention] = []
        taken = bytearray(len(text))
        length = len(text.rstrip())
        for index, pattern in self._patterns:
            if self._is_common(index):
                continue
            marks = self._last_marks[index]
            for match in pattern.finditer(text):
                start, end = match.span()
                if taken.find(1, start, end) >= 0:
                    continue
                # The full stop of "It rains." does not end a sentence.
                if marks and text.startswith(marks, end) and length > end + len(marks):
                    end += len(marks)
                taken[start:end] = b"\1" * (end - start)
                found.append(Mention(start, end, index))
        return sorted(found, key=lambda mention: mention.start)

    @cached_property
    def _last_marks(self) -> list[str]:
        """Per choice the punctuation at its end."""
        return [re.sub(r"(?s)^.*\w", "", canonical(text.rstrip())) for text in self.texts]

    def label_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by its label: `(B)`, `option B`, `B.` in front of a line, a lone `B`."""
        found = []
        for match in _LABEL.finditer(text):
            index = self.letter_index(match[1] or match[2] or match[3] or match[4])
            # "I would answer A smooth stop" has an article where "option A" has a label.
            article = match[3] == "A" and match[0].lower().startswith("answer")
            if article and _AFTER_LABEL.match(text, match.end()):
                continue
            if index is not None:
                found.append(Mention(match.start(), match.end(), index))
            if match[3]:
                found += self._listed_labels(text, match.end())
        taken = bytearray(len(text))
        for one in found:
            taken[one.start : one.end] = b"\1" * (one.end - one.start)
        bare = list(_BARE.finditer(text))
        # Where one letter may be a note or a grade, the others may be one as well.
        for match in bare if self._own_letters.isdisjoint(one[1] for one in bare) else ():
            index = self.letter_index(match[1])
            word = match[1] in "AI" and _AFTER_LABEL.match(text, match.end())
            before = text[max(0, match.start() - _NO_LABEL_LENGTH) : match.start()]
            if index is None or word or _NO_LABEL.search(before):
                continue
            if not taken[match.start()]:
                found.append(Mention(match.start(), match.end(), index))
        return found

    @cached_property
    def _own_letters(self) -> set[str]:
        """Lone capital letters that choices hold themselves, as keys and grades do: these are no labels."""
        return {one for text in self.texts for one in _OWN_LETTER.findall(text)}

    def place_mentions(self, text: str) -> list[Mention]:
        """Every place that names a choice by where it stands: "the second option", "option 2"."""
        said = {word for words in self.words for word in words}
        found = []
        for match in _PLACE.finditer(text):
            # "The second one" may be a choice's own words, as "option 2" may.
            someone = re.search(r"\bone$", match[0].replace("someone", "one"))
            if (someone and match[1].lower() in said) or match[2] in said:
                continue
            last = len(self.texts) - 1
            place = int(match[2]) - 1 if match[2] else _PLACES.get(match[1].lower(), last)
            if 0 <= place <= last:
                found.append(Mention(match.start(), match.end(), self.same_as[place]))
        return found

    def _listed_labels(self, text: str, start: int) -> list[Mention]:
        """Bare letters that continue a list begun by "options A": `, B and C`."""
        found = []
        while match := _NEXT_LABEL.match(text, start):
            index = self.letter_index(match[1])
            if index is not None:
                found.append(Mention(match.start(1), match.end(), index))
            start = match.end()
        return found

    def mentions(self, text: str) -> list[Mention]:
        """Every place of a canonical text that names a choice; label and text of one choice side by side are one."""
        merged: list[Mention] = []
        labels = [*self.label_mentions(text), *self.place_mentions(text)]
        texts = self.text_mentions(text)
        # "Option D" is a label even where D is a choice's text; "(b)" within a choice's text is none.
        same = set(texts)
        labels = [one for one in labels if one in same] + _outside(
            [one for one in labels if one not in same], texts
        )
        texts = _outside(texts, labels)
        kinds = {mention: "label" for mention in labels} | {mention: "text" for mention in texts}
        last_kind = ""
        for mention in sorted(kinds, key=lambda one: one.start):
            last = merged[-1] if merged else None
            joined = last and re.fullmatch(
                r"\W*(?:(?:an?|the)\s+)?", text[last.end : mention.start], re.IGNORECASE
            )
            if last and joined and last.index == mention.index and kinds[mention] != last_kind:
                merged[-1] = Mention(last.start, mention.end, last.index)
            else:
                merged.append(mention)
            last_kind = kinds[mention]
        return merged


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


def _outside(mentions: Sequence[Mention], others: Sequence[Mention]) -> list[Mention]:
    """The mentions that are not a part of one of the others."""
    others = sorted(others, key=lambda one: one.start)
    starts = [one.start for one in others]
    reach, furthest = [-1], -1
    for one in others:
        furthest = max(furthest, one.end)
        reach.append(furthest)
    return [one for one in mentions if reach[bisect_right(starts, one.start)] < one.end]


@lru_cache(maxsize=4096)
def options_for(choices: tuple[str, ...]) -> Options:
    """Options of a question, built once per set of choices."""
    return Options(choices)
