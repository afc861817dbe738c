"""Reading CSV tables with a header: the one reader for conversion, fine-tuning and benchmarks."""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from alm.common.errors import ManifestError
from alm.common.files import open_regular, read_text, reason
from alm.common.storage.remote import to_path

_LONGEST_CELL = 16_000_000  # characters; the csv module's own limit of 131072 is too small for transcripts


def read_csv(
    path: str | os.PathLike[str],
    columns: Sequence[str] = (),
    *,
    header: bool = True,
    delimiter: str = ",",
    comment: str | None = None,
    keep_spaces: bool = False,
    quoted: bool = True,
) -> Iterator[tuple[str, dict[str, str]]]:
    """Read the rows of a CSV table as (`file:line`, row).

    Blank lines are skipped. Empty cells after the last column are ignored.

    Args:
        path: The table, UTF-8 with or without a byte order mark.
        columns: Columns that the table must have; without a header, the names of the columns in order.
        header: Whether the first line names the columns.
        delimiter: The character between cells.
        comment: Lines that start with this are skipped.
        keep_spaces: Keep spaces around a cell. By default they are removed, and a quote may follow a space.
        quoted: Whether cells may stand in quotes; False takes quotes as any other character.

    Yields:
        `file:line` of the row's first line, and its cells by column name.

    Raises:
        ManifestError: The file cannot be read or is not a UTF-8 table, a column is missing or named twice, or a row
            has more or fewer cells than there are columns.
    """
    path = to_path(path)
    csv.field_size_limit(_LONGEST_CELL)
    names = None if header else list(columns)
    try:
        with open_regular(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            reader = csv.reader(
                _without_nul(text, path),
                delimiter=delimiter,
                skipinitialspace=not keep_spaces,
                strict=True,
                quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            )
            while True:
                where = f"{path}:{reader.line_num + 1}"
                try:
                    row = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    raise ManifestError(f"{where}: not a CSV row ({error}); check its quotes") from error
                if not row or (comment and row[0].startswith(comment)):
                    continue
                cells = row if keep_spaces else [cell.strip() for cell in row]
                if names is None:
                    names = _header(cells, columns, where)
                    continue
                yield where, _row(cells, names, where)
    except UnicodeDecodeError as error:
        read_text(path, "a CSV table")  # names the byte
        raise ManifestError(f"{path}: is not UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path}: cannot be read ({reason(error)}); expected a CSV table") from error
    if names is None:
        raise ManifestError(
            f"{path}: is empty; expected a header with {', '.join(columns) or 'column names'}"
        )


def _without_nul(lines: Iterable[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise ManifestError(f"{path}:{number}: holds a NUL character; save the table as UTF-8 text")
        yield line


def _header(cells: Sequence[str], columns: Sequence[str], where: str) -> list[str]:
    names = [name.strip() for name in cells]
    while names and not names[-1]:
        names.pop()
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ManifestError(f"{where}: two columns are named {twice!r}; rename one")
    for column in columns:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"rename {near[0]!r}" if near else "add it"
            raise ManifestError(f"{where}: no column {column!r} among {', '.join(names) or 'none'}; {hint}")
    return names


def _row(cells: Sequence[str], names: Sequence[str], where: str) -> dict[str, str]:
    extra = [cell for cell in cells[len(names) :] if cell.strip()]
    if len(cells) < len(names) or extra:
        raise ManifestError(
            f"{where}: the row has {len(cells)} cells; expected {len(names)} ({', '.join(names)}); complete it, or "
            "put quotes around a cell that contains the delimiter"
        )
    return dict(zip(names, cells, strict=False))
