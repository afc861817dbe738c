"""The subcommands of `alm`: one file each, which assigns `COMMAND`, here or in a plug-in folder.

A subcommand imports its libraries only when it runs, so that `alm --help` starts fast.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

from alm.common.plugins import Registry
from alm.common.seeds import SEEDS

Commands = argparse._SubParsersAction
"""What `ArgumentParser.add_subparsers` returns; `add_parser` of it makes the parser of a subcommand."""


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Args:
        add: Adds its parser to the subcommands; the parser's default `run` takes the parsed arguments and returns the
            exit code, or None for 0.
        order: Place in the help; plug-ins come last.
    """

    add: Callable[[Commands[argparse.ArgumentParser]], None]
    order: int = 1000


COMMANDS: Registry[Command] = Registry(
    "command",
    "COMMAND",
    "alm.commands",
    accepts=lambda found: isinstance(found, Command),
    expected="Command(add)",
)


def all_commands() -> list[Command]:
    """Every subcommand, in the order of the help.

    Raises:
        ConfigError: The file of a plug-in does not import or assigns something else.
    """
    found = [(name, COMMANDS.get(name)) for name in COMMANDS.names()]
    return [command for _, command in sorted(found, key=lambda one: (one[1].order, one[0]))]


def add_overrides(parser: argparse.ArgumentParser, text: str) -> None:
    """Add the argument for `KEY=VALUE` overrides of a config, with its help text."""
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=text)


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """Add `--trust-remote-code` to a command that loads a model."""
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with the model's LLM; only for an author whom you trust (no)",
    )


def positive(text: str) -> int:
    """Parse an option: a whole number of 1 or more."""
    if not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got '{text[:40]}', expected a whole number of 1 or more")
    return int(text)


def seed(text: str) -> int:
    """Parse an option: a seed that every generator of random numbers takes."""
    if not text.isdecimal() or len(text) > 10 or int(text) >= SEEDS:
        raise argparse.ArgumentTypeError(f"got '{text[:40]}', expected a seed of 0 to {SEEDS - 1}")
    return int(text)


def seconds(text: str) -> float:
    """Parse an option: a finite number of seconds above 0."""
    if (found := number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"got '{text[:40]}', expected more than 0 seconds")
    return found


def number(text: str) -> float:
    """Parse an option: a finite number."""
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise argparse.ArgumentTypeError(f"got '{text[:40]}', expected a finite number")
    return found
