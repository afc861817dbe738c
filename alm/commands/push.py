"""`alm push`: upload a trained model to the Hugging Face hub."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "push",
        help="upload a model directory to the Hugging Face hub",
        description=(
            "Upload a model's directory with its README.md, without its evaluations. The token comes from "
            "`hf auth login` or HF_TOKEN. A model that refers to its LLM in a directory of this machine has to be "
            "exported first."
        ),
    )
    parser.add_argument("model", metavar="DIR", help="audio-language model directory")
    parser.add_argument(
        "repo_id", metavar="REPO_ID", help="name, or organisation/name; created if it does not exist"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", metavar="BRANCH", help="branch; created if it does not exist (main)")
    parser.set_defaults(run=_push)


def _push(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from alm.hub.upload import upload_folder
    from alm.loading.files import check_complete

    folder = Path(arguments.model)
    check_complete(folder)
    address = upload_folder(
        folder, arguments.repo_id, private=arguments.private or None, revision=arguments.revision
    )
    print(f"uploaded {folder} to {arguments.repo_id}: {address}")


COMMAND = Command(add, order=10)
