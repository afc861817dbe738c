"""`alm export`: write a trained model as one self-contained directory."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_trust_option


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "export",
        help="write a trained model as one self-contained directory",
        description=(
            "Write a trained model with its LLM, tokenizer and processor to one directory that AutoModelForCausalLM "
            "loads, and check that the written model computes the same logits."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="audio-language model directory or hub id")
    parser.add_argument("--out", required=True, metavar="DIR", help="new directory")
    parser.add_argument("--merge", action="store_true", help="merge LoRA adapters into the weights")
    add_trust_option(parser)
    parser.set_defaults(run=_export)


def _export(arguments: argparse.Namespace) -> None:
    from alm.export import export_model

    found = export_model(
        arguments.model,
        arguments.out,
        merge=arguments.merge,
        trust_remote_code=arguments.trust_remote_code,
    )
    print(
        f"wrote {arguments.out}; logits differ by {found['reload']:.1e} after loading it back"
        + (f", by {found['merge']:.1e} of the largest after merging" if arguments.merge else "")
    )


COMMAND = Command(add, order=9)
