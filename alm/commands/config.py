"""`alm config`: list the shipped configs; show and check a config."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_overrides

_SCHEMAS = ("stage", "recipe", "eval", "ablation", "quickstart")


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "config",
        help="list, show and check configs, and write their JSON schema",
        description="List, show and check configs. A config is a file, or the name of a shipped one.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list",
        help="list the shipped configs",
        description="List the shipped configs, each with its purpose.",
    )
    listing.add_argument(
        "folder", nargs="?", metavar="FOLDER", help="only those of one folder, for example recipes"
    )
    listing.set_defaults(run=_list)
    show = actions.add_parser(
        "show",
        help="print a config with all defaults and overrides filled in",
        description="Print every key of a config as the command uses it, with defaults and overrides.",
    )
    show.add_argument("config", metavar="CONFIG", help="a file, or a name of alm config list")
    add_overrides(show, "for example optim.lr=1e-4")
    show.add_argument(
        "--raw", action="store_true", help="print the file as it is, with its comments, to copy it"
    )
    show.set_defaults(run=_show)
    check = actions.add_parser(
        "check",
        help="check keys and values of configs, without reading data",
        description="Check keys, types and ranges of configs. Reads no data. The exit code is 1 if one is wrong.",
    )
    check.add_argument("configs", nargs="+", metavar="CONFIG", help="files, or names of alm config list")
    check.set_defaults(run=_check)
    schema = actions.add_parser(
        "schema",
        help="print the JSON schema of a kind of config, for editors",
        description="Print the JSON schema of a kind of config. Plug-ins are included.",
    )
    schema.add_argument("kind", metavar="KIND", choices=_SCHEMAS, help=f"one of {', '.join(_SCHEMAS)}")
    schema.set_defaults(run=_schema)


def _list(arguments: argparse.Namespace) -> None:
    from alm.common.errors import ConfigError
    from alm.common.text import text_table
    from alm.configs.shipped import shipped_configs, summary_of

    wanted = arguments.folder.strip("/") if arguments.folder else None
    found = {
        name: path for name, path in shipped_configs().items() if wanted in (None, name.rpartition("/")[0])
    }
    if not found:
        folders = sorted({name.rpartition("/")[0] for name in shipped_configs()} - {""})
        raise ConfigError(f"no folder '{wanted}' of shipped configs; expected one of {', '.join(folders)}")
    print("\n".join(text_table(("name", "what"), [(name, summary_of(path)) for name, path in found.items()])))


def _show(arguments: argparse.Namespace) -> None:
    import yaml

    from alm.common.errors import ConfigError
    from alm.configs.shipped import find_config
    from train.config_kinds import kind_of

    path = find_config(arguments.config)
    if arguments.raw:
        if arguments.overrides:
            raise ConfigError("--raw prints the file as it is; remove the overrides")
        print(path.read_text(encoding="utf-8"), end="")
        return
    kind = kind_of(path)
    values = kind.resolve(path, arguments.overrides)
    print(f"# {kind.command} {arguments.config}: {path}\n{yaml.safe_dump(values, sort_keys=False)}", end="")


def _check(arguments: argparse.Namespace) -> int:
    import sys

    from alm.common.errors import UserError
    from alm.common.text import one_line
    from alm.configs.shipped import find_config
    from train.config_kinds import kind_of

    wrong = 0
    for given in arguments.configs:
        try:
            path = find_config(given)
            kind = kind_of(path)
            kind.resolve(path, ())
            print(f"{given}: valid ({kind.name}, {kind.command})")
        except UserError as error:
            wrong += 1
            print(one_line(f"error: {error}"), file=sys.stderr)
    return 1 if wrong else 0


def _schema(arguments: argparse.Namespace) -> None:
    import json

    from train.config_kinds import KINDS

    print(json.dumps(KINDS[arguments.kind].schema(), indent=2))


COMMAND = Command(add, order=12)
