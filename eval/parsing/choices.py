r"""Reading the chosen option out of what a model said: deterministic, tiered, and never a guess.

The tiers, in order (the first that yields decides):

1. Thinking, markdown, HTML and special tokens are stripped; an echo of the whole list of options is dropped.
2. What stands in `<answer>` tags, `\boxed{}` or a JSON field.
3. The whole text is an option's text, a letter, or both in agreement.
4. What follows a retraction ("wait", "scratch that") and names an option is read alone.
5. The last answer cue: "the answer is …", "I choose …", "… is correct".
6. One option alone has a line to itself; the text starts with a labelled letter.
7. One single letter in parentheses.
8. The last "it is …" or "sounds like …"; one option alone after the last colon, or as a sentence; "Yes, …" where
   yes is an option.
9. One option alone is asserted (`eval.parsing.polarity`); options named inside longer ones do not count.
10. One option alone is asserted in the last sentence.
11. No option is named as it stands, and one alone is told in other words (`eval.parsing.reworded`).

A refusal ("none of the above", "I cannot hear") ends the search after tier 5 unless a later cue answers after all.
"""

import re
from collections.abc import Sequence

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
from eval.parsing.markup import marked_answer, strip_markdown, strip_tags, strip_thinking
from eval.parsing.mentions import Mention, Options, canonical, options_for
from eval.parsing.normalise import answers_match, digits_for_number_words, normalise_answer, parse_yes_no
from eval.parsing.polarity import chosen, judge, sentences
from eval.parsing.reworded import reworded

__all__ = ["answers_match", "digits_for_number_words", "normalise_answer", "parse_choice", "parse_yes_no"]

PARSER_VERSION = "5"

_LETTER = re.compile(r"""(?P<open>["'(\[]*)(?P<letter>[A-Za-z])(?![\w#])(?P<close>["')\]]*)""")
_AFTER_LETTER = re.compile(
    r"\s*(?:$|[.,:;!)\]}\n]|[-\u2013\u2014/|]\s|\((?!\w\))|\s(?:because|since|as|is|with|for|due|based"
    r"|which|given|here)\b)"
)


def parse_choice(text: str, choices: Sequence[str]) -> int | None:
    """Find which choice an answer picks.

    Args:
        text: What a model said.
        choices: The options in the order of their letters A, B, … as shown to the model.

    Returns:
        The index of the choice (of the first of equal ones), or None where the answer picks none or no single one.
    """
    if not choices:
        return None
    options = options_for(tuple(choices))
    body = ROLE.sub("", strip_markdown(strip_thinking(canonical(text))))
    marked = marked_answer(body)
    if marked is not None:
        # The model has marked its answer; what it said elsewhere does not count.
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
    mentions = judge(text, options.mentions(text))
    retracted = [one.end() for one in RETRACTION.finditer(text) if not _within(one.start(), mentions)]
    if retracted and any(one.start >= retracted[-1] and not one.rejected for one in mentions):
        return _read(text[retracted[-1] :], options)
    found = _last_cue(text, mentions, options)
    if found is not None:
        return found if found >= 0 else None
    if _refuses(text, mentions):
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
        found = tier(text, mentions, options)
        if found is not None:
            return found if found >= 0 else None
    return None if mentions else reworded(text, options)


# A tier's answer that there is an answer, but not a single choice.
_CONFLICT = -1


def _within(place: int, mentions: Sequence[Mention]) -> bool:
    return any(one.start <= place < one.end for one in mentions)


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
    # With as few of the words before the choice as it takes: "it is" may belong to the choice.
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


def _last_cue(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 5: the last cue that leads to one choice, or `_CONFLICT` where it leads to a refusal."""
    events: list[tuple[int, int]] = []
    for cue in CUE.finditer(text):
        rest = text[cue.end() :]
        if any(one.start < cue.end() <= one.end for one in mentions):
            continue
        start = None if WHETHER.search(text[: cue.start()]) else _start(rest, options)
        if start:
            if not re.match(r"^[\"')\]*]*\s*\?", rest[start[1] :]):
                events.append((cue.end(), start[0]))
            continue
        if NOT_NEXT.match(rest) or WHETHER.search(text[: cue.start()]):
            continue
        inside = _in_sentence(text, cue.end(), mentions)
        if len({one.index for one in inside}) == 1:
            events.append((cue.end(), inside[0].index))
            continue
        said = _sentence_from(text, cue.end(), mentions)
        if not inside and (REFUSAL.search(said) or HEDGE.search(said)):
            events.append((cue.end(), _CONFLICT))
    for mention in [*mentions, *options.common_mentions(text)]:
        if not mention.rejected and CORRECT.match(text[mention.end :]):
            several = any(
                one.index != mention.index
                and not one.rejected
                and ALTERNATIVE.fullmatch(text[one.end : mention.start])
                for one in mentions
            )
            events.append((mention.end, _CONFLICT if several else mention.index))
    for match in LONE_LETTER.finditer(text):
        index = options.letter_index(match[1])
        if index is not None and not _within(match.start(), mentions) and CORRECT.match(text[match.end() :]):
            events.append((match.end(), index))
    return max(events)[1] if events else None


def _sentence_from(text: str, start: int, mentions: list[Mention]) -> str:
    ends = [end for _, end in sentences(text, mentions) if end > start]
    return text[start : ends[0] if ends else len(text)]


def _in_sentence(text: str, start: int, mentions: list[Mention]) -> list[Mention]:
    """Asserted mentions from a place to the end of its sentence."""
    end = start + len(_sentence_from(text, start, mentions))
    return [one for one in mentions if start <= one.start < end and not one.rejected]


def _refuses(text: str, mentions: list[Mention]) -> bool:
    """Whether a text refuses to answer, the wording of the choices themselves aside."""
    plain = list(text)
    for one in mentions:
        plain[one.start : one.end] = "\x00" * (one.end - one.start)
    masked = "".join(plain)
    if REFUSAL.search(masked):
        return True
    asserted = [one.start for one in mentions if not one.rejected]
    for hedge in HEDGE.finditer(masked):
        begin, end = next(span for span in sentences(text, mentions) if span[0] <= hedge.start() < span[1])
        breaks = [begin, *(begin + one.start() for one in CLAUSE_END.finditer(masked[begin:end])), end]
        clause = next((a, b) for a, b in zip(breaks, breaks[1:], strict=False) if a <= hedge.start() < b)
        if not any(at >= begin and not clause[0] <= at < clause[1] for at in asserted):
            return True
    return False


def _own_line(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 6: one choice alone has a line to itself, or the first line alone has a label."""
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
    if start is None or any(one.rejected and one.start < start[1] for one in mentions):
        return None
    return start[0]


def _parenthesised(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 7: one single letter in parentheses, not rejected."""
    found = {}
    for match in re.finditer(r"[(\[]([A-Za-z])[)\]]", text):
        index = options.letter_index(match[1])
        if index is not None:
            inside = [one for one in mentions if one.start <= match.start() < one.end]
            found[index] = all(not one.rejected for one in inside)
    asserted = [index for index, fine in found.items() if fine]
    return asserted[0] if len(found) == 1 and asserted else None


def _weak_cue(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 8: the last "it is", "sounds like", "therefore" with a choice right after it."""
    found = None
    for cue in WEAK_CUE.finditer(text):
        if any(one.start < cue.end() < one.end for one in mentions) or NOT_NEXT.match(text[cue.end() :]):
            continue
        start = _start(text[cue.end() :], options)
        if start is None:
            continue
        begin, end = cue.end(), cue.end() + start[1]
        overlapping = [one for one in mentions if begin <= one.start < end]
        asked = re.match(r"^[\"')\]*]*\s*\?", text[end:])
        if not asked and not any(one.rejected for one in overlapping):
            found = start[0]
    return found


def _after_colon(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 8: the text ends with a colon and one choice alone: "the latter fits: rain"; but not "ruled out: rain"."""
    colons = [one for one in re.finditer(r":(?=\s)", text) if not _within(one.start(), mentions)]
    if not colons or text.endswith("?"):
        return None
    heading = text[: colons[-1].start()].rpartition("\n")[2]
    rest = text[colons[-1].end() :]
    # "A) Yes: no" is about a choice, it gives none.
    if (
        any(one.rejected and one.start >= colons[-1].end() for one in mentions)
        or _whole(heading, options) is not None
    ):
        return None
    return _whole(rest, options)


def _own_sentence(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 8: one choice alone is a sentence, or the text starts with a "yes" or "no" that is a choice."""
    said = [text[begin:end] for begin, end in sentences(text, mentions)]
    alone = {_whole(one, options) for one in said if not NOT_NEXT.match(one) and "?" not in one[-3:]} - {None}
    if alone:
        return alone.pop() if len(alone) == 1 else None
    first = [one for one in options.common_mentions(text) if not re.search(r"\w", text[: one.start])]
    if first and re.match(r"\s*(?:[,.:;!(|]|[-\u2013\u2014]\s)", text[first[0].end :]):
        return first[0].index
    return None


def _only_mention(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 9: exactly one choice is asserted."""
    return chosen(mentions)


def _last_sentence(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 10: exactly one choice is asserted in the last sentence."""
    spans = sentences(text, mentions)
    if not spans:
        return None
    begin, end = spans[-1]
    return chosen([one for one in mentions if begin <= one.start < end])
