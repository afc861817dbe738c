"""Escaping of untrusted text for terminals, Markdown and CSV, one function each; and plain-text tables.

Answers, ids, file names and error messages may hold anything. HTML is escaped by the templates of `eval.reports`.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

# Control characters, and lone surrogates (names that are not UTF-8), which no file can hold.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
_UNWRITABLE = re.compile(f"[{_CONTROLS}]")
# Also marks of text direction, which reorder what a terminal shows.
_UNPRINTABLE = re.compile(f"[{_CONTROLS}\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"\s*[=+\-@]|[\t\r]")
_LINK = re.compile(r"\](?=[(\[])")  # `[text](address)`, `![picture](address)`, `[text][name]`
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def decode_base64(text: str | bytes) -> bytes:
    """Bytes of base64 text: white space is ignored, `-_` may stand for `+/`, padding may be missing.

    Raises:
        ValueError: It is not base64.
    """
    data = text.encode("ascii") if isinstance(text, str) else text
    data = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/")
    return base64.b64decode(data + b"=" * (-len(data) % 4), validate=True)


def printable(text: str) -> str:
    r"""Text that is safe to print: control characters are escaped (`\x1b`), except line feed and tab."""
    return _UNPRINTABLE.sub(_escape, text)


def writable(text: str) -> str:
    """Text that a UTF-8 page can hold and show: control characters and lone surrogates are escaped."""
    return _UNWRITABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode("ascii")


def one_line(text: str) -> str:
    """Printable text on one line, runs of white space as one space."""
    return " ".join(printable(text).split())


def error_line(error: BaseException, limit: int = 300) -> str:
    """An exception's message on one line, with its type if the message alone is unclear."""
    text = one_line(str(error))[:limit]
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def json_line(value: Any) -> str:
    r"""A value as JSON on one line: readable text as it is, everything that `printable` escapes as `\uXXXX`."""
    text = json.dumps(value, ensure_ascii=False)
    return _UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def markdown_cell(text: str) -> str:
    """Text inside a Markdown page or table: no raw HTML, no link or image, no column separator, no line break."""
    escaped = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return _LINK.sub(r"\\]", escaped.replace("|", "\\|"))


def markdown_table(
    head: Sequence[str], rows: Iterable[Sequence[str]], cell: Callable[[str], str] = markdown_cell
) -> list[str]:
    """Lines of a Markdown table.

    Args:
        head: Names of the columns.
        rows: Cells, as many per row as there are columns.
        cell: Escapes a cell. The default is for any text; cells that hold Markdown need another.
    """
    table = [[cell(text) for text in head], ["---"] * len(head)]
    table += [[cell(text) for text in row] for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in table]


def text_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[int] = ()) -> list[str]:
    """Lines of an aligned table for a terminal.

    Args:
        head: Names of the columns.
        rows: Cells, as many per row as there are columns.
        right: Numbers of the columns that are aligned to the right.
    """
    table = [[one_line(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return ["  ".join(
        cell.rjust(width) if column in right else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip() for row in table]  # fmt: skip


def csv_cell(value: Any) -> Any:
    """A value as a CSV cell that no spreadsheet takes for a formula: text that begins with `= + - @` gets a `'`."""
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([csv_cell(value) for value in row] for row in rows)
    return text.getvalue()
