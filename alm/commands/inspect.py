"""`alm inspect`: describe a model directory."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_trust_option


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="describe a model directory",
        description="Show a model's parts, constants, adapters and stored tensors, without loading its weights.",
    )
    parser.add_argument("model", metavar="MODEL", help="audio-language model directory or hub id")
    add_trust_option(parser)
    parser.set_defaults(run=_inspect)


def _inspect(arguments: argparse.Namespace) -> None:
    from alm.commands._inspect import describe

    print(describe(arguments.model, trust_remote_code=arguments.trust_remote_code))


COMMAND = Command(add, order=11)
