"""The `alm` command. Floors are imported only by the subcommand that needs them, so help is immediate."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from alm.commands import (
    ablate,
    ask,
    compare,
    data,
    embed,
    encoders,
    evaluate,
    export,
    inspect,
    listing,
    quickstart,
    runs,
    score,
    train,
)

EXIT_USER_ERROR = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code.

    0 done, 1 a check or some files failed, 2 the user's to fix, 75 preempted, 130 interrupted.
    """
    parser = build_parser()
    plugins, argv = _split_general(sys.argv[1:] if argv is None else argv)
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives KEY=VALUE words only the first place they stand in; options may come between them.
    wrong = [word for word in rest if word.startswith("-") or "=" not in word]
    if wrong or (rest and not hasattr(arguments, "overrides")):
        parser.error(f"unrecognized arguments: {' '.join(wrong or rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with _in_environment(plugins):
            return arguments.run(arguments) or 0
    except KeyboardInterrupt:
        print("interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        from alm.common.errors import Preempted, UserError

        if isinstance(error, Preempted):
            print(error, file=sys.stderr)
            return error.exit_code
        if not isinstance(error, UserError):
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_USER_ERROR


def _split_general(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The directories of every `--plugins DIR`, wherever it stands, and the other words.

    The `deepspeed` launcher puts `--local_rank=N` first; it says the same in LOCAL_RANK, which is what is read.
    """
    parser = argparse.ArgumentParser(prog="alm", add_help=False, allow_abbrev=False)
    parser.add_argument("--plugins", action="append", default=[])
    parser.add_argument("--local_rank", "--local-rank", type=int)
    found, rest = parser.parse_known_args(argv)
    return found.plugins, rest


@contextmanager
def _in_environment(plugins: Sequence[str]) -> Iterator[None]:
    """Put directories into ALM_PLUGINS, which worker processes inherit, for the time of a command."""
    before = os.environ.get("ALM_PLUGINS")
    there = before.split(os.pathsep) if before else []
    if plugins:
        os.environ["ALM_PLUGINS"] = os.pathsep.join([*map(os.path.abspath, plugins), *there])
    try:
        yield
    finally:
        if plugins and before is None:
            del os.environ["ALM_PLUGINS"]
        elif plugins and before is not None:
            os.environ["ALM_PLUGINS"] = before


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="alm",
        description="Build, train and evaluate audio-language models.",
        epilog="Each subcommand has its own --help.",
    )
    parser.add_argument(
        "--plugins", metavar="DIR", help="also find encoders in the files of DIR (or set ALM_PLUGINS)"
    )
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands = (
        quickstart,
        data,
        train,
        evaluate,
        score,
        compare,
        ablate,
        ask,
        export,
        inspect,
        embed,
        encoders,
        listing,
        runs,
    )
    for command in commands:
        command.add(subparsers)
    return parser
