"""`alm encoders`: list, describe and check encoders."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from alm.commands import Command
from alm.commands.embed import add_encoder_options, encoder_options


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "encoders",
        help="list, describe and check encoders",
        description=(
            "List the encoders, describe one, check one against the encoder contract, or write the table of the labels "
            "control. Your own encoders are found in the files of --plugins DIR, or of the folders in ALM_PLUGINS."
        ),
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_list(actions)
    _add_info(actions)
    _add_check(actions)
    _add_labels(actions)


def _add_list(actions: Any) -> None:
    parser = actions.add_parser(
        "list",
        help="every encoder's width, tokens per second, sample rate, parameters, licence",
        description=(
            "One line per encoder, at its default size: width of a token, tokens per second, sample rate, "
            "parameters, and the licence of the published weights."
        ),
    )
    parser.set_defaults(run=_list)


def _add_info(actions: Any) -> None:
    parser = actions.add_parser(
        "info",
        help="describe an encoder and its output",
        description=(
            "Show an encoder's config, parameters, normalisation, grid, tokens per second and, for weights from a "
            "directory, which keys were matched."
        ),
    )
    parser.add_argument(
        "encoder", metavar="DIR", help="encoder directory, hub id, name or file, or model directory"
    )
    add_encoder_options(parser)
    parser.set_defaults(run=_info)


def _add_check(actions: Any) -> None:
    parser = actions.add_parser(
        "check",
        help="run the conformance suite on an encoder",
        description=(
            "Check padding, batching, evaluation mode, masks, time, determinism, saving, gradients and windows. A "
            "name or a file is checked at its tiny size, within a minute; a directory or hub id with its weights. "
            "Prints what failed and why; the exit code is then 1."
        ),
    )
    parser.add_argument(
        "encoder",
        metavar="NAME_OR_FILE.py_OR_DIR",
        help="encoder name, file, directory or hub id, or model directory",
    )
    add_encoder_options(parser)
    parser.set_defaults(run=_check)


def _add_labels(actions: Any) -> None:
    parser = actions.add_parser(
        "labels",
        help="write the table of the labels control (the oracle)",
        description=(
            "Write the table of the encoder `labels`, the oracle control: the labels of each clip, keyed by a hash of "
            "its samples. Train with encoder=labels encoder_options.table=FILE."
        ),
    )
    parser.add_argument(
        "source",
        metavar="SCENES.jsonl_OR_LABELS.csv",
        help="alm data compose's scenes.jsonl, or filename,category,fold",
    )
    parser.add_argument("--out", required=True, metavar="FILE", help="JSON file to write")
    parser.add_argument(
        "--sample-rate", type=int, default=16000, metavar="HZ", help="the model's rate (16000)"
    )
    parser.set_defaults(run=_labels)


def _list(_arguments: argparse.Namespace) -> int:
    from alm.common.errors import UserError
    from alm.common.text import text_table
    from encoders.conformance import describe_error
    from encoders.registry import encoder_class, list_encoders

    head = ("name", "dim", "tokens/s", "Hz", "parameters", "licence")
    rows, broken = [], []
    for name in list_encoders():
        try:
            rows.append((name, *_facts(encoder_class(name))))
        except UserError as error:
            broken.append(f"{name}: {error}")
        except Exception as error:  # a plug-in may raise anything; the others are listed all the same
            broken.append(f"{name}: raises {describe_error(error)}")
    print("\n".join(text_table(head, rows, right=range(1, 5))))
    for line in broken:
        print(line)
    return 1 if broken else 0


def _facts(found: Any) -> tuple[str, ...]:
    """Width, tokens per second, rate, parameters and licence of an encoder class."""
    config = found.config_class()
    parameters = found.n_parameters
    if parameters is None:
        import torch

        with torch.device("meta"):
            parameters = sum(p.numel() for p in found(config).parameters())
    rate = config.frame_rate_hz * config.n_freq
    return (
        str(config.dim),
        f"{rate:.4g}",
        str(config.sample_rate),
        f"{parameters / 1e6:.2f} M",
        found.licence,
    )


def _check(arguments: argparse.Namespace) -> int:
    from alm.common.errors import UserError
    from encoders.conformance import describe_error, run_checks

    try:
        encoder, what = _encoder_to_check(arguments.encoder, encoder_options(arguments))
    except UserError:
        raise
    except Exception as error:  # a user's constructor may raise anything; report it as the check's finding
        print(f"{arguments.encoder}\n  FAILED  tiny()  raises {describe_error(error)}")
        return 1
    print(what)
    results = run_checks(encoder.eval())
    for result in results:
        status = "FAILED" if result.status == "failed" else result.status
        print(f"  {status:<8}{result.name:<20}{result.seconds:6.1f} s  {result.message}".rstrip())
    failed = sum(result.status == "failed" for result in results)
    print(f"{failed} of {len(results)} checks failed" if failed else "the encoder keeps the contract")
    return 1 if failed else 0


def _encoder_to_check(given: str, options: dict[str, Any]) -> tuple[Any, str]:
    """The encoder that a name, a file or a directory stands for, and its name for the report.

    Raises:
        ConfigError: Options are given with a name or a Python file, whose encoder is checked in its tiny size.
    """
    from alm.common.errors import ConfigError
    from alm.encoder import load_any_encoder
    from encoders.registry import named_class

    found = named_class(given)
    if found is not None:
        if options:
            raise ConfigError(
                f"{given}: is checked at its tiny size; remove --encoder-option ({', '.join(options)})"
            )
        return found.tiny(), f"{Path(given).name}, tiny and untrained"
    encoder = load_any_encoder(given, **options)
    return encoder, f"{given}, {encoder.config.model_class}"


def _labels(arguments: argparse.Namespace) -> None:
    from alm.data.labels import write_label_table

    n_clips = write_label_table(Path(arguments.source), Path(arguments.out), arguments.sample_rate)
    print(f"wrote {arguments.out}: {n_clips} clips")


def _info(arguments: argparse.Namespace) -> None:
    print(
        "\n".join(f"{key}: {value}" for key, value in describe(arguments.encoder, encoder_options(arguments)))
    )


def describe(source: str, options: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Describe an encoder in (key, value) lines.

    Args:
        source: As for `alm.encoder.load_any_encoder`.
        options: Likewise.

    Raises:
        UserError: Unknown encoder, or it does not load.
    """
    import torch

    from alm.encoder import load_any_encoder
    from encoders.registry import named_class

    encoder = load_any_encoder(source, **(options or {}))
    config = encoder.config
    seen_s = max(config.clip_s, 1.0) if math.isfinite(config.clip_s) else 1.0
    n_samples = int(config.sample_rate * seen_s)
    n_time = config.n_time_for(n_samples)
    n_parameters = sum(p.numel() for p in encoder.parameters())
    lines = [("encoder", type(encoder).__name__)]
    weights = "untrained" if named_class(source) else f"those of {source}"
    lines.append(("weights", weights if encoder.load_report is None else str(encoder.load_report)))
    lines.append(("parameters", f"{n_parameters:,}"))
    norm = getattr(config, "norm", None)
    if norm is not None:
        name = getattr(config, "normalisation", "")
        lines.append(("normalisation", f"{name}: (log-mel - {norm.mean:g}) / {norm.divisor:g}"))
    lines += [
        ("sample rate", f"{config.sample_rate} Hz"),
        ("window", f"{config.clip_s:g} s" if math.isfinite(config.clip_s) else "the whole clip"),
        (
            "grid",
            f"{n_time} time steps x {config.n_freq} frequency bands in {n_samples / config.sample_rate:g} s",
        ),
        (
            "tokens per second",
            f"{config.frame_rate_hz * config.n_freq:g} ({config.frame_rate_hz:g} time steps)",
        ),
        ("token width", str(config.dim)),
    ]
    with torch.no_grad():
        out = encoder.eval()(torch.zeros(1, config.sample_rate), torch.tensor([config.sample_rate]))
    n_prefix = 0 if out.prefix is None else out.prefix.shape[1]
    lines += [("clip feature", f"{out.clip_features().shape[1]} numbers"), ("prefix tokens", str(n_prefix))]
    lines += [(f"config.{key}", str(value)) for key, value in sorted(config.to_dict().items())]
    return lines


COMMAND = Command(add, order=13)
