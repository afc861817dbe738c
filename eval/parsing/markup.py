"""Removes everything around an answer: thinking, markdown, HTML, special tokens, tags, boxes and JSON fields."""

import html
import json
import re
from functools import lru_cache
from typing import Any

_THINKING = (
    r"(?:\w+:)?(?:think(?:ing)?|reason(?:ing)?|thoughts?|scratchpad|analysis"
    r"|reflection|rationale|explanation|cot)"
)
_OPEN, _CLOSE = r"[<\[\u25c1]", r"[>\]\u25b7]"
_THINK_TAG = re.compile(rf"(?i){_OPEN}(/?)({_THINKING}){_CLOSE}")
# Marks the end of thinking, also where the text does not hold its start: a closing tag, a channel marker, or a
# console's line.
_THINK_END = re.compile(
    rf"(?i){_OPEN}/{_THINKING}{_CLOSE}|<\|channel\|>\s*final\s*<\|message\|>|\bdone thinking\b\W*"
)
# Thinking that never ended was cut off before the answer.
_THINK_OPEN = re.compile(rf"(?is){_OPEN}{_THINKING}{_CLOSE}.*$")

_MARK = (
    r"(?:answer|ans|final|choice|chosen|option|result|solution"
    r"|verdict|response|output|select|letter|label|predict|decision)"
)
_MARKED_NAME = rf"(?=\w*{_MARK})(\w+)"
_TAG = re.compile(rf"(?is)[<\[]{_MARKED_NAME}[>\]](.*?)(?:[<\[]/\1[>\]]|$)")
_LATEX = re.compile(r"\\(?:text\w*|math\w+|emph|underline|fbox)\s*\{([^{}]*)\}")
_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
# A field of invalid JSON, for example with single quotes or a trailing comma.
_LOOSE_FIELD = re.compile(
    rf"""(?is)[{{,]\s*["']?{_MARKED_NAME}["']?\s*:\s*(?:"([^"{{}}]*)"|'([^{{}}]*?)'(?=\s*[,}}]))"""
)
_KEY = re.compile(rf"(?i)\w*{_MARK}\w*$")
_PLURAL_KEY = re.compile(
    r"(?i)(?:options|choices|labels|letters|answers|reject\w*|\w*(?:reason|type|count|confidence))$"
)


LONGEST = 8000
"""Characters of an answer, thinking not counted, that are read. A longer one is read from its start and its end."""
_FROM_START = 2000


@lru_cache(maxsize=16)  # one answer is read against choices and as a short answer
def shortened(text: str) -> str:
    """A long answer without its middle.

    Returns:
        The text itself if it has at most `LONGEST` characters; otherwise, without thinking, its first 2,000 and its
        last 6,000 characters, cut at white space. Answers stand in front of an explanation or behind it.
    """
    if len(text) <= LONGEST:
        return text
    text = strip_thinking(text).strip()
    if len(text) <= LONGEST:
        return text
    start, end = text[:_FROM_START], text[-(LONGEST - _FROM_START) :]
    # Not through the middle of a word.
    start, end = re.sub(r"\S{0,99}$", "", start), re.sub(r"^\S{0,99}", "", end)
    return f"{start}\n{end}"


def strip_thinking(text: str) -> str:
    """Drop the thinking of a model before its answer."""
    text = _strip_closed_thinking(text)
    ends = list(_THINK_END.finditer(text))
    if ends:
        text = " " + text[ends[-1].end() :]
    return _THINK_OPEN.sub(" ", text)


def _strip_closed_thinking(text: str) -> str:
    """Replace every span from an opening tag to the next closing tag of the same name by a space."""
    tags = list(_THINK_TAG.finditer(text))
    next_close: dict[str, int] = {}
    closes: list[int | None] = [None] * len(tags)
    for at in range(len(tags) - 1, -1, -1):
        name = tags[at][2].lower()
        if tags[at][1]:
            next_close[name] = tags[at].end()
        else:
            closes[at] = next_close.get(name)
    kept, done = [], 0
    for tag, close in zip(tags, closes, strict=True):
        if close is not None and tag.start() >= done:
            kept += [text[done : tag.start()], " "]
            done = close
    return "".join([*kept, text[done:]])


def strip_markdown(text: str) -> str:
    """Drop the markup of markdown, LaTeX and HTML but keep its text; struck-out text is dropped, too."""
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
    """The content of the last non-empty tag, box or JSON field that marks an answer; None without."""
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
            content = _answer_of(value) if isinstance(value, dict) else None
        except (ValueError, RecursionError):
            content = None
        if content is not None:
            found.append((at, content))
        at = text.find("{", end)
    if not found:
        fields = list(_LOOSE_FIELD.finditer(text))
        found = [(one.start(), one[2] or one[3] or "") for one in fields if not _PLURAL_KEY.match(one[1])]
    return found


def _answer_of(value: Any) -> str | None:
    """The answer in an object: fields with a name such as `answer` are read before fields that hold objects."""
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
