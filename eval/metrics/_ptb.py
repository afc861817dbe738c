r"""Penn Treebank tokenisation of captions, as the COCO caption evaluation does it with a Java program.

The official pipeline runs `PTBTokenizer -preserveLines -lowerCase` of Stanford CoreNLP 3.4.1 and drops a list of
punctuation tokens. This is a port of that program for captions, one caption at a time. Two quirks of the
official pipeline are kept because scores depend on them: brackets stay as `-lrb-`, `-rrb-` (the list of dropped
tokens has them in upper case, but is applied after lower-casing), and so do runs such as `?!`. A third quirk is not
kept: there, line separators other than `\n` shift all later captions; here they count as spaces.

The lexer takes, at each position, the longest match over `_RULES` (the first rule wins a tie), like the generated
lexer it follows. The first group of a rule is the token; the rest of its match is context, which is not consumed.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

# Dropped after tokenisation (the list of the official wrapper, upper-case brackets included).
_DROPPED = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

# Combining marks and modifiers that the Java program treats as letters.
_MARKS = (
    "\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02ed\u02ef-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5"
    "\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955"
    "\u0962\u0963\u0981-\u0983\u09bc-\u09cd\u0a01-\u0a03\u0a3c-\u0a4f\u0a81-\u0a83\u0abc-\u0acf\u0b82\u0bbe-\u0bcd"
    "\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e"
)
# Numbers that Python counts among word characters and the Java program does not.
_NOT_LETTERS = "\u00b2\u00b3\u00b9\u00bc-\u00be\u2070-\u218f\u2460-\u2b73\U00010000-\U0010ffff"
# Case-sensitive, or the Kelvin sign among them would take "k" along.
_A = rf"(?-i:[^\W\d_{_NOT_LETTERS}]|[{_MARKS}])"
_AN = rf"(?-i:[^\W_{_NOT_LETTERS}]|[{_MARKS}])"
_APOS = "['\u0092\u2019]"
_SPACE = "[ \t\u00a0\u2000-\u200a\u3000]"
_SYMBOLS = (
    "$%&*+,:;<=>\\\\^`|~/.\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b9\u00bf\u00d7\u00f7\u037e\u0387\u0589\u05be\u05c0"
    "\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a\u066d\u06d4\u0700-\u070d"
    "\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042"
    "\u2044\u2070\u2074-\u207e\u2080-\u208e\u20a4\u2100\u2101\u2103-\u2106\u2108\u2109\u2114\u2116-\u2118"
    "\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144\u214a-\u214d\u214f\u2155-\u215e\u2190-\u2bff"
    "\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6"
)
_REWRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    "\u0080": "$", "\u00a4": "$", "\u20a0": "$", "\u20ac": "$", "\u00a2": "cents", "\u00a3": "#",
    "\u00bc": "1/4", "\u00bd": "1/2", "\u00be": "3/4", "\u2153": "1/3", "\u2154": "2/3",
}  # fmt: skip
# Single characters that open or close a quotation; which way they face does not matter, all are dropped.
_QUOTES = "\"'`\u0082\u0084\u0091-\u0094\u00ab\u00bb\u2018\u2019\u201b\u201c\u201d\u2039\u203a"

# Words whose period belongs to them (as a sentence end they get a second one, which is dropped anyway).
_ABBREVIATIONS = (
    "jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thurs fri "
    "ala ariz az ark calif colo conn ct dak del fla ga ill ind kan kans ky la mass md mich minn miss mo mont neb "
    "nev okla ore pa penn tenn tex va vt wash wis wisc wyo "
    "inc co cos corp pty ltd plc rt bancorp dept bhd assn univ intl sys invt elec natl mtg mfg "
    "tel est ext sq jr sr bros esq ed eds etc al seq "
    "mr mrs ms dr drs prof profs sen sens rep reps atty attys lt col gen messrs gov govs adm rev maj sgt cpl pvt "
    "capt st ste ave pres lieut hon brig cmdr comdr pfc spc supt supts det mt ft adj adv asst assoc ens insp mlle "
    "mme msgr sfc vs wm jos cie cf alex ph blvd rd"
).split()
_COUNTED = "ca figs? prop nos? art bldg pp op".split()  # abbreviations only before a number


def _rule(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


_EXTENSIONS = (
    "bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql"
    "|tar|txt|wav|x|xml|zip|wm|wma|wmv"
)
_SIGNED = r"[-+]?(?:\d*(?:[.:,]\d+)+|\d+)"
_ONE_LETTER = r"[a-z](?:\.[a-z])*"
_RULES: tuple[re.Pattern[str], ...] = tuple(
    _rule(pattern)
    for pattern in (
        # words made of two tokens
        r"(can)not\b(?!['\u2019])",
        r"(gon(?=na)|got(?=ta)|lem(?=me)|gim(?=me)|wan(?=na))(?:na|ta|me)(?![a-z0-9'\u2019])",
        rf"({_APOS}t)(?:is|was)(?![a-z0-9])",
        # words
        rf"({_A}{_AN}*(?:[.!?]{_A}{_AN}*)*)",
        rf"([a-z]*[a-mo-z])n{_APOS}t",
        rf"([a-z]+)(?={_APOS}(?:[msd]|re|ve|ll)(?![a-z]))",
        rf"({_APOS}n{_APOS}?|[ldj]{_APOS}(?=[a-z])|dunkin{_APOS}|somethin{_APOS}|ol{_APOS}|{_APOS}em|c{_APOS}mon"
        rf"|{_APOS}[2-9]0s|{_APOS}till?|{_APOS}cause|ma{_APOS}am|cap{_APOS}n)(?!{_AN})",
        rf"(y{_APOS})all",
        rf"(n{_APOS}t{_AN}*)",
        rf"({_APOS}(?:[msd]|re|ve|ll))(?![a-z])",
        r"([\u0092\u2019](?:[msd]|re|ve|ll))",
        rf"([dol]{_APOS}{_AN}{{2,}})",
        # addresses
        r"(https?://[^\s\"<>|()]+[^\s\"<>|.!?(){},-])",
        r"((?:www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-z]{2,4}|(?:[^\s\"`'<>|.!?(){},_$-]+\.)+(?:com|net|org|edu))"
        r"(?:/[^\s\"<>|()]+[^\s\"<>|.!?(){},-])?)",
        r"([a-z0-9][^\s\"<>|()]*@(?:[^\s\"<>|().]+\.)*[^\s\"<>|().]+)",
        r"(@[a-z_][a-z_0-9]*)",
        rf"(\#{_A}[\w]*)",
        r"(<(?:[!?][a-z-][^>]*|/?[a-z][a-z0-9:.-]*(?:\s+[^<>]*)?/?)>)",
        # numbers
        r"(\d{1,2}[-/]\d{1,2}[-/]\d{2,4})",
        rf"({_SIGNED})",
        r"(\d{1,4}/\d{1,4})",
        r"([\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+))",
        # compounds
        r"([a-z0-9]+(?:-[a-z]+){0,2}(?:/[a-z0-9]+(?:-[a-z]+){0,2}){1,2})",
        r"([a-z]*\$)",
        rf"([a-z0-9][a-z0-9.,]*(?:-(?:[a-z0-9]+|{_ONE_LETTER}\.))+)",
        rf"({_AN}+(?:[-_\u2010\u2011\u058a]{_AN}+)*)",
        rf"({_AN}+(?:[-_]{_AN}+)*\.)[,;:]",
        rf"({_AN}+(?:[-._/]{_AN}+)*\.(?:{_EXTENSIONS}))(?!{_AN})",
        r"((?-i:[A-Z]+(?:[+&][A-Z]+)+))",
        rf"(c\+\+|[cf]\#|[dl]{_APOS}|pro-|anti-)",
        # abbreviations
        rf"((?:{'|'.join(_ABBREVIATIONS)}|{_ONE_LETTER})\.)",
        rf"((?:{'|'.join(_COUNTED)})\.){_SPACE}?\d",
        rf"((?:[a-z]+-)?{_ONE_LETTER}\.(?:-{_ONE_LETTER}\.)?)",
        # marks
        r"(-(?:rrb|lrb|rcb|lcb|rsb|lsb)-)",
        r"([<>]?[:;=][-o*']?[()dpo\\{@|\[\]])(?![a-z0-9])",
        r"([-^x=~<>']_[-^x=~<>'])",
        r"(-+|@+|_+|\#+|\*{1,3}|[?!]+)",
        r"([\u0096\u0097\u2013-\u2015])",
        r"(\.{3,5}|\u2026)",
        rf"([{_QUOTES}]|[()\[\]{{}}])",
        rf"([{_SYMBOLS}{''.join(_REWRITTEN)[6:]}])",
    )
)


# Nearly every word of a caption: plain letters, then a space, comma, full stop or the end.
_PLAIN = re.compile(r"([A-Za-z]{2,})(?=([,.]?)(?:[ ]|$))")
_NOT_PLAIN = frozenset(["cannot", "gonna", "gotta", "lemme", "gimme", "wanna"])
_ABBREVIATED = frozenset(_ABBREVIATIONS) | frozenset(re.sub(r"\W", "", word) for word in _COUNTED)
_ABBREVIATED |= frozenset(word.replace("s?", "") for word in _COUNTED)
# A line break inside a caption is white space (the official program would take it for the next caption).
_BLANKS = re.compile(r"[\s\x1c-\x1f\x85\u2028\u2029]+")
_QUOTE_TOKENS = frozenset(_QUOTES)


@lru_cache(maxsize=65536)
def _tokenize(caption: str) -> tuple[str, ...]:
    text = _BLANKS.sub(" ", caption).strip().replace("\u00ad", "")
    tokens = (token for raw in _lex(text) for token in raw.lower().split())
    return tuple(token for token in tokens if token not in _DROPPED)


def tokenize(caption: str) -> list[str]:
    """Cut one caption into lower-case words without punctuation.

    Args:
        caption: Any text; a caption of nothing but punctuation gives no words.

    Returns:
        The words, equal to those of the official Java pipeline for a caption that stands alone.
    """
    return list(_tokenize(caption))


def _lex(text: str) -> Iterator[str]:
    """Yield the tokens of one line, normalised but not lower-cased."""
    position = 0
    while position < len(text):
        plain = _PLAIN.match(text, position)
        if plain:
            word = plain[1]
            known = word.lower()
            if known not in _NOT_PLAIN and not (plain[2] == "." and known in _ABBREVIATED):
                yield word
                position = plain.end(1)
                continue
        if text[position] == " ":
            position += 1
            continue
        best = None
        for rule in _RULES:
            match = rule.match(text, position)
            if match and (best is None or match.end() > best.end()):
                best = match
        if best is None:
            # Without a rule for a character, the official program also drops it.
            position += 1
            continue
        position = best.end(1)
        yield _normalise(best[1])


def _normalise(token: str) -> str:
    """Rewrite a token the way the Treebank writes it."""
    if token in _QUOTE_TOKENS:
        return "'"
    if token in _REWRITTEN:
        return _REWRITTEN[token]
    if token[0] in "\u0096\u0097\u2013\u2014\u2015" or set(token) == {"-"} and 2 <= len(token) <= 4:
        return "--"
    if token[0] in ".\u2026" and not token.strip(".\u2026"):
        return "..."
    if token[-1] in "()" and len(token) < 5:  # smileys
        return "".join(_REWRITTEN.get(mark, mark) for mark in token)
    if re.fullmatch(rf"(?:n?{_APOS}\w+)", token) and not token[1].isdigit():
        return re.sub(_APOS, "'", token)
    return token
