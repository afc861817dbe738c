"""Taking an answer out of its wrapping: thinking, markdown, HTML, special tokens, tags, boxes and JSON fields."""

import html
import json
import re
from typing import Any

_THINKING = (
    r"(?:\w+:)?(?:think(?:ing)?|reason(?:ing)?|thoughts?|scratchpad|analysis"
    r"|reflection|rationale|explanation|cot)"
)
_OPEN, _CLOSE = r"[<\[\u25c1]", r"[>\]\u25b7]"
_THINK = re.compile(rf"(?is){_OPEN}({_THINKING}){_CLOSE}.*?{_OPEN}/\1{_CLOSE}")
# An end without a beginning: what a prompt opened, or channels and consoles that say when thinking is over.
_THINK_TAIL = re.compile(
    rf"(?is)^.*(?:{_OPEN}/{_THINKING}{_CLOSE}|<\|channel\|>\s*final\s*<\|message\|>|\bdone thinking\b\W*)"
)
# Thinking that never ended was cut off before the answer.
_THINK_OPEN = re.compile(rf"(?is){_OPEN}{_THINKING}{_CLOSE}.*$")

_MARK = (
    r"(?:answer|ans|final|choice|chosen|option|result|solution"
    r"|verdict|response|output|select|letter|label|predict|decision)"
)
_TAG = re.compile(rf"(?is)[<\[](\w*{_MARK}\w*)[>\]](.*?)(?:[<\[]/\1[>\]]|$)")
_LATEX = re.compile(r"\\(?:text\w*|math\w+|emph|underline|fbox)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# A field that JSON readers refuse, for quotes or commas that are not theirs.
_LOOSE_FIELD = re.compile(
    rf"""(?is)[{{,]\s*["']?(\w*{_MARK}\w*)["']?\s*:\s*(?:"([^"{{}}]*)"|'([^{{}}]*?)'(?=\s*[,}}]))"""
)
_KEY = re.compile(rf"(?i)\w*{_MARK}\w*$")
_PLURAL_KEY = re.compile(
    r"(?i)(?:options|choices|labels|letters|answers|reject\w*|\w*(?:reason|type|count|confidence))$"
)


def strip_thinking(text: str) -> str:
    """Drop what a model says to itself before it answers."""
    text = _THINK.sub(" ", text)
    text = _THINK_TAIL.sub(" ", text)
    return _THINK_OPEN.sub(" ", text)


def strip_markdown(text: str) -> str:
    """Drop the marks of markdown, LaTeX and HTML, keeping what they mark; struck-out text goes altogether."""
    text = re.sub(r"```(?:\w+[ \t]*\n)?|`", "", text)
    text = re.sub(r"~~[^~\n]+~~|<(del|strike)>[^<\n]*</\1>", " ", text)
    text = re.sub(r"\*\*|__", "", text)
    text = re.sub(r"(?m)^[ \t]*\|[ \t]*|[ \t]*\|[ \t]*$", "", text)
    text = re.sub(r"\\[()\[\]]", " ", _LATEX.sub(r"\1", text))
    text = re.sub(r"\$([^$\n]{1,80})\$", r"\1", text)
    text = re.sub(r"(?<![\w(,*])\*(?=\S)([^*\n]+?)(?<=\S)\*(?![\w)*])", r"\1", text)
    return re.sub(r"(?m)^[ \t]*(?:#{1,6}[ \t]+|>[ \t]*|[-*+][ \t]+\[[ xX]\][ \t]+)", "", text)


def strip_tags(text: str) -> str:
    """Drop HTML tags and a chat template's tokens, keeping what stands between them."""
    text = re.sub(r"<\|[^<>|\n]{1,40}\|>|</?(?:p|br|li|ul|ol|div|h\d|tr)\b[^<>\n]{0,80}>", "\n", text)
    # `<B>` is the letter in brackets unless it is closed.
    text = re.sub(r"<(\w)>(.*?)</\1>", r"\2", text, flags=re.DOTALL | re.IGNORECASE)
    text = re.sub(r"</?[A-Za-z][\w:-]+(?:\s[^<>\n]{0,80})?/?>|</\w>|<s>|\[/?[A-Z]{3,}\]", " ", text)
    return html.unescape(text)


def marked_answer(text: str) -> str | None:
    """What the answer itself marks as its answer: the last non-empty tag, box or JSON field."""
    found = [(match.start(), match[2]) for match in _TAG.finditer(text)]
    for match in _BOXED.finditer(text):
        found.append((match.start(), _LATEX.sub(r"\1", match[1]).replace("\\ ", " ").strip("$ ")))
    found += _json_fields(text)
    marked = [content for _, content in sorted(found) if content.strip()]
    return marked[-1] if marked else None


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
            found += [(at, content) for content in [_answer_of(value)] if content is not None]
        at = text.find("{", end)
    if not found:
        fields = list(_LOOSE_FIELD.finditer(text))
        found = [(one.start(), one[2] or one[3] or "") for one in fields if not _PLURAL_KEY.match(one[1])]
    return found


def _answer_of(value: Any) -> str | None:
    """The answer in an object: a field named so, before fields that hold further objects."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        parts = [_answer_of(one) for one in value]
        return ", ".join(part for part in parts if part) or None
    if not isinstance(value, dict):
        return None
    named = {str(key).replace(" ", "_"): field for key, field in value.items()}
    keys = [key for key in named if _KEY.match(key) and not _PLURAL_KEY.match(key)]
    keys.sort(key=lambda key: ("answer" not in key.lower(), "final" not in key.lower()))
    for key in [*keys, *(key for key, field in named.items() if isinstance(field, dict) and key not in keys)]:
        if (found := _answer_of(named[key])) is not None:
            return found
    return None
