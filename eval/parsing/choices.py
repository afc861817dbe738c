r"""Parses the chosen option from an answer: deterministic, in tiers, never a guess.

The tiers, in order (the first tier with a result decides):

1. Thinking, markdown, HTML and special tokens are stripped; an echo of the whole list of options is dropped.
2. The content of `<answer>` tags, `\boxed{}` or a JSON field.
3. The whole text is an option's text, a letter, or both in agreement.
4. The text after a retraction ("wait", "scratch that"), if it names an option; the text before it is then ignored.
5. The last answer cue: "the answer is …", "I choose …", "… is correct".
6. One option alone has a line to itself; the text starts with a labelled letter.
7. One single letter in parentheses.
8. The last "it is …" or "sounds like …"; one option alone after the last colon, or as a sentence; "Yes, …" where
   yes is an option.
9. One option alone is asserted (`eval.parsing.polarity`); options named inside longer ones do not count.
10. One option alone is asserted in the last sentence.
11. No option is named in its own words, and only one is paraphrased (`eval.parsing.reworded`).

A refusal ("none of the above", "I cannot hear") ends the search after tier 5, unless a later cue gives an answer.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import cached_property

from eval.parsing.cues import (
    ALTERNATIVE,
    CLAUSE_END,
    CORRECT,
    CUE,
    HEDGE,
    LEAD,
    LONE_LETTER,
    MARKS,
    NOT_NEXT,
    REFUSAL,
    RETRACTION,
    ROLE,
    WEAK_CUE,
    WHETHER,
)
from eval.parsing.markup import marked_answer, shortened, strip_markdown, strip_tags, strip_thinking
from eval.parsing.mentions import Mention, Options, canonical, options_for
from eval.parsing.normalise import answers_match, digits_for_number_words, normalise_answer, parse_yes_no
from eval.parsing.polarity import chosen, judge, mask, sentences
from eval.parsing.reworded import reworded

__all__ = ["answers_match", "digits_for_number_words", "normalise_answer", "parse_choice", "parse_yes_no"]

PARSER_VERSION = "7"

_WHETHER_LENGTH = 200  # characters before a cue in which "whether the" is looked for
_LETTER = re.compile(r"""(?P<open>["'(\[]*)(?P<letter>[A-Za-z])(?![\w#])(?P<close>["')\]]*)""")
_AFTER_LETTER = re.compile(
    r"\s*(?:$|[.,:;!)\]}\n]|[-\u2013\u2014/|]\s|\((?!\w\))|\s(?:because|since|as|is|with|for|due|based"
    r"|which|given|here)\b)"
)


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """Find which choice an answer picks.

    Args:
        text: The answer of a model.
        choices: The options in the order of their letters A, B, … as shown to the model.

    Returns:
        The index of the choice (of the first of equal ones), or None where the answer picks none or no single one.
    """
    if not choices:
        return None
    options = options_for(tuple(choices))
    body = ROLE.sub("", strip_markdown(strip_thinking(canonical(shortened(text)))))
    marked = marked_answer(body)
    if marked is not None:
        # The model has marked its answer; the rest of the text does not count.
        return _read(strip_tags(marked), options)
    return _read(_drop_listing(ROLE.sub("", strip_tags(body)), options), options)


def _read(text: str, options: Options) -> int | None:
    """Tiers 3 to 11 on clean text."""
    text = text.strip()
    if not text:
        return None
    whole = _whole(text, options)
    if whole is not None:
        return whole if whole >= 0 else None
    said = _Said(text, options)
    retracted = [one.end() for one in RETRACTION.finditer(text) if not said.covered[one.start()]]
    if retracted and any(one.start >= retracted[-1] and not one.rejected for one in said.mentions):
        return _read(text[retracted[-1] :], options)
    found = _last_cue(said)
    if found is not None:
        return found if found >= 0 else None
    if _refuses(said):
        return None
    for tier in (
        _own_line,
        _parenthesised,
        _weak_cue,
        _after_colon,
        _own_sentence,
        _only_mention,
        _last_sentence,
    ):
        found = tier(said)
        if found is not None:
            return found if found >= 0 else None
    return None if said.mentions else reworded(text, options)


# Result of a tier if the text gives an answer that is not a single choice.
_CONFLICT = -1


class _Said:
    """A clean text with the choices that it names, and its sentences, each found once.

    Attributes:
        text: The text.
        options: The choices.
        mentions: Where the text names a choice, in order of their start.
        covered: Per character whether it belongs to a mention.
        inner: Per character whether a mention starts before it and ends after it.
        reached: Per character whether `inner` holds, or a mention ends right before it.
        rejected: Per character whether it belongs to a rejected mention.
    """

    def __init__(self, text: str, options: Options) -> None:
        self.text, self.options = text, options
        self.mentions = judge(text, options.mentions(text))
        self.starts = [one.start for one in self.mentions]
        self.covered, self.inner, self.reached, self.rejected = (bytearray(len(text) + 1) for _ in range(4))
        for one in self.mentions:
            ones = b"\1" * (one.end - one.start)
            self.covered[one.start : one.end] = ones
            self.inner[one.start + 1 : one.end] = ones[1:]
            self.reached[one.start + 1 : one.end + 1] = ones
            if one.rejected:
                self.rejected[one.start : one.end] = ones

    @cached_property
    def sentences(self) -> list[tuple[int, int]]:
        """Spans of the sentences."""
        return sentences(self.text, self.mentions)

    @cached_property
    def _sentence_ends(self) -> list[int]:
        return [end for _, end in self.sentences]

    @cached_property
    def _last_refusals(self) -> list[int]:
        """Per sentence where the last refusal or hedge in it starts; -1 without."""
        found = []
        for begin, end in self.sentences:
            sentence = self.text[begin:end]
            starts = [one.start() for words in (REFUSAL, HEDGE) for one in words.finditer(sentence)]
            found.append(begin + max(starts) if starts else -1)
        return found

    def mentions_in(self, start: int, end: int) -> list[Mention]:
        """The mentions that start between two places."""
        return self.mentions[bisect_left(self.starts, start) : bisect_left(self.starts, end)]

    def sentence_at(self, start: int) -> int | None:
        """Number of the first sentence that ends after a place."""
        at = bisect_right(self._sentence_ends, start)
        return at if at < len(self._sentence_ends) else None

    def refuses_from(self, start: int) -> bool:
        """Whether a refusal or a hedge starts between a place and the end of its sentence."""
        at = self.sentence_at(start)
        return at is not None and self._last_refusals[at] >= start

    def asserted_from(self, start: int) -> list[Mention]:
        """Asserted mentions from a place to the end of its sentence."""
        at = self.sentence_at(start)
        end = len(self.text) if at is None else self._sentence_ends[at]
        return [one for one in self.mentions_in(start, end) if not one.rejected]


def _drop_listing(text: str, options: Options) -> str:
    """Drop an echo of all options, one a line; fewer lines than options are left alone."""
    lines = text.split("\n")
    labels = []
    for line in lines:
        match = re.match(r"^[\s*-]*\(?([A-Z])[).:]\s*(.*)$", line)
        same = match and options.equal_to(match[2]) is not None
        labels.append(options.letter_index(match[1]) if match and same else None)
    count = len(options.texts)
    letters = [options.same_as[index] for index in range(count)]
    for start in range(len(lines) - count + 1):
        if count > 1 and labels[start : start + count] == letters:
            return "\n".join(lines[:start] + lines[start + count :])
    return text


def _letter_at(text: str, options: Options) -> tuple[int, int, bool] | None:
    """A label at the start of a text: (choice, end, whether brackets mark it as a label)."""
    match = _LETTER.match(text)
    index = options.letter_index(match["letter"]) if match else None
    if match is None or index is None:
        return None
    marked = "(" in match["open"] or "[" in match["open"] or match["close"][:1] == ")"
    return index, match.end(), marked


def _start(text: str, options: Options) -> tuple[int, int] | None:
    """The choice that a text starts with, and where it ends; `_CONFLICT` where letter and text disagree."""
    # First without skipping words such as "it is", which may belong to the choice.
    for lead in (MARKS, LEAD):
        match = lead.match(text)
        found = _start_at(text, match.end() if match else 0, options)
        if found:
            return (_CONFLICT, found[1]) if _alternative(text[found[1] :], found[0], options) else found
    return None


def _alternative(rest: str, index: int, options: Options) -> bool:
    """Whether a second choice is offered right after the first: "A or B", "rain and wind"."""
    glue = ALTERNATIVE.match(rest)
    if not glue:
        return False
    other = _start_at(rest, glue.end(), options)
    if other is None or other[0] == index:
        return False
    ends = re.match(r"""^["')\]*.]*\s*(?:$|[,/;\n]|or\b|and\b)""", rest[other[1] :])
    return bool(ends) or bool(re.search(r"or|and|/|&", glue[0]))


def _start_at(text: str, offset: int, options: Options) -> tuple[int, int] | None:
    rest = text[offset:]
    noun = re.match(
        r"(?:the\s+)?(?:option|choice|letter|answer)\s+(?=[\"'(\[]*[A-Za-z]\b)", rest, re.IGNORECASE
    )
    body = rest[noun.end() :] if noun else rest
    shift = offset + (noun.end() if noun else 0)
    letter = _letter_at(body, options)
    if letter:
        index, end, marked = letter
        gap = re.match(r"[\s.,:;()\]|\"'\u2013\u2014-]*(?:which\s+says\s+|that\s+is,?\s+)?", body[end:])
        after = end + (gap.end() if gap else 0)
        named = options.text_at(body, after) if after > end or marked else None
        if named and named.index == index:
            return index, shift + named.end
    else:
        marked, named = False, None
    direct = None if marked or noun else options.text_at(rest, 0)
    if direct:
        return direct.index, offset + direct.end
    if not letter:
        return None
    bare_article = body[0] in "aAI" and not marked and not noun
    if named and named.index != index and (marked or re.match(r"\s*[.:)\]]", body[end:])):
        return _CONFLICT, shift + named.end
    if not (marked or _AFTER_LETTER.match(body[end:])) or (
        bare_article and re.match(r"[ \t]+\w", body[end:])
    ):
        return None
    return index, shift + end


def _whole(text: str, options: Options) -> int | None:
    """Tier 3: the text is a choice and nothing else."""
    words = re.findall(r"[^\W_]+", text)
    if len(set(words)) == 1 and len(words[0]) == 1 and not re.search(r"^[^#]*\w[#\u266f]", text):
        exact = options.equal_to(text)
        return exact if exact is not None else options.letter_index(words[0])
    equal = options.equal_to(text)
    if equal is not None and not re.match(r"^\W*\w[)\]]\W*$", text):
        return equal
    start = _start(text, options)
    if start:
        rest = text[start[1] :]
        label = re.fullmatch(r"\W*(?:option\s+|choice\s+)?([A-Za-z])\W*", rest, re.IGNORECASE)
        if not re.search(r"[\w#]", rest) or (label and options.letter_index(label[1]) == start[0]):
            return start[0]
    return None


def _last_cue(said: _Said) -> int | None:
    """Tier 5: the last cue that leads to one choice, or `_CONFLICT` where it leads to a refusal."""
    text, options = said.text, said.options
    events: list[tuple[int, int]] = []
    for cue in CUE.finditer(text):
        rest = text[cue.end() :]
        if said.reached[cue.end()]:
            continue
        asked = WHETHER.search(text[max(0, cue.start() - _WHETHER_LENGTH) : cue.start()])
        start = None if asked else _start(rest, options)
        if start:
            if not re.match(r"^[\"')\]*]*\s*\?", rest[start[1] :]):
                events.append((cue.end(), start[0]))
            continue
        if asked or NOT_NEXT.match(rest):
            continue
        inside = said.asserted_from(cue.end())
        if len({one.index for one in inside}) == 1:
            events.append((cue.end(), inside[0].index))
        elif not inside and said.refuses_from(cue.end()):
            events.append((cue.end(), _CONFLICT))
    for mention in [*said.mentions, *options.common_mentions(text)]:
        if not mention.rejected and CORRECT.match(text[mention.end :]):
            events.append((mention.end, _CONFLICT if _has_alternative(said, mention) else mention.index))
    for match in LONE_LETTER.finditer(text):
        index = options.letter_index(match[1])
        if index is not None and not said.covered[match.start()] and CORRECT.match(text[match.end() :]):
            events.append((match.end(), index))
    return max(events)[1] if events else None


def _has_alternative(said: _Said, mention: Mention) -> bool:
    """Whether another choice stands right before a mention: "rain or" before "wind is correct"."""
    before = said.mentions[: bisect_left(said.starts, mention.start)][-3:]
    return any(
        one.index != mention.index
        and not one.rejected
        and ALTERNATIVE.fullmatch(said.text[one.end : mention.start])
        for one in before
    )


def _refuses(said: _Said) -> bool:
    """Whether a text refuses to answer, the wording of the choices themselves aside."""
    masked = mask(said.text, said.mentions)
    if REFUSAL.search(masked):
        return True
    asserted = [one.start for one in said.mentions if not one.rejected]
    last_begin, breaks = -1, [0]
    for hedge in HEDGE.finditer(masked):
        sentence = said.sentence_at(hedge.start())
        assert sentence is not None  # a hedge is no white space, so it stands in a sentence
        begin, end = said.sentences[sentence]
        if begin != last_begin:
            marks = (begin + one.start() for one in CLAUSE_END.finditer(masked[begin:end]))
            last_begin, breaks = begin, [begin, *marks, end]
        at = bisect_right(breaks, hedge.start())
        first, last = (bisect_left(asserted, place) for place in breaks[at - 1 : at + 1])
        # Nothing is asserted from this sentence on, outside the clause of the hedge.
        if bisect_left(asserted, begin) == first and last == len(asserted):
            return True
    return False


def _own_line(said: _Said) -> int | None:
    """Tier 6: one choice alone has a line to itself, or the first line alone has a label."""
    text, options = said.text, said.options
    lines = {_whole(line, options) for line in text.split("\n")} - {None}
    if lines:
        return lines.pop() if len(lines) == 1 else None
    first, _, rest = text.partition("\n")
    others = {
        options.letter_index(match[1]) for match in re.finditer(r"(?m)^[\s*-]*\(?([A-Z])[).:](?=\s)", rest)
    }
    label = re.match(
        r"^\s*\(?([A-Z])(?:[).:;,](?=\s)|\)|\s+[-\u2013\u2014]|,?\s+(?:because|since|as)\b)", first
    )
    index = options.letter_index(label[1]) if label else None
    if index is None or others - {index, None}:
        return None
    start = _start(text, options)
    if start is None or any(one.rejected for one in said.mentions_in(0, start[1])):
        return None
    return start[0]


def _parenthesised(said: _Said) -> int | None:
    """Tier 7: one single letter in parentheses, not rejected."""
    found = {}
    for match in re.finditer(r"[(\[]([A-Za-z])[)\]]", said.text):
        index = said.options.letter_index(match[1])
        if index is not None:
            found[index] = not said.rejected[match.start()]
    asserted = [index for index, fine in found.items() if fine]
    return asserted[0] if len(found) == 1 and asserted else None


def _weak_cue(said: _Said) -> int | None:
    """Tier 8: the last "it is", "sounds like", "therefore" with a choice right after it."""
    text, found = said.text, None
    for cue in WEAK_CUE.finditer(text):
        if said.inner[cue.end()] or NOT_NEXT.match(text[cue.end() :]):
            continue
        start = _start(text[cue.end() :], said.options)
        if start is None:
            continue
        begin, end = cue.end(), cue.end() + start[1]
        asked = re.match(r"^[\"')\]*]*\s*\?", text[end:])
        if not asked and not any(one.rejected for one in said.mentions_in(begin, end)):
            found = start[0]
    return found


def _after_colon(said: _Said) -> int | None:
    """Tier 8: the text ends with a colon and one choice alone: "the latter fits: rain"; but not "ruled out: rain"."""
    text, options = said.text, said.options
    colons = [one for one in re.finditer(r":(?=\s)", text) if not said.covered[one.start()]]
    if not colons or text.endswith("?"):
        return None
    heading = text[: colons[-1].start()].rpartition("\n")[2]
    rest = text[colons[-1].end() :]
    # "A) Yes: no" is about a choice, it gives none.
    if (
        any(one.rejected for one in said.mentions_in(colons[-1].end(), len(text)))
        or _whole(heading, options) is not None
    ):
        return None
    return _whole(rest, options)


def _own_sentence(said: _Said) -> int | None:
    """Tier 8: one choice alone is a sentence, or the text starts with a "yes" or "no" that is a choice."""
    text, options = said.text, said.options
    parts = [text[begin:end] for begin, end in said.sentences]
    alone = {_whole(one, options) for one in parts if not NOT_NEXT.match(one) and "?" not in one[-3:]} - {
        None
    }
    if alone:
        return alone.pop() if len(alone) == 1 else None
    word = re.search(r"\w", text)
    first = [one for one in options.common_mentions(text) if word is None or one.start <= word.start()]
    if first and re.match(r"\s*(?:[,.:;!(|]|[-\u2013\u2014]\s)", text[first[0].end :]):
        return first[0].index
    return None


def _only_mention(said: _Said) -> int | None:
    """Tier 9: exactly one choice is asserted."""
    return chosen(said.mentions)


def _last_sentence(said: _Said) -> int | None:
    """Tier 10: exactly one choice is asserted in the last sentence."""
    return chosen(said.mentions_in(*said.sentences[-1])) if said.sentences else None
