"""Patterns of the words that announce, retract or refuse an answer; `eval.parsing.choices` uses them."""

import re

CUE = re.compile(
    r"\b(?:answer|choice|option|response|selection|pick)(?:\s+(?:here|to\s+(?:the|this)\s+question"
    r"|for\s+\w+|is\s+therefore"
    r"|among\s+\w+|from\s+the\s+(?:list|options)|would\s+have\s+to))*(?:\s+(?:is|was|would\s+be"
    r"|should\s+be|must\s+be"
    r"|will\s+be|seems\s+to\s+be|appears\s+to\s+be|has\s+to\s+be|being)\b|\s*'s\b|\s*[:=|]"
    r"|\s*[-\u2013\u2014]+>?\s|\s*\n)+"
    r"|\bans(?:wer)?[\"']?\s*[:=]|\bans\.|\banswer\s+to\s+be\b"
    r"|\b(?:final|conclusion|verdict|result|solution|decision|guess|prediction|output|correct|selected"
    r"|chosen)[\"']?\s*(?:[:=]+>?|->|\u2192|\bis\b)"
    r"|\b(?:i|we)(?:'d|'ll|'m|\s+would|\s+will|\s+am|\s+have\s+to|\s+should)?(?:\s+therefore)?\s+"
    r"(?:choose|chose|pick(?:ed)?|select(?:ed)?|go(?:ing)?\s+(?:with|for)|opt(?:ing)?\s+for"
    r"|settle\s+(?:on|for)"
    r"|say|answer(?:\s+with)?|vote\s+for|conclude(?:\s+that\s+it\s+is)?)\b"
    r"|\b(?:switch(?:ed|ing)?|chang(?:ed?|ing)|settl(?:ed?|ing)|end(?:ed)?\s+up)\s+(?:my\s+(?:mind"
    r"|answer)\s+)?(?:to|on|with|at)\b"
    r"|\b(?:best|correct|right|most\s+\w+)\s+(?:one|someone|match|fit|description|guess)\s+(?:is"
    r"|would\s+be)\b"
    r"|\b(?:corresponds?|points?|leads?)\s+to\s+(?=\(?(?:option|choice)\b)"
    r"|\bmatch(?:es)?\s+(?=\(?(?:option|choice)\b)",
    re.IGNORECASE,
)
CORRECT = re.compile(
    r"^[\s\"')\]*.]*(?:\s*\([^()]*\))?\s*(?:(?:is|are|seems|would\s+be|appears|must\s+be|as)\s+"
    r"(?:(?:clearly|definitely|probably|therefore|thus|likely|indeed|most\s+likely"
    r"|to\s+be)\s+)*(?:the\s+|my\s+|an?\s+)?"
    r"(?:(?:correct|right|best|better|closer|stronger|most\s+(?:likely|appropriate|plausible|suitable"
    r"|fitting|accurate|probable))\b"
    r"|(?:final\s+)?answer\b)"
    r"|(?:is|does)\s*[.!]*\s*$"
    r"|(?:fits|fit|matches|match|suits|describes|explains|agrees|aligns|corresponds|works)\b[^.,;:\n]{0,40}?"
    r"\b(?:better|best|most\s+closely|more\s+closely)\b)",
    re.IGNORECASE,
)
WEAK_CUE = re.compile(
    r"(?:\b(?:it|this|that|there|audio|clip|recording|sound|sounds|music|speaker|voice|instrument"
    r"|source|scene|genre"
    r"|emotion|chord|which)(?:'s|\s+is|\s+are|\s+must\s+be|\s+should\s+be|\s+seems\s+to\s+be"
    r"|\s+appears\s+to\s+be"
    r"|\s+sounds\s+like|\s+resembles|\s+was)|\bsounds\s+like|\bmost\s+likely|\bmust\s+be|\bha(?:s"
    r"|ve)\s+to\s+be|\bcan\s+only\s+be|\bturns?\s+out\s+to\s+be|\bi\s+(?:think|believe|guess|hear)"
    r"(?:\s+that)?|\bhearing|\bi'd\s+guess|\bguess\s+is|\b(?:best|most\s+closely)\s+(?:matches|fits"
    r"|describes)"
    r"|\b(?:therefore|thus|hence|in\s+conclusion|overall|so)\b)\s*[,:]?\s*",
    re.IGNORECASE,
)
MARKS = re.compile(r"[^\w(\[#]*")
LEAD = re.compile(
    r"(?:[\s\"'*:=>-]|\b(?:that|it\s+is|it's|with|as|to\s+be|for|probably|likely|definitely|clearly"
    r"|actually)\b)*",
    re.IGNORECASE,
)
ALTERNATIVE = re.compile(
    r"""^["')\]*.]*\s*(?:,?\s*\b(?:or|and)\b|[,/&;])\s*(?:perhaps|maybe|possibly|also)?\s*""", re.I
)
LONE_LETTER = re.compile(r"(?<![\w'#.])([A-Z])(?![\w'#])")
# The name of the speaker, and a question repeated before its answer.
ROLE = re.compile(
    r"^\s*(?:(?:assistant|model|bot|ai)(?:\s*:|\s*\n)|q(?:uestion)?\s*:[^?\n]*[?\n]\s*a(?:nswer)?\s*:)\s*",
    re.IGNORECASE,
)
NOT_NEXT = re.compile(r"^\W*(?:not\b|n't|neither\b|never\b|cannot\b)", re.IGNORECASE)
WHETHER = re.compile(r"\b(?:whether|if)\s+(?:(?:the|my|your)\s+)?(?:\w+\s+)?$", re.IGNORECASE)
RETRACTION = re.compile(
    r"(?:^|[.!?,;:\n-]\s*|\bno\W+|\bhmm+\W+)(?:but\s+|oh\W+)?wait\b|\b(?:scratch|strike|forget)\s+that\b"
    r"|\bon\s+(?:second|further|closer)\s+(?:thought|reflection|listen\w*|inspection)\b"
    r"|\bon\s+reflection\b|\bcorrection\s*[:,]"
    r"|\blet\s+me\s+(?:reconsider|revise|correct|rethink|rephrase|think\s+again|listen\s+again"
    r"|double)\b|\bactually\s*[,:]"
    r"|\bi\s+(?:take|took)\s+(?:that|it)\s+back\b|\bi\s+meant?\b|\bmy\s+(?:mistake|bad)\b|\bnever\s*mind\b"
    r"|\bi\s+made\s+a(?:n?\s+\w+)?\s+(?:mistake|error)\b",
    re.IGNORECASE,
)
_CANNOT = (
    r"(?:can(?:not|'t|\s+not)|could(?:\s+not|n't)|unable\s+to|not\s+able\s+to|impossible\s+to"
    r"|not\s+possible\s+to|hard\s+to|difficult\s+to)"
)
# No answer, whatever the rest of the text says.
REFUSAL = re.compile(
    r"\bnone\s+of\s+(?:the|these|those|them)\b(?!\s+(?:other|rest|remaining))|\bno\s+(?:correct|right"
    r"|suitable)\s+(?:answer|option|choice)"
    rf"|\b{_CANNOT}\s+(?:\w+\s+)?(?:be\s+)?(?:process|access|help|assist|provide|play|analy|answer"
    rf"|(?:hear|listen)\w*\s*(?:$|[.,;]"
    r"|(?:to\s+)?(?:(?:the|this|any|your|an?)\s+)?(?:audio|sounds?|recordings?|clips?|files?|it\b"
    r"|anything|music)))"
    r"|\b(?:do|does|did)(?:n't|\s+not)\s+have\s+(?:access|enough|ears|the\s+ability)"
    r"|\bneeds?\s+to\s+(?:hear|listen)\b"
    r"|\bplease\s+(?:provide|share|upload|resend)\b|\bas\s+an?\s+(?:\w+\s+)?(?:ai|model)\b"
    r"|\bno\s+(?:audio|answer)\b|\bn/a\b|\brefuse\s+to\b",
    re.IGNORECASE,
)
# No answer unless another clause gives one.
HEDGE = re.compile(
    rf"\b(?:neither|nor)\b|\b{_CANNOT}\s+(?:\w+\s+)?(?:be\s+)?(?:determin|tell|hear|identif|say|know"
    rf"|decid|distinguish|confirm|sure|judge"
    r"|recogni|discern|make|certain|choose)"
    r"|\b(?:do|does|did)(?:n't|\s+not)\s+know\b|\bnot\s+(?:(?:entirely|completely|100\s*%|fully|very"
    r"|quite|so)\s+)?(?:sure|certain|clear|enough)\b"
    r"|\b(?:unsure|unclear|uncertain|insufficient|indeterminate|sorry)\b|\bno\s+idea\b",
    re.IGNORECASE,
)
CLAUSE_END = re.compile(
    r"[,;:](?=\s)|\b(?:but|however|yet|still|although|though|nevertheless|nonetheless|so)\b", re.I
)
