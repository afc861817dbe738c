r"""Reading the chosen option out of what a model said: deterministic, tiered, and never a guess.

The tiers, in order (the first that yields decides):

1. `<think>` blocks and markdown are stripped; an echo of the whole list of options is dropped.
2. What stands in `<answer>` tags, `\boxed{}` or a JSON field.
3. The whole text is an option's text, a letter, or both in agreement.
4. The last answer cue: "the answer is …", "I choose …", "… is correct".
5. One option alone has a line to itself; the text starts with a labelled letter.
6. One single letter in parentheses.
7. The last "it is …" or "sounds like …"; one option alone is a sentence; "Yes, …" where yes is an option.
8. One option alone is named and not rejected; options named inside longer ones do not count.
9. One option alone is named in the last sentence.

A refusal ("none of the above", "cannot tell") ends the search after tier 3 unless a later cue answers after all.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

from eval.mentions import Mention, Options, canonical, options_for, sentences
from eval.normalise import answers_match, digits_for_number_words, normalise_answer, parse_yes_no

__all__ = ["answers_match", "digits_for_number_words", "normalise_answer", "parse_choice", "parse_yes_no"]

PARSER_VERSION = "2"

_THINK = re.compile(r"<(think|thinking|reasoning|thought)>.*?</\1>", re.DOTALL | re.IGNORECASE)
_THINK_TAIL = re.compile(r"^.*</(?:think|thinking|reasoning|thought)>", re.DOTALL | re.IGNORECASE)
_THINK_OPEN = re.compile(r"<(?:think|thinking|reasoning|thought)>.*$", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(
    r"[<\[](\w*(?:answer|final|choice|option|result|solution|verdict)\w*)[>\]](.*?)(?:[<\[]/\1[>\]]|$)",
    re.DOTALL | re.IGNORECASE,
)
_LATEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathsf)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_JSON_KEYS = ("answer", "final_answer", "finalanswer", "choice", "option", "letter", "prediction", "selected")

_CUE = re.compile(
    r"\b(?:answer|choice|option|response|selection|pick)(?:\s+(?:here|to\s+(?:the|this)\s+question|for\s+\w+|is\s+therefore"
    r"|among\s+\w+|from\s+the\s+(?:list|options)|would\s+have\s+to))*(?:\s+(?:is|was|would\s+be|should\s+be|must\s+be"
    r"|will\s+be|seems\s+to\s+be|appears\s+to\s+be|has\s+to\s+be|being)\b|\s*'s\b|\s*[:=|]|\s*[-\u2013\u2014]+>?\s|\s*\n)+"
    r"|\bans(?:wer)?[\"']?\s*[:.=]|\banswer\s+to\s+be\b"
    r"|\b(?:final|conclusion|verdict|result|solution|decision|guess|prediction|output|correct|selected|chosen)[\"']?\s*(?:[:=]+>?|->|\u2192|\bis\b)"
    r"|\b(?:i|we)(?:'d|'ll|'m|\s+would|\s+will|\s+am|\s+have\s+to|\s+should)?(?:\s+therefore)?\s+"
    r"(?:choose|chose|pick(?:ed)?|select(?:ed)?|go(?:ing)?\s+(?:with|for)|opt(?:ing)?\s+for|settle\s+(?:on|for)"
    r"|say|answer(?:\s+with)?|vote\s+for|conclude(?:\s+that\s+it\s+is)?)\b"
    r"|\b(?:switch(?:ed|ing)?|chang(?:ed?|ing)|settl(?:ed?|ing)|end(?:ed)?\s+up)\s+(?:my\s+(?:mind|answer)\s+)?(?:to|on|with|at)\b"
    r"|\b(?:best|correct|right|most\s+\w+)\s+(?:one|someone|match|fit|description|guess)\s+(?:is|would\s+be)\b"
    r"|\b(?:corresponds?|points?|leads?)\s+to\s+(?=\(?(?:option|choice)\b)|\bmatch(?:es)?\s+(?=\(?(?:option|choice)\b)",
    re.IGNORECASE,
)
_CORRECT = re.compile(
    r"^[\s\"')\]*.]*(?:\s*\([^()]*\))?\s*(?:(?:is|are|seems|would\s+be|appears|must\s+be|as)\s+"
    r"(?:(?:clearly|definitely|probably|therefore|thus|likely|indeed|most\s+likely|to\s+be)\s+)*(?:the\s+|my\s+|an?\s+)?"
    r"(?:(?:correct|right|best|better|closer|stronger|most\s+(?:likely|appropriate|plausible|suitable|fitting|accurate|probable))\b"
    r"|(?:final\s+)?answer\b)"
    r"|(?:is|does)\s*[.!]*\s*$"
    r"|(?:fits|fit|matches|match|suits|describes|explains|agrees|aligns|corresponds|works)\b[^.,;:\n]{0,40}?"
    r"\b(?:better|best|most\s+closely|more\s+closely)\b)",
    re.IGNORECASE,
)
_WEAK_CUE = re.compile(
    r"(?:\b(?:it|this|that|there|audio|clip|recording|sound|sounds|music|speaker|voice|instrument|source|scene|genre"
    r"|emotion|chord|which)(?:'s|\s+is|\s+are|\s+must\s+be|\s+should\s+be|\s+seems\s+to\s+be|\s+appears\s+to\s+be"
    r"|\s+sounds\s+like|\s+resembles|\s+was)|\bsounds\s+like|\bmost\s+likely|\bmust\s+be|\bha(?:s|ve)\s+to\s+be|\bcan\s+only\s+be|\bturns?\s+out\s+to\s+be|\bi\s+(?:think|believe|guess|hear)"
    r"(?:\s+that)?|\bhearing|\bi'd\s+guess|\bguess\s+is|\b(?:best|most\s+closely)\s+(?:matches|fits|describes)"
    r"|\b(?:therefore|thus|hence|in\s+conclusion|overall|so)\b)\s*[,:]?\s*",
    re.IGNORECASE,
)
_MARKS = re.compile(r"[^\w(\[#]*")
_LEAD = re.compile(
    r"""(?:[\s"'*:=>-]|\b(?:that|it\s+is|it's|with|as|to\s+be|for|probably|likely|definitely|clearly|actually)\b)*""",
    re.I,
)
_ALTERNATIVE = re.compile(
    r"""^["')\]*.]*\s*(?:,?\s*\b(?:or|and)\b|[,/&;])\s*(?:perhaps|maybe|possibly|also)?\s*""", re.I
)
_LONE_LETTER = re.compile(r"(?<![\w'#.])([A-Z])(?![\w'#])")
_ROLE = re.compile(r"^\s*(?:assistant|model|bot|ai)\s*:\s*", re.IGNORECASE)
_NOT_NEXT = re.compile(r"^\W*(?:not\b|n't|neither\b|never\b|cannot\b)", re.IGNORECASE)
_WHETHER = re.compile(r"\b(?:whether|if)\s+(?:(?:the|my|your)\s+)?(?:\w+\s+)?$", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\bnone\s+of\s+(?:the|these|those|them)\b|\b(?:neither|nor)\b|\bno\s+(?:correct|right|suitable)\s+(?:answer|option|choice)"
    r"|\b(?:can(?:not|'t|\s+not)|could(?:\s+not|n't)|unable\s+to|not\s+able\s+to|impossible\s+to|not\s+possible\s+to"
    r"|hard\s+to|difficult\s+to)\s+(?:\w+\s+)?(?:be\s+)?(?:determin|tell|hear|listen|identif|answer|say|process|access|know"
    r"|decid|distinguish|provide|analy|confirm|sure|help|judge|play|recogni|discern|make)"
    r"|\b(?:do|does|did)(?:n't|\s+not)\s+(?:know|have\s+(?:access|enough))|\bnot\s+(?:sure|certain|clear|enough)\b"
    r"|\bneeds?\s+to\s+(?:hear|listen)\b|\bplease\s+(?:provide|share|upload)\b"
    r"|\b(?:unsure|unclear|uncertain|insufficient|indeterminate|sorry)\b|\bas\s+an\s+ai\b|\bno\s+(?:idea|audio|answer)\b",
    re.IGNORECASE,
)
_LETTER = re.compile(r"""(?P<open>["'(\[]*)(?P<letter>[A-Za-z])(?![\w#])(?P<close>["')\]]*)""")
_AFTER_LETTER = re.compile(
    r"\s*(?:$|[.,:;!)\]}\n]|[-\u2013\u2014/|]\s|\((?!\w\))|\s(?:because|since|as|is|with|for|due|based|which|given|here)\b)"
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
    body = _ROLE.sub("", _strip_markdown(_strip_thinking(canonical(text))))
    for content in _tagged(body):
        # The model has marked its answer; what it said elsewhere does not count.
        return _read(content, options)
    return _read(_drop_listing(body, options), options)


def _read(text: str, options: Options) -> int | None:
    """Tiers 3 to 9 on clean text."""
    text = text.strip()
    if not text:
        return None
    whole = _whole(text, options)
    if whole is not None:
        return whole if whole >= 0 else None
    mentions = options.mentions(text)
    found = _last_cue(text, mentions, options)
    if found is not None:
        return found if found >= 0 else None
    if _refuses(text, mentions):
        return None
    for tier in (_own_line, _parenthesised, _weak_cue, _own_sentence, _only_mention, _last_sentence):
        found = tier(text, mentions, options)
        if found is not None:
            return found if found >= 0 else None
    return None


# A tier's answer that there is an answer, but not a single choice.
_CONFLICT = -1


def _strip_thinking(text: str) -> str:
    text = _THINK.sub(" ", text)
    text = _THINK_TAIL.sub(" ", text)
    # Thinking that never ended was cut off before the answer.
    return _THINK_OPEN.sub(" ", text)


def _strip_markdown(text: str) -> str:
    text = re.sub(r"```\w*[ \t]*\n?|`", "", text)
    text = re.sub(r"\*\*|__", "", text)
    text = re.sub(r"(?m)^[ \t]*\|[ \t]*|[ \t]*\|[ \t]*$", "", text)
    text = re.sub(r"\$([^$\n]{1,80})\$", r"\1", _LATEX.sub(r"\1", text))
    text = re.sub(r"(?<![\w(,*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w)*])", r"\1", text)
    return re.sub(r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]*)", "", text)


def _tagged(text: str) -> list[str]:
    """What the answer marks as its answer: the last non-empty tag, box or JSON field, as a list of at most one."""
    found = [(match.start(), match[2]) for match in _TAG.finditer(text)]
    for match in _BOXED.finditer(text):
        found.append((match.start(), _LATEX.sub(r"\1", match[1]).replace("\\ ", " ").strip("$ ")))
    found += _json_fields(text)
    marked = [content for _, content in sorted(found) if content.strip()]
    return marked[-1:]


def _json_fields(text: str) -> list[tuple[int, str]]:
    """Answer fields of JSON objects anywhere in a text, with the place of their object."""
    decoder, found, at = json.JSONDecoder(), [], text.find("{")
    while at >= 0:
        end = at + 1
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            found += [(at, content) for content in _answer_of(value)]
        at = text.find("{", end)
    return found


def _answer_of(value: dict[str, Any]) -> list[str]:
    named = {str(key).lower().replace(" ", "_"): field for key, field in value.items()}
    for key in _JSON_KEYS:
        if isinstance(named.get(key), str | int | float):
            return [str(named[key])]
    return []


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
    for lead in (_MARKS, _LEAD):
        match = lead.match(text)
        found = _start_at(text, match.end() if match else 0, options)
        if found:
            return (_CONFLICT, found[1]) if _alternative(text[found[1] :], found[0], options) else found
    return None


def _alternative(rest: str, index: int, options: Options) -> bool:
    """Whether a second choice is offered right after the first: "A or B", "rain and wind"."""
    glue = _ALTERNATIVE.match(rest)
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
    """Tier 4: the last cue that leads to one choice, or `_CONFLICT` where it leads to a refusal."""
    events: list[tuple[int, int]] = []
    for cue in _CUE.finditer(text):
        rest = text[cue.end() :]
        if any(one.start < cue.end() <= one.end for one in mentions):
            continue
        start = None if _WHETHER.search(text[: cue.start()]) else _start(rest, options)
        if start:
            if not re.match(r"^[\"')\]*]*\s*\?", rest[start[1] :]):
                events.append((cue.end(), start[0]))
            continue
        if _NOT_NEXT.match(rest) or _WHETHER.search(text[: cue.start()]):
            continue
        inside = _in_sentence(text, cue.end(), mentions)
        if len({one.index for one in inside}) == 1:
            events.append((cue.end(), inside[0].index))
        elif not inside and _REFUSAL.search(_sentence_from(text, cue.end(), mentions)):
            events.append((cue.end(), _CONFLICT))
    for mention in [*mentions, *options.common_mentions(text)]:
        if not mention.rejected and _CORRECT.match(text[mention.end :]):
            events.append((mention.end, mention.index))
    for match in _LONE_LETTER.finditer(text):
        index = options.letter_index(match[1])
        if index is not None and _CORRECT.match(text[match.end() :]):
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
    for mention in reversed(mentions):
        text = f"{text[: mention.start]}\x00{text[mention.end :]}"
    return bool(_REFUSAL.search(text))


def _own_line(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 5: one choice alone has a line to itself, or the first line alone has a label."""
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
    """Tier 6: one single letter in parentheses, not rejected."""
    found = {}
    for match in re.finditer(r"[(\[]([A-Za-z])[)\]]", text):
        index = options.letter_index(match[1])
        if index is not None:
            inside = [one for one in mentions if one.start <= match.start() < one.end]
            found[index] = all(not one.rejected for one in inside)
    asserted = [index for index, fine in found.items() if fine]
    return asserted[0] if len(found) == 1 and asserted else None


def _weak_cue(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 7: the last "it is", "sounds like", "therefore" with a choice right after it."""
    found = None
    for cue in _WEAK_CUE.finditer(text):
        if any(one.start < cue.end() < one.end for one in mentions) or _NOT_NEXT.match(text[cue.end() :]):
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


def _own_sentence(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 7: one choice alone is a sentence, or the text starts with a "yes" or "no" that is a choice."""
    said = [text[begin:end] for begin, end in sentences(text, mentions)]
    alone = {_whole(one, options) for one in said if not _NOT_NEXT.match(one) and "?" not in one[-3:]} - {
        None
    }
    if alone:
        return alone.pop() if len(alone) == 1 else None
    first = [one for one in options.common_mentions(text) if not re.search(r"\w", text[: one.start])]
    if first and re.match(r"\s*(?:[,.:;!(|]|[-\u2013\u2014]\s)", text[first[0].end :]):
        return first[0].index
    return None


def _only_mention(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 8: exactly one choice is named without being rejected."""
    asserted = {one.index for one in mentions if not one.rejected}
    return asserted.pop() if len(asserted) == 1 else None


def _last_sentence(text: str, mentions: list[Mention], options: Options) -> int | None:
    """Tier 9: exactly one choice is named in the last sentence."""
    spans = sentences(text, mentions)
    if not spans:
        return None
    begin, end = spans[-1]
    asserted = {one.index for one in mentions if begin <= one.start < end and not one.rejected}
    return asserted.pop() if len(asserted) == 1 else None
