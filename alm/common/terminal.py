"""Standard output and error of the command: untrusted text cannot control the terminal.

Answers, ids and file names may hold control sequences; everything that is printed is escaped here. The progress bar of
every long step shows rate and remaining time; without a terminal it is redrawn every 20 seconds. Text printed while a
bar is shown begins on a new line.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from alm.common.text import printable

_ROW_MOVES = re.compile(r"(\n|\x1b\[A)+")  # as tqdm moves between the rows of several bars

PROGRESS_ROW = "ALM_PROGRESS_ROW"
"""Environment variable: the row of this process's bar, where several processes show one at the same time."""


class OutputClosed(SystemExit):
    """The reader of the output has closed it, as in `alm ... | head`: the command exits with 141, as others do."""

    exit_code = 141  # 128 + SIGPIPE

    def __init__(self) -> None:
        super().__init__(self.exit_code)


@contextmanager
def safe_streams() -> Iterator[None]:
    """Escape what is printed in the block, whatever prints it; so is text that the encoding lacks.

    Raises:
        OutputClosed: The reader of a pipe has gone.
    """
    out, error = sys.stdout, sys.stderr
    bar = _Bar(error)
    if out is not None:
        sys.stdout = _SafeStream(out, bar)
    if error is not None:
        sys.stderr = _SafeStream(error, bar)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = out, error


def drop_output() -> None:
    """Drop what cannot be written to a closed pipe or a full disk, so that Python does not complain at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OutputClosed, OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except (AttributeError, ValueError):  # there is no such stream, or the caller closed it
            pass


class _Bar:
    """Whether a progress bar is on the last line of stderr."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream
        self.open = False

    def end_line(self) -> None:
        if self.open and self.stream is not None:
            self.open = False
            self.stream.write("\n")
            self.stream.flush()


class _SafeStream:
    """A text stream that escapes what is written to it, and passes everything else to the wrapped stream."""

    def __init__(self, stream: TextIO, bar: _Bar) -> None:
        self._stream, self._bar = stream, bar
        self._beside_bar = stream is bar.stream or _same_file(stream, bar.stream)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        is_bar = self._stream is self._bar.stream and text.startswith("\r")
        if is_bar:
            self._bar.open = bool(text.strip()) and not text.endswith("\n")
            shown = "\r" + printable(text[1:])
        elif _ROW_MOVES.fullmatch(text):
            self._bar.open = self._bar.open and "\n" not in text
            shown = text
        else:
            if self._beside_bar and text:
                self._bar.end_line()
            shown = printable(text)
        with _closed_pipe():
            self._stream.write(shown)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with _closed_pipe():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _closed_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise OutputClosed from None


def _same_file(first: TextIO, second: TextIO | None) -> bool:
    """Whether two streams write to one terminal or file, as after `2>&1`."""
    if second is None:
        return False
    try:
        return os.path.sameopenfile(first.fileno(), second.fileno())
    except (OSError, ValueError):  # a stream without a file, as in tests
        return False


@contextmanager
def progress(title: str, total: int, unit: str = "it") -> Iterator[Callable[..., None]]:
    """Show a bar on stderr; yields `advance(n=1, **shown)`.

    Args:
        title: Name of the step; empty shows no bar.
        total: Number of units that will be done.
        unit: Name of one unit.
    """
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    with tqdm(
        total=total,
        desc=title,
        unit=unit,
        mininterval=0.3 if watched else 20.0,
        dynamic_ncols=watched,
        ascii=not watched,
        disable=not title,
        position=int(os.environ.get(PROGRESS_ROW, "0")),
        smoothing=0.1,
    ) as bar:

        def advance(n: int = 1, **shown: object) -> None:
            if shown:
                bar.set_postfix({key: str(value) for key, value in shown.items()}, refresh=False)
            bar.update(n)

        yield advance


def counter(advance: Callable[..., None]) -> Callable[[int, int], None]:
    """Turn `advance` into a callback that takes (done, total)."""
    seen = 0

    def show(done: int, _total: int) -> None:
        nonlocal seen
        advance(done - seen)
        seen = done

    return show
