"""The `alm` command. Only the subcommand that needs a package imports it, so `alm --help` starts fast."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import alm
from alm.commands import all_commands
from alm.common.errors import Preempted, UserError
from alm.common.files import disk_problem
from alm.common.import_path import protect_imports
from alm.common.plugins import PLUGINS
from alm.common.processes import interrupts_repeated_where_dropped
from alm.common.terminal import OutputClosed, drop_output, safe_streams
from alm.common.text import one_line

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

TRACEBACK = "ALM_TRACEBACK"
"""Environment variable: if set, errors that are printed as one line are shown with their traceback."""

# The machine caused these errors (full disk, no permission), not our code: print one line with file and reason.
_MACHINE = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE,
    errno.ENOMEM, errno.EFBIG, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EISDIR,
})  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    0: done. 1: a check or some files failed. 2: invalid input, configuration or environment. 75: received SIGTERM or
    SIGUSR1 and saved a checkpoint. 130: interrupted. 141: the reader of the output has gone.
    """
    if argv is None:
        protect_imports()
    with safe_streams(), interrupts_repeated_where_dropped():
        try:
            code = _run(sys.argv[1:] if argv is None else argv)
            _flush()
            return code
        except KeyboardInterrupt:
            return _end("interrupted; run the same command again to resume", EXIT_INTERRUPTED)
        except OutputClosed as closed:
            drop_output()
            return closed.exit_code
        except Preempted as error:
            return _end(str(error), error.exit_code)
        except Exception as error:
            line = _explain(error)
            if line is None or os.environ.get(TRACEBACK):
                raise
            return _end(f"error: {line}", EXIT_USER_ERROR)


def _run(argv: Sequence[str]) -> int:
    plugins, words = _split_general(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("DeepSpeed").addFilter(_is_no_cpu_notice)
    with _in_environment(plugins):
        parser = build_parser()
        try:
            arguments, rest = parser.parse_known_args(words)
        except SystemExit:
            _flush()  # the help may have gone into a closed pipe
            raise
        # argparse accepts one run of KEY=VALUE words; words that follow after an option are left in `rest`.
        wrong = [word for word in rest if word.startswith("-") or "=" not in word]
        if wrong or (rest and not hasattr(arguments, "overrides")):
            parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
        if rest:
            arguments.overrides = [*arguments.overrides, *rest]
        return arguments.run(arguments) or 0


def _is_no_cpu_notice(record: logging.LogRecord) -> bool:
    """DeepSpeed prints to stdout, between results, that a machine without a GPU has none."""
    return not record.getMessage().startswith("Setting accelerator to CPU")


def _end(line: str, code: int) -> int:
    """Print the last line of a command; returns its exit code."""
    with suppress(OutputClosed, OSError):
        _flush()
    with suppress(OutputClosed, OSError):
        print(one_line(line), file=sys.stderr)
    drop_output()
    return code


def _flush() -> None:
    if sys.stdout is not None:  # None where the caller closed it
        sys.stdout.flush()


def _explain(error: Exception) -> str | None:
    """One line for an error that the user's input or the machine caused; None for an error in our code."""
    if isinstance(error, UserError):
        return str(error)
    more = f"(set {TRACEBACK}=1 to see where)"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, on a GPU
        return f"out of memory: {error or 'the machine has no more'}; use smaller batches or a smaller model {more}"
    if isinstance(error, OSError) and error.errno in _MACHINE:
        return f"{error.filename or 'writing or reading'}: {error.strerror} {more}"
    if (problem := disk_problem(error)) is not None:  # wrapped in an exception of a library
        return f"writing or reading: {problem} {more}"
    if isinstance(error, RecursionError):
        return f"an input is nested too deeply {more}"
    if isinstance(error, UnicodeError):
        return f"text cannot be read or written in its encoding: {error} {more}"
    return None


def _split_general(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The directories of every `--plugins DIR`, wherever it stands, and the other words.

    The `deepspeed` launcher puts `--local_rank=N` first. It is dropped: the variable LOCAL_RANK holds the same number.
    """
    parser = argparse.ArgumentParser(prog="alm", add_help=False, allow_abbrev=False)
    parser.add_argument("--plugins", action="append", default=[])
    parser.add_argument("--local_rank", "--local-rank", type=int)
    found, rest = parser.parse_known_args(argv)
    return found.plugins, rest


@contextmanager
def _in_environment(plugins: Sequence[str]) -> Iterator[None]:
    """Put directories into ALM_PLUGINS, which worker processes inherit, while a command runs."""
    before = os.environ.get(PLUGINS)
    there = before.split(os.pathsep) if before else []
    if plugins:
        os.environ[PLUGINS] = os.pathsep.join([*map(os.path.abspath, plugins), *there])
    try:
        yield
    finally:
        if plugins and before is None:
            del os.environ[PLUGINS]
        elif plugins and before is not None:
            os.environ[PLUGINS] = before


def build_parser() -> argparse.ArgumentParser:
    """The whole command line, with the commands of plug-in folders."""
    parser = argparse.ArgumentParser(
        prog="alm",
        description="Build, train and evaluate audio-language models.",
        epilog="Each subcommand has its own --help.",
    )
    parser.add_argument("--version", action="version", version=f"alm {alm.__version__}")
    parser.add_argument(
        "--plugins",
        metavar="DIR",
        help=f"also find encoders, benchmarks, stages and other components in the files of DIR (or set {PLUGINS})",
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in all_commands():
        command.add(subparsers)
    return parser
