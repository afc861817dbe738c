"""Whether a text asserts, rejects or only considers the choices that it names (the polarity of each mention)."""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

from eval.parsing.mentions import NO_MARK, YES_MARK, Mention

# A negation and what may stand between it and the choice; \x00 stands for choices.
_NEGATION = re.compile(
    r"(?:\bnot\b(?! only| sure| certain)|n't\b(?! help but)|\bnever\b|\bneither\b|\bnor\b"
    r"|\brather than\b|\binstead of\b|\bunlike\b"
    r"|\bexcept\b|\bexclud\w+|\brul(?:e|es|ed|ing) out\b|\beliminat\w+|\bother than\b|\bas opposed to\b"
    r"|\bdismiss\w*"
    r"|\breject\w*|\bdiscard\w*|\bcross(?:ed|ing)? out\b|\bno\b(?! doubt)|\bcannot\b|\bwithout\b"
    r"|\babsence of\b|\black of\b"
    r"|\bbetween\b|\bwhether\b|\bout of\b|\bamong(?:st)?\b|\bdoubt\b(?<!no doubt)|\bunlikely\b"
    r"|\bfar from\b|\bcontrary to\b"
    r"|\bcompar\w+ (?:\w+ )?(?:with|to)\b|\brelative to\b|\bin contrast to\b|\banything but\b"
    r"|\bcontradicts?\b"
    r"|\b(?:options|choices|candidates|alternatives)\b[^.;\n]{0,20}(?:\bare|\binclude|:)|\b(?:i|we)"
    r"(?: (?:also|first|initially|briefly|had|have|originally))* considered\b)"
    r"\W*(?:(?!leav|left\b)[\w'\x00]+[ \t\"'(\[*-]+){0,5}$|\bthan\W+(?:[\w']+\W+){0,2}$"
    # "X over Y", "X beats Y", "prefer X to Y", "from X to Y", "X > Y"
    r"|\x00[^\w\x00]*(?:over|beats|outweighs|trumps|surpasses|versus|vs\.?|against|>)\W*(?:(?:an?|the)\W+)?$"
    r"|\bprefer\w*[^\x00]*\x00+[^\w\x00]*to\W*(?:(?:an?|the)\W+)?$|\bfrom\W*(?=[^\x00]*$)(?:(?:an?"
    r"|the)\W+)?$",
    re.IGNORECASE,
)
_FROM_TO = re.compile(r"^[^\w\x00]*to\b[^\w\x00]*(?:(?:an?|the)\W+)?\x00", re.IGNORECASE)
_ADVERBS = (
    r"(?:\s+(?:clearly|probably|also|definitely|both|all|be|to be|therefore|thus|very|most|much|quite"
    r"|rather|too|far|an?|the"
    r"|easily|simply|just|highly|really|being|been))*\s*"
)
_BAD = (
    r"(?:not\b|n't|cannot|incorrect|wrong|unlikely|impossible|implausible|ruled out|excluded|eliminated"
    r"|dismissed|rejected"
    r"|less \w+|false|absent|missing|inconsistent|out\b(?! of tune)|tempting|untrue|improbable|never"
    r"|nowhere|weaker|worse"
    r"|unsupported|discarded|crossed out|(?:\w+\s+)?distractors?)"
)
_REJECTION = re.compile(
    r"^[\s\"')\]*.]{0,3}\s*(?:,[^,.;:!?\n\x00]{1,30},\s*)?(?:(?:is|are|was|were|seems?|can|could|would"
    r"|does|do|did|has|have|looks?|sounds?|appears?|feels?)"
    rf"{_ADVERBS}{_BAD}|cannot|can't"
    # "X: wrong", "X (no)", but not "X, not Y"
    rf"|[(:,\u2013\u2014-]\s*(?:(?:is|are|was|do|does|did)\s+)?(?:an?\s+)?(?:{_BAD}|no\b(?! doubt)"
    rf"|none\b|fails\b)(?!['\"(\[ \t\w]{{0,14}}\x00)"
    rf"|(?:contradicts|fails|lacks|conflicts|leaves?\s+(?:only|us|me)?\s*\x00)\b|[\s:\u2013\u2014-]*{NO_MARK}"
    # "X would ..." rejects X, except for "X would be the best", "X would fit" and the like.
    r"|would\b(?!\s+(?:\w+\s+)?(?:(?:be|seem)\s+(?:the|my|an?|most|best|correct|right|appropriate)|fit"
    r"|match|suit|make|best)\b))",
    re.IGNORECASE,
)
_COUNTERFACTUAL = re.compile(
    r"\b(?:if|were|had)\s+(?:it|this|that|the\s+\w+)\s+(?:(?:were|was|had|be|been|really"
    r"|actually)\s*)*\W*(?:(?:an?|the|of)\W+)?$"
    r"|\b(?:need|require)\w*\b[^.;]*\bfor\W*$|\bevidence\s+(?:for|of)\W*$",
    re.IGNORECASE,
)
_NO_EVIDENCE = re.compile(r"^\W*(?:none|no\b|weak|lacking|little|absent|missing)", re.IGNORECASE)
_CLAUSE_BREAK = re.compile(
    r"\n|[.;:!?,](?=\s|$)|\b(?:but|however|although|though|while|whereas|so)\b", re.IGNORECASE
)
_CONTRAST = re.compile(
    r"unlike|instead|rather|as opposed|other than|except|between|whether|than|out of|among|consider"
    r"|compar|relative|contra|far from|options|choices|candidates"
)
_LIST_GLUE = re.compile(
    r"^(?:[\s,/&\"'()*\[\]-]|\b(?:and|or|nor|not|the|an?|options?|choices?)\b)*$", re.IGNORECASE
)
_LOWER_CASE = re.compile(r"\s+[a-z]")
SENTENCE_END = re.compile(r"[.!?]+[\"')\]*]*(?=\s|$)(?!\s+(?:or|and|nor)\b)|\n+")

# "All but X are wrong" and "none except X fits" leave X.
_EXCEPTIVE = re.compile(
    r"\b(all|every\w*|each|any\w*|none|nothing|no)\b(?:\s+(?!but\b|except\b)\w+){0,4}\s+(?:but"
    r"|except(?:\s+for)?|other\s+than|save|besides)"
    r"\W*(?:(?:an?|the|for)\W+)?$",
    re.IGNORECASE,
)
_RULED_OUT = re.compile(rf"^[^.;\n]*?(?:{_BAD}|\bfails?\b|\bcontradict)", re.IGNORECASE)
_AFFIRMED = re.compile(
    r"^\W*(?:yes|yeah|yep|indeed|exactly|definitely|certainly|absolutely|correct|likely|right|clearly)\b",
    re.I,
)
# A heading that rejects what stands after its colon: "ruled out: X", but not "the others are ruled out: X".
_REJECTING_HEADING = re.compile(
    r"(?:^|[.;!?\n])(?![^.;!?\n]*\b(?:others?|rest|remaining|else|all)\b)[^.;!?\n]*\b"
    r"(?:rul\w+ out|eliminat\w+|exclud\w+|dismiss\w*|reject\w*|discard\w*|incorrect|wrong|unlikely"
    r"|not (?:(?:the|an?|my) )?(?:correct |right |final )?(?:answers?|options?|choices?))\b[^\x00.;!?\n]{0,20}:\s*"
    r"(?:(?:an?|the)\s+)?$",
    re.IGNORECASE,
)
_VERB_OF_BAD = re.compile(r"^[^\w\x00]*(?:contradicts|fails|lacks|conflicts)\b[^.;!?\n]*$", re.IGNORECASE)
_DOES_NOT = re.compile(r"^[^\w\x00]*(?:does|do|did)(?:\s+not|n't)[\s\"')]*(?:[.!;,\n]|$)", re.IGNORECASE)
_WHY = re.compile(r"(?:^|[.!?\n]\s*)why\b(?!\s+not)[^.!?\n]*$", re.IGNORECASE)

# Words that introduce a choice only to reject it for another one.
_WEIGHED = re.compile(
    r"\b(?:at first(?: glance| sight)?|initially|originally|first (?:idea|thought|impression|instinct"
    r"|guess|answer|choice)"
    r"|(?:even )?though|although|while|despite|granted|admittedly|in spite of|similar to"
    r"|(?:one|some|someone|others|you|people|many|i)(?: people| listeners)?\s+(?:may|might|could|can"
    r"|would(?=\s+\w+\s+(?:think|say|argue|expect)|\s+(?:think|argue|expect|suspect)))"
    r"|(?:might|could|may)\s+(?:(?:also|equally|just as well)\s+)?be"
    r"|(?:one|some|someone|others|many)(?: people| listeners)?\s+(?:would|will)|considered|(?:said"
    r"|thought|assumed|leaned|lean))\b[^.;!?\n]*$",
    re.IGNORECASE,
)
_WEIGHED_AFTER = re.compile(
    r"^[^.;!?\n\x00]*?\b(?:was (?:my|the) first|comes close|(?:seems?|is|are|sounds?|might be|may be"
    r"|could be)\s+(?:also\s+)?"
    r"(?:plausible|possible|common|similar|tempting|conceivable)|does too|at first|initially"
    r"|might (?:be what|come|seem))",
    re.IGNORECASE,
)
# Words with which a text turns from one choice to the next.
_TURN = re.compile(
    r"\b(?:but|yet|however|instead|actually|in fact|in reality|ultimately|in the end|eventually"
    r"|nevertheless|nonetheless|still"
    r"|on closer|really|turns? out|rather(?! than)|definitely|final(?:ly)?)\b",
    re.IGNORECASE,
)


# Length of the context before a mention, in characters. Text before that is ignored, so
# that the cost of a mention does not grow with the length of its sentence.
_CONTEXT = 200
_CLOSES_SENTENCE = re.compile(r"[.!?]+[\"')\]*]*$")
_COLON_BEFORE = re.compile(r":\s*(?:(?:an?|the)\s+)?$", re.IGNORECASE)
_SPLIT_CLAUSE = re.compile(r"[,](?=\s)|\b(?:but|however|yet)\b", re.IGNORECASE)


class _Masked:
    r"""A text whose mentions are masked by `\x00`, with the places of its breaks found once."""

    def __init__(self, text: str, mentions: Sequence[Mention]) -> None:
        self.plain = plain = mask(text, mentions)
        self._breaks = [match.end() for match in _CLAUSE_BREAK.finditer(plain)]
        ends = list(SENTENCE_END.finditer(plain))
        self._sentence_starts = [match.end() for match in ends]
        self._sentence_ends = [match.start() for match in ends]
        self._end_marks = [match[0] for match in ends]
        turns = list(_TURN.finditer(plain))
        self._turn_starts = [match.start() for match in turns]
        self._turn_ends = [match.end() for match in turns]

    def clause_before(self, mention: Mention) -> str:
        """From the last clause break to the mention."""
        start = mention.start
        if start and self.plain[start - 1] in ".;:!?,":
            return ""
        return self._from(self._breaks, start)

    def sentence_before(self, mention: Mention) -> str:
        """From the start of the sentence to the mention."""
        start = mention.start
        if (
            start
            and self.plain[start - 1] in ".!?\"')]*"
            and _CLOSES_SENTENCE.search(self.plain, max(0, start - _CONTEXT), start)
        ):
            return ""
        return self._from(self._sentence_starts, start)

    def _from(self, starts: Sequence[int], end: int) -> str:
        at = bisect_right(starts, end)
        return self.plain[max(starts[at - 1] if at else 0, end - _CONTEXT) : end]

    def head(self, mention: Mention) -> str:
        """What stands before a mention, across sentences."""
        return self.plain[max(0, mention.start - _CONTEXT) : mention.start]

    def sentence_end(self, mention: Mention) -> tuple[int, str] | None:
        """Where the sentence of a mention ends and the marks that end it; None at the end of the text."""
        at = bisect_left(self._sentence_ends, mention.end)
        return (self._sentence_starts[at], self._end_marks[at]) if at < len(self._end_marks) else None

    def turns(self, start: int, end: int) -> bool:
        """Whether a word such as "but" stands between two places."""
        at = bisect_left(self._turn_starts, start)
        return at < len(self._turn_starts) and self._turn_ends[at] <= end


def mask(text: str, mentions: Sequence[Mention]) -> str:
    r"""The text with `\x00` for every character of a mention."""
    masked = list(text)
    for mention in mentions:
        masked[mention.start : mention.end] = "\x00" * (mention.end - mention.start)
    return "".join(masked)


def judge(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Mark the mentions that a canonical text rejects, and those that it only considers before it names another.

    Returns:
        The same mentions with `rejected` and `weighed` set.
    """
    masked = _Masked(text, mentions)
    plain = masked.plain
    negations = [_negation(masked, mention) for mention in mentions]
    rejected = [
        _is_rejected(masked, mention, negation) for mention, negation in zip(mentions, negations, strict=True)
    ]
    for start, end in _listings(text, mentions):
        rejected[start:end] = [True] * (end - start)
    _share_rejections(text, plain, mentions, negations, rejected)
    for i in range(1, len(mentions)):
        # "P contradicts the audio, Q does not": Q remains.
        if not rejected[i - 1] or not rejected[i]:
            continue
        between = plain[mentions[i - 1].end : mentions[i].start]
        if _VERB_OF_BAD.match(between) and _DOES_NOT.match(plain[mentions[i].end :]):
            rejected[i] = False
    weighed = [_is_weighed(masked, mention) for mention in mentions]
    last: int | None = None  # the last mention that is not rejected,
    last_other: int | None = None  # and the last one of another choice than that
    overturned = 0  # "P, but Q", "P. However, Q": mentions up to here are only weighed
    for at, mention in enumerate(mentions):
        if rejected[at]:
            continue
        earlier = last if last is None or mentions[last].index != mention.index else last_other
        if earlier is not None and not weighed[at] and masked.turns(mentions[earlier].end, mention.start):
            overturned = max(overturned, earlier + 1)
        if last is not None and mentions[last].index != mention.index:
            last_other = last
        last = at
    weighed[:overturned] = [True] * overturned
    return [
        replace(one, rejected=bad, weighed=soft)
        for one, bad, soft in zip(mentions, rejected, weighed, strict=True)
    ]


def _listings(text: str, mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Spans of mentions that only list three or more choices in label order, beginning with the first."""
    found, start = [], 0
    for i in range(1, len(mentions) + 1):
        between = text[mentions[i - 1].end : mentions[i].start] if i < len(mentions) else "|"
        listed = _LIST_GLUE.match(re.sub(r"[.:;]", "", between)) and "not" not in between.lower()
        if listed and mentions[i].index == mentions[i - 1].index + 1:
            continue
        if i - start >= 3 and mentions[start].index == 0:
            found.append((start, i))
        start = i
    return found


def _share_rejections(
    text: str, plain: str, mentions: Sequence[Mention], negations: Sequence[str], rejected: list[bool]
) -> None:
    """Let a list share its rejection: "not X, Y or Z" and "X, Y and Z are wrong", but "unlike X, Y fits"."""
    carried = [""] * len(mentions)
    glues = [None] + [
        _LIST_GLUE.match(text[before.end : after.start])
        for before, after in zip(mentions, mentions[1:], strict=False)
    ]
    for i in range(1, len(mentions)):
        glued = glues[i]
        negation = carried[i - 1] or negations[i - 1]
        if glued and rejected[i - 1] and negation:
            if re.search(r"\b(?:and|n?or)\b", glued[0]) or not _CONTRAST.search(negation):
                rejected[i], carried[i] = True, negation
    for i in range(len(mentions) - 1, 0, -1):
        if glues[i] and rejected[i] and _REJECTION.match(plain[mentions[i].end :]):
            rejected[i - 1] = True


def _negation(masked: _Masked, mention: Mention) -> str:
    """The negation before a mention in its clause, in lower case; empty without."""
    clause = masked.clause_before(mention)
    match = _NEGATION.search(clause)
    if not match:
        return ""
    found = match[0].lower()
    if found.startswith("from") and not _FROM_TO.match(masked.plain[mention.end :]):
        return ""
    if found.startswith("than") and re.search(r"\b(?:less|worse)\b", clause[: match.start()]):
        return ""
    return found


def _is_rejected(masked: _Masked, mention: Mention, negation: str) -> bool:
    sentence, tail = masked.sentence_before(mention), masked.plain[mention.end :]
    except_for = _EXCEPTIVE.search(sentence)
    if except_for:
        nothing = except_for[1].lower() in ("none", "nothing", "no")
        return not nothing and not _RULED_OUT.match(tail)
    head = masked.head(mention)
    if negation or _REJECTION.match(tail) or (_COLON_BEFORE.search(head) and _REJECTING_HEADING.search(head)):
        return True
    counterfactual = _COUNTERFACTUAL.search(sentence)
    if counterfactual:
        return "evidence" not in counterfactual[0].lower() or bool(_NO_EVIDENCE.match(tail))
    crossed = head.rpartition(NO_MARK)
    if crossed[1] and not re.search(r"[\n\x00]", crossed[2]) and YES_MARK not in tail.partition("\n")[0]:
        return True
    end = masked.sentence_end(mention)
    if end is None or "?" not in end[1]:
        return False
    return not _AFFIRMED.match(masked.plain[end[0] :]) and not _WHY.search(head)


def _is_weighed(masked: _Masked, mention: Mention) -> bool:
    clause = _SPLIT_CLAUSE.split(masked.sentence_before(mention))[-1]
    return bool(_WEIGHED.search(clause)) or bool(_WEIGHED_AFTER.match(masked.plain[mention.end :]))


def sentences(text: str, mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Spans of the sentences of a text; a full stop inside a mention ends none."""
    inside, closed = bytearray(len(text) + 1), bytearray(len(text) + 1)
    for one in mentions:
        inside[one.start + 1 : one.end] = b"\1" * max(0, one.end - one.start - 1)
        closed[one.start + 1 : one.end + 1] = b"\1" * (one.end - one.start)
    spans, start = [], 0
    for match in SENTENCE_END.finditer(text):
        # The full stop of a choice ends a sentence only if no sentence continues after it: "It rains. is wrong".
        continues = _LOWER_CASE.match(text, match.end())
        if (closed if continues else inside)[match.end()]:
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    return [(begin, end) for begin, end in spans if text[begin:end].strip()]


def chosen(mentions: Sequence[Mention]) -> int | None:
    """The only asserted choice; if none is asserted, the only one that is considered and not rejected."""
    for kept in (
        {one.index for one in mentions if not one.rejected and not one.weighed},
        {one.index for one in mentions if not one.rejected},
    ):
        if kept:
            return kept.pop() if len(kept) == 1 else None
    return None
