"""Whether a text asserts, rejects or only weighs the choices that it names."""

import re
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
    # What would be so if this were the answer.
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
# A heading that puts aside what stands after its colon: "ruled out: X", but not "the others are ruled out: X".
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

# What introduces a choice only to put it aside for another one.
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
# What the choice after it wins with over the one before.
_TURN = re.compile(
    r"\b(?:but|yet|however|instead|actually|in fact|in reality|ultimately|in the end|eventually"
    r"|nevertheless|nonetheless|still"
    r"|on closer|really|turns? out|rather(?! than)|definitely|final(?:ly)?)\b",
    re.IGNORECASE,
)


def judge(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Mark the mentions that a text rejects, and those that it only weighs before it names another.

    Args:
        text: A canonical text.
        mentions: Its mentions, in order, none overlapping.
    """
    masked = list(text)
    for mention in mentions:
        masked[mention.start : mention.end] = "\x00" * (mention.end - mention.start)
    plain = "".join(masked)
    rejected = [_is_rejected(plain, mention) for mention in mentions]
    for start, end in _listings(text, mentions):
        rejected[start:end] = [True] * (end - start)
    _carry(text, plain, mentions, rejected)
    for i in range(1, len(mentions)):
        # "P contradicts the audio, Q does not": Q is what is left.
        between = plain[mentions[i - 1].end : mentions[i].start]
        if rejected[i - 1] and _VERB_OF_BAD.match(between) and _DOES_NOT.match(plain[mentions[i].end :]):
            rejected[i] = False
    weighed = [_is_weighed(plain, mention) for mention in mentions]
    for later in range(1, len(mentions)):
        # "P, but Q", "P. However, Q"
        others = [i for i in range(later) if not rejected[i] and mentions[i].index != mentions[later].index]
        if not others or rejected[later] or weighed[later]:
            continue
        earlier = others[-1]
        if _TURN.search(plain[mentions[earlier].end : mentions[later].start]):
            weighed[: earlier + 1] = [True] * (earlier + 1)
    return [
        replace(one, rejected=bad, weighed=soft)
        for one, bad, soft in zip(mentions, rejected, weighed, strict=True)
    ]


def _listings(text: str, mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Runs of mentions that only repeat three or more choices in the order of their labels, from the first on."""
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


def _carry(text: str, plain: str, mentions: Sequence[Mention], rejected: list[bool]) -> None:
    """Let a list share its rejection: "not X, Y or Z" and "X, Y and Z are wrong", but "unlike X, Y fits"."""
    carried = [""] * len(mentions)
    for order in (range(1, len(mentions)), range(len(mentions) - 1, 0, -1)):
        for i in order:
            glued = _LIST_GLUE.match(text[mentions[i - 1].end : mentions[i].start])
            if glued and order.step == 1 and rejected[i - 1]:
                negation = carried[i - 1] or _before(plain, mentions[i - 1])
                if negation and (re.search(r"\b(?:and|n?or)\b", glued[0]) or not _CONTRAST.search(negation)):
                    rejected[i], carried[i] = True, negation
            if glued and order.step == -1 and rejected[i] and _REJECTION.match(plain[mentions[i].end :]):
                rejected[i - 1] = True


def _before(plain: str, mention: Mention) -> str:
    """The negation before a mention in its clause, in lower case; empty without."""
    head = plain[: mention.start]
    breaks = [match.end() for match in _CLAUSE_BREAK.finditer(head)]
    clause = head[breaks[-1] if breaks else 0 :]
    match = _NEGATION.search(clause)
    if match and match[0].lower().startswith("from") and not _FROM_TO.match(plain[mention.end :]):
        return ""
    if (
        match
        and match[0].lower().startswith("than")
        and re.search(r"\b(?:less|worse)\b", clause[: match.start()])
    ):
        return ""
    return match[0].lower() if match else ""


def _is_rejected(plain: str, mention: Mention) -> bool:
    head, tail = plain[: mention.start], plain[mention.end :]
    except_for = _EXCEPTIVE.search(_sentence_before(head))
    if except_for:
        nothing = except_for[1].lower() in ("none", "nothing", "no")
        return not nothing and not _RULED_OUT.match(tail)
    if _before(plain, mention) or _REJECTION.match(tail) or _REJECTING_HEADING.search(head):
        return True
    counterfactual = _COUNTERFACTUAL.search(_sentence_before(head))
    if counterfactual:
        return "evidence" not in counterfactual[0].lower() or bool(_NO_EVIDENCE.match(tail))
    if re.search(rf"(?:^|\n)[^\n]*{NO_MARK}[^\n\x00]*$", head) and YES_MARK not in tail.partition("\n")[0]:
        return True
    end = SENTENCE_END.search(tail)
    asked = bool(end and "?" in end[0])
    return asked and not (end and _AFFIRMED.match(tail[end.end() :])) and not _WHY.search(head)


def _is_weighed(plain: str, mention: Mention) -> bool:
    clause = re.split(
        r"[,](?=\s)|\b(?:but|however|yet)\b", _sentence_before(plain[: mention.start]), flags=re.I
    )[-1]
    return bool(_WEIGHED.search(clause)) or bool(_WEIGHED_AFTER.match(plain[mention.end :]))


def _sentence_before(head: str) -> str:
    ends = [match.end() for match in SENTENCE_END.finditer(head)]
    return head[ends[-1] if ends else 0 :]


def sentences(text: str, mentions: Sequence[Mention]) -> list[tuple[int, int]]:
    """Spans of the sentences of a text; a full stop inside a mention ends none."""
    spans, start = [], 0
    for match in SENTENCE_END.finditer(text):
        # A choice's own full stop ends a sentence only where none goes on: "It rains. is wrong".
        goes_on = re.match(r"\s+[a-z]", text[match.end() :])
        if any(one.start < match.end() < one.end + bool(goes_on) for one in mentions):
            continue
        spans.append((start, match.end()))
        start = match.end()
    spans.append((start, len(text)))
    return [(begin, end) for begin, end in spans if text[begin:end].strip()]


def chosen(mentions: Sequence[Mention]) -> int | None:
    """The one choice that is asserted, or else the only one that is at least weighed."""
    for kept in (
        {one.index for one in mentions if not one.rejected and not one.weighed},
        {one.index for one in mentions if not one.rejected},
    ):
        if kept:
            return kept.pop() if len(kept) == 1 else None
    return None
