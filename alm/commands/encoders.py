"""``alm encoders``: look at an encoder."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommand and its own subcommands."""
    parser = commands.add_parser(
        "encoders",
        help="look at an encoder",
        description="Look at an encoder: its config, size, grid, load report.",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    info = actions.add_parser(
        "info",
        help="what an encoder is and what it gives",
        description=(
            "Show an encoder's config, parameters, normalisation, grid, tokens per second and, for weights from a "
            "directory, which keys were matched."
        ),
    )
    info.add_argument("encoder", metavar="DIR", help="encoder directory, hub id or name, or model directory")
    info.set_defaults(run=_info)


def _info(arguments: argparse.Namespace) -> None:
    print("\n".join(f"{key}: {value}" for key, value in describe(arguments.encoder)))


def describe(source: str) -> list[tuple[str, str]]:
    """What there is to say about an encoder, as (key, value) lines.

    Raises:
        UserError: There is no such encoder, or it does not load.
    """
    import torch

    from alm.commands.embed import load_any_encoder

    encoder = load_any_encoder(source)
    config = encoder.config
    n_samples = int(config.sample_rate * max(config.clip_s, 1.0))
    n_time = config.n_time_for(n_samples)
    n_parameters = sum(p.numel() for p in encoder.parameters())
    lines = [("encoder", type(encoder).__name__)]
    lines.append(("weights", "untrained" if encoder.load_report is None else str(encoder.load_report)))
    lines.append(("parameters", f"{n_parameters:,}"))
    norm = getattr(config, "norm", None)
    if norm is not None:
        name = getattr(config, "normalisation", "")
        lines.append(("normalisation", f"{name}: (log-mel - {norm.mean:g}) / {norm.divisor:g}"))
    lines += [
        ("sample rate", f"{config.sample_rate} Hz"),
        ("window", f"{config.clip_s:g} s"),
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
