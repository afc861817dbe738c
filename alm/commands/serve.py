"""`alm serve`: a model behind OpenAI's chat API."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_trust_option, positive, seconds

ENGINES = ("transformers", "vllm")


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "serve",
        help="serve a model through OpenAI's chat API",
        description="Answer /v1/chat/completions, with input_audio and audio_url, until interrupted.",
    )
    parser.add_argument("model", metavar="MODEL", help="audio-language model directory or hub id")
    add_server_options(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; any other than localhost needs a "
                        "key (127.0.0.1)")  # fmt: skip
    parser.add_argument("--port", type=port_option, default=8000, help="port; 0 takes a free one (8000)")
    parser.add_argument("--name", help="the model's name in the API (the last part of MODEL)")
    parser.add_argument("--api-key-file", metavar="FILE", help="file with the key that callers must send (the "
                        "environment variable ALM_API_KEY, or none)")  # fmt: skip
    parser.add_argument("--max-body-mib", type=positive, default=32, help="largest request in MiB (32)")
    parser.add_argument(
        "--max-audio-s", type=seconds, default=600.0, help="longest audio of a request in seconds (600)"
    )
    parser.add_argument(
        "--max-clips", type=positive, default=16, help="maximum number of clips in a request (16)"
    )
    parser.add_argument(
        "--max-requests",
        type=positive,
        default=128,
        help="maximum number of concurrent requests, including waiting ones (128)",
    )
    parser.add_argument(
        "--request-s", type=seconds, default=600.0, help="longest time of a request in seconds (600)"
    )
    parser.add_argument(
        "--drain-s",
        type=seconds,
        default=30.0,
        help="seconds to finish current answers after SIGTERM (30)",
    )
    parser.add_argument(
        "--allow-urls",
        action="store_true",
        help="fetch audio from public http(s) addresses that requests name (no)",
    )
    parser.set_defaults(run=_serve)


def add_server_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the engine, which `alm chat` has as well."""
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="transformers",
        help="engine that generates the answers (transformers)",
    )
    parser.add_argument("--batch-size", type=positive, default=16, help="requests per batch (16)")
    parser.add_argument(
        "--max-new-tokens",
        type=positive,
        default=256,
        help="length limit of an answer in tokens, for requests without one (256)",
    )
    parser.add_argument(
        "--engine-options",
        default="",
        metavar="WORDS",
        help="further options of `vllm serve`, as one quoted string",
    )
    add_trust_option(parser)


def given_server_options(arguments: argparse.Namespace) -> list[str]:
    """The options of the engine that differ from their defaults, by their names on the command line."""
    parser = argparse.ArgumentParser(add_help=False)
    add_server_options(parser)
    defaults = vars(parser.parse_args([]))
    return [f"--{name.replace('_', '-')}" for name in defaults if getattr(arguments, name) != defaults[name]]


def port_option(text: str) -> int:
    """Parse an option: a port."""
    if not text.isdecimal() or len(text) > 5 or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"got '{text[:40]}', expected a port from 0 to 65535")
    return int(text)


def _serve(arguments: argparse.Namespace) -> int:
    from alm.common.errors import ConfigError
    from alm.serving.access import Address, check_address, check_installed, read_key

    check_installed("serve", ("starlette", "uvicorn", "openai"))
    address = Address(arguments.host, arguments.port)
    key = read_key(arguments.api_key_file)
    check_address(address, key)
    if arguments.engine == "transformers" and arguments.engine_options:
        raise ConfigError("--engine-options: only vLLM takes them; add --engine vllm, or remove them")
    if arguments.engine == "vllm":
        check_vllm()

    from alm.commands._garbage import garbage_collection_paused

    with garbage_collection_paused():
        from alm.checkpoint import load_model, load_processor, resolve
        from alm.serving.requests import Limits
        from alm.serving.server import serve

        folder = resolve(arguments.model)
        processor = load_processor(folder, trust_remote_code=arguments.trust_remote_code)
    name = arguments.name or folder.resolve().name

    def make_engine() -> Any:
        if arguments.engine == "vllm":
            from alm.serving.proxy import VllmEngine

            return VllmEngine(
                folder, processor, name, arguments.batch_size, arguments.max_new_tokens,
                arguments.engine_options, arguments.trust_remote_code,
            )  # fmt: skip
        from alm.serving.engine import LocalEngine

        with garbage_collection_paused():
            model = load_model(folder, trust_remote_code=arguments.trust_remote_code)
        return LocalEngine(model, processor, arguments.batch_size, arguments.max_new_tokens)

    limits = Limits(
        body_bytes=arguments.max_body_mib << 20,
        audio_s=arguments.max_audio_s,
        clips=arguments.max_clips,
        allow_urls=arguments.allow_urls,
    )
    return serve(
        make_engine, name, address, key, limits, lambda url: print(f"serving {name} at {url}/v1", flush=True),
        max_requests=arguments.max_requests, request_s=arguments.request_s, drain_s=arguments.drain_s,
    )  # fmt: skip


def check_vllm() -> None:
    """Check that vLLM and our plug-in for it are installed.

    Raises:
        ConfigError: One of them is not installed.
    """
    import importlib.util
    from importlib.metadata import entry_points

    from alm.common.errors import ConfigError

    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "--engine vllm: vLLM is not installed here; pip install vllm, or use --engine transformers"
        )
    if "alm" not in entry_points(group="vllm.general_plugins").names:
        raise ConfigError(
            "--engine vllm: vLLM finds no plug-in of alm-toolkit, which runs from a folder or was installed before it "
            "had one; install it again: pip install --no-deps alm-toolkit (in a checkout: pip install --no-deps -e .)"
        )


COMMAND = Command(add, order=8)
