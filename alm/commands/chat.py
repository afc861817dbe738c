"""`alm chat`: a chat page for a model in the browser."""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import time
from typing import Any

from alm.commands import Command
from alm.commands.serve import add_server_options, given_server_options, port_option


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "chat",
        help="chat with a model in the browser",
        description=(
            "Serve a chat page on this machine. It sends questions to a server that is started for MODEL, or to the "
            "running one at --url."
        ),
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help="audio-language model directory or hub id")
    parser.add_argument("--url", help="address of a running server, such as http://127.0.0.1:8000/v1; its key is read "
                        "from the environment variable ALM_API_KEY")  # fmt: skip
    parser.add_argument("--port", type=port_option, default=0, help="port of the page (a free one)")
    parser.add_argument(
        "--examples", nargs="+", default=[], metavar="AUDIO", help="recordings to choose from"
    )
    add_server_options(parser)
    parser.set_defaults(run=_chat)


def _chat(arguments: argparse.Namespace) -> int:
    from alm.common.errors import ConfigError
    from alm.serving.access import KEY_VARIABLE, check_installed

    if (arguments.model is None) == (arguments.url is None):
        raise ConfigError("give a MODEL, or --url of a running server")
    if arguments.url is not None and (given := given_server_options(arguments)):
        raise ConfigError(
            f"{given[0]}: the server at --url has its own; remove it, or give it to that server"
        )
    check_installed("chat,serve", ("gradio", "openai"))
    for example in arguments.examples:
        if not os.path.isfile(example):
            raise ConfigError(f"--examples {example}: is not a file; give recordings")
    if arguments.url is not None:
        return _show(arguments, arguments.url, os.environ.get(KEY_VARIABLE), None)
    key = secrets.token_urlsafe()
    server = _start_server(arguments, key)
    try:
        line = server.stdout.readline() if server.stdout is not None else ""
        url = line.rpartition(" at ")[2].strip()
        if not url.startswith("http"):
            return server.wait() or 1  # its own line says why
        return _show(arguments, url, key, server)
    finally:
        server.terminate()
        server.wait()


def _start_server(arguments: argparse.Namespace, key: str) -> subprocess.Popen[str]:
    from alm.common.processes import (
        child_environment,
        interrupts_kept_from_children,
        tied_child_command,
    )
    from alm.serving.access import KEY_VARIABLE

    words = ["serve", arguments.model, "--port", "0", "--drain-s", "1", "--engine", arguments.engine,
             "--batch-size", str(arguments.batch_size), "--max-new-tokens", str(arguments.max_new_tokens),
             f"--engine-options={arguments.engine_options}"]  # fmt: skip
    if arguments.trust_remote_code:
        words.append("--trust-remote-code")
    with interrupts_kept_from_children():
        return subprocess.Popen(
            tied_child_command("alm", *words),
            env=child_environment({KEY_VARIABLE: key}),
            stdout=subprocess.PIPE,
            text=True,
        )


def _show(
    arguments: argparse.Namespace, url: str, key: str | None, server: subprocess.Popen[str] | None
) -> int:
    from alm.common.errors import UserError
    from alm.serving.chat import Asker, build_page, open_page

    page = build_page(Asker(url, key), arguments.examples)
    address = open_page(page, arguments.port)
    print(f"open {address} in a browser; Ctrl-C ends it", flush=True)
    try:
        while server is None or server.poll() is None:
            time.sleep(0.2)
        raise UserError("the server has ended; its output says why")
    except KeyboardInterrupt:
        print("ended", file=sys.stderr)
        return 0
    finally:
        page.close()


COMMAND = Command(add, order=8)
