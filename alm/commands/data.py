"""``alm data``: make data sets."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser("data", help="make data sets", description="Make data sets.")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    compose = actions.add_parser(
        "compose",
        help="compose scenes with captions and questions from generated or recorded sounds",
        description=(
            "Compose sound scenes, each with five captions and several questions, into manifests for training, "
            "validation and test. Sounds are generated, or cut from labelled recordings; recordings of held-out "
            "folds are heard in the test split only."
        ),
    )
    compose.add_argument("--out", required=True, metavar="DIR", help="new directory for manifests and audio")
    compose.add_argument("--data", metavar="LABELS.csv", help="labelled recordings: filename, category, fold")
    compose.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    compose.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="composer settings, e.g. n_train=500"
    )
    compose.set_defaults(run=_compose)
    share = actions.add_parser(
        "share",
        help="write a share of a manifest's clips",
        description="Write the records of a share of a manifest's clips; smaller shares are part of larger ones.",
    )
    share.add_argument("manifest", metavar="MANIFEST.jsonl", help="the whole")
    share.add_argument("--share", type=float, required=True, metavar="X", help="above 0, at most 1")
    share.add_argument("--out", required=True, metavar="FILE.jsonl", help="where to write")
    share.add_argument("--seed", type=int, default=0, help="decides which clips come first (0)")
    share.set_defaults(run=_share)


def _compose(arguments: argparse.Namespace) -> None:
    from alm.data.compose import ComposeConfig, compose
    from alm.progress import counter, progress
    from alm.settings import load_settings

    overrides = [f"seed={arguments.seed}", *arguments.overrides]
    if arguments.data:
        overrides.insert(0, f"labels_csv={arguments.data}")
    config = load_settings(ComposeConfig, None, overrides)
    with progress("compose", config.n_train + config.n_validation + config.n_test, "scene") as advance:
        compose(config, arguments.out, counter(advance))
    print(f"wrote {arguments.out}/train.jsonl, validation.jsonl, test.jsonl")


def _share(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from alm.data.subset import write_share

    clips, records = write_share(
        Path(arguments.manifest), Path(arguments.out), arguments.share, arguments.seed
    )
    print(f"wrote {arguments.out}: {clips} clips, {records} records")
