"""Builds the index of a large manifest with several processes, each for a part of the lines."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from alm.common.files import open_regular
from alm.common.processes import child_environment, interrupts_kept_from_children, tied_child_command
from alm.common.storage.cache import cache_folder

_LEAST_BYTES = 16 << 20  # for each process
_MOST_PROCESSES = 8
_BLOCK = 1 << 20


def rows_by_processes(path: Path, module: str) -> Iterator[bytes] | None:
    """The rows of a manifest's index.

    Args:
        path: The manifest.
        module: Writes the rows of some lines to its standard output, given the path, the offset of the first line, the
            offset behind the last one, and the number of the first one.

    Returns:
        None if the caller should read the lines itself: the file is small, there is one core, or a line is invalid
        (reading line by line then names that line).
    """
    try:
        size = path.stat().st_size
        parts = min(size // _LEAST_BYTES, len(os.sched_getaffinity(0)), _MOST_PROCESSES)
        if parts < 2 or not path.is_file():
            return None
        ranges = _ranges(path, size, parts)
    except (OSError, ValueError, AttributeError):  # no such call outside Linux
        return None
    with ExitStack() as stack:
        # Files, because a process whose pipe is full waits until it is read.
        made = [
            stack.enter_context(tempfile.TemporaryFile(dir=cache_folder("index"))) for _ in range(len(ranges))
        ]
        if not _all_succeed(path, module, ranges, made):
            return None
        return _read(stack.pop_all(), made)


def _all_succeed(
    path: Path, module: str, ranges: list[tuple[int, int, int]], made: Sequence[IO[bytes]]
) -> bool:
    children: list[subprocess.Popen[bytes]] = []
    try:
        with interrupts_kept_from_children():
            for (at, stop, number), file in zip(ranges, made, strict=True):
                command = tied_child_command(module, os.fspath(path), str(at), str(stop), str(number))
                children.append(
                    subprocess.Popen(
                        command,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=subprocess.DEVNULL,
                        env=child_environment(),
                    )
                )
        # The first that fails ends the others.
        return all(child.wait() == 0 for child in children)
    except OSError:
        return False
    finally:
        for child in children:
            child.kill()
            child.wait()


def _read(stack: ExitStack, made: Sequence[IO[bytes]]) -> Iterator[bytes]:
    with stack:
        for file in made:
            file.seek(0)
            while block := file.read(_BLOCK):
                yield block


def _ranges(path: Path, size: int, parts: int) -> list[tuple[int, int, int]]:
    """Offset of the first line, offset behind the last one, and number of the first one of each part."""
    ranges: list[tuple[int, int, int]] = []
    with open_regular(path) as stream:
        at = number = 0
        for part in range(1, parts + 1):
            stream.seek(max(size * part // parts, at))
            stream.readline()
            stop = stream.tell() if part < parts else size
            if stop > at:
                ranges.append((at, stop, number))
                number += _count_lines(stream, at, stop)
            at = stop
    return ranges


def _count_lines(stream: IO[bytes], at: int, stop: int) -> int:
    stream.seek(at)
    found = 0
    while at < stop and (block := stream.read(min(_BLOCK, stop - at))):
        found += block.count(b"\n")
        at += len(block)
    return found
