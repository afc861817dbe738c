"""`alm data`: make and check data sets."""

from __future__ import annotations

import argparse
from typing import Any

from alm.commands import Command, add_overrides, number, seed

_SOURCE = "data in any format (alm list formats): a path, or a mapping such as '{path: a.csv, columns: {audio: clip}}'"


def add(commands: Any) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "data", help="make and check data sets", description="Make and check data sets."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    compose = actions.add_parser(
        "compose",
        help="compose scenes with captions and questions from generated or recorded sounds",
        description=(
            "Compose sound scenes, each with five captions and several questions, into manifests for training, "
            "validation and test. Sounds are generated, or cut from labelled recordings; recordings of held-out "
            "folds are used in the test split only."
        ),
    )
    compose.add_argument("--out", required=True, metavar="DIR", help="new directory for manifests and audio")
    compose.add_argument("--data", metavar="LABELS.csv", help="labelled recordings: filename, category, fold")
    compose.add_argument("--seed", type=seed, default=0, help="random seed (0)")
    add_overrides(compose, "composer settings, e.g. n_train=500")
    compose.set_defaults(run=_compose)
    _add_shard(actions)
    _add_checks(actions)
    _add_sources(actions)
    _add_share(actions)


def _add_shard(actions: Any) -> None:
    shard = actions.add_parser(
        "shard",
        help="pack a manifest and its audio into tar shards with an index",
        description=(
            "Write WebDataset-format tar files with an index, from which any record is read directly. Every command "
            "and config that accepts a manifest also accepts the directory."
        ),
    )
    shard.add_argument("manifest", nargs="+", metavar="MANIFEST", help=_SOURCE)
    shard.add_argument("--out", required=True, metavar="DIR", help="new directory for the shards")
    shard.add_argument("--shard-mb", type=number, default=500.0, help="megabytes per shard (500)")
    shard.add_argument("--shuffle", type=seed, metavar="SEED", help="shuffle the clips with this seed")
    shard.set_defaults(run=_shard)


def _add_checks(actions: Any) -> None:
    verify = actions.add_parser(
        "verify",
        help="decode every clip and list those that cannot be used",
        description=(
            "Decode every record's audio and list files that are missing, corrupt, truncated or silent, and ids that "
            "occur twice; for shards also compare every hash. With --for, list every record that training with this "
            "config would refuse: also records that are too short for one token, longer than data.max_length or the "
            "LLM's context, or refused by the chat template. The exit code is 1 if there are any problems."
        ),
    )
    verify.add_argument(
        "manifest",
        nargs="*",
        metavar="MANIFEST",
        help=f"{_SOURCE}; with --for: settings KEY=VALUE of the config",
    )
    verify.add_argument("--for", dest="config", metavar="CONFIG.yaml", help="config of a training stage")
    verify.set_defaults(run=_verify)
    stats = actions.add_parser(
        "stats",
        help="hours, clips, answer lengths and kinds of a data set",
        description="Print hours, clips, lengths of clips and answers, and records of each kind.",
    )
    stats.add_argument("manifest", metavar="MANIFEST", help=_SOURCE)
    stats.add_argument("--json", action="store_true", help="print JSON")
    stats.set_defaults(run=_stats)


def _add_sources(actions: Any) -> None:
    convert = actions.add_parser(
        "convert",
        help="turn a published data set into manifests",
        description=(
            "Read a data set in its published layout and write a manifest per split. Files that are missing are "
            "counted and listed in DIR/missing.txt; more than --max-missing of them are an error."
        ),
    )
    convert.add_argument(
        "source", metavar="SOURCE", help="name of a corpus, for example clotho; alm list corpora names all"
    )
    convert.add_argument("root", metavar="ROOT", help="the data set's folder, or its one table")
    add_overrides(convert, "options of the corpus, e.g. wrong_answers=skip of mmau")
    get = actions.add_parser(
        "get",
        help="download a corpus whose source is public",
        description=(
            "Show the licence of a corpus and, if it is accepted, download it, compare its hash and unpack it. The "
            "same command again resumes."
        ),
    )
    get.add_argument("source", metavar="SOURCE", help="name of a corpus, for example librispeech")
    get.add_argument("--out", required=True, metavar="DIR", help="folder of the corpus")
    get.add_argument("--parts", nargs="+", default=[], metavar="PART", help="parts of it, e.g. dev-clean")
    get.add_argument("--accept-licence", action="store_true", help="you have read the licence and accept it")
    get.set_defaults(run=_get)
    labels = actions.add_parser(
        "from-labels",
        help="write captions and questions for a table of labelled clips",
        description=(
            "Write a caption, an open, a multiple-choice and a yes/no question for every clip of a label table (CSV "
            "with filename and category, as ESC-50's), a manifest per split or fold."
        ),
    )
    labels.add_argument("root", metavar="LABELS.csv", help="the table")
    labels.add_argument(
        "--kinds",
        default="caption,what,choice,presence",
        help="kinds to write (caption,what,choice,presence)",
    )
    labels.add_argument("--templates", metavar="FILE.yaml", help="templates that replace the built-in texts")
    labels.add_argument("--separator", help="separator between several labels of a clip, for example ','")
    for parser, run in ((convert, _convert), (labels, _from_labels)):
        parser.add_argument("--out", required=True, metavar="DIR", help="folder for the manifests")
        parser.add_argument(
            "--audio", action="append", default=[], metavar="DIR", help="folder of the audio; may be repeated"
        )
        parser.add_argument(
            "--max-missing",
            type=number,
            default=0.0,
            metavar="SHARE",
            help="share of files that may be missing (0)",
        )
        parser.set_defaults(run=run)


def _add_share(actions: Any) -> None:
    share = actions.add_parser(
        "share",
        help="write a subset of a manifest",
        description="Write the records of a share of a manifest's clips; a smaller share is contained in a larger one.",
    )
    share.add_argument("manifest", metavar="MANIFEST.jsonl", help="the manifest")
    share.add_argument(
        "--share", type=number, required=True, metavar="X", help="share of the clips, above 0 and at most 1"
    )
    share.add_argument("--out", required=True, metavar="FILE.jsonl", help="the manifest to write")
    share.add_argument("--seed", type=seed, default=0, help="seed of the order in which clips are taken (0)")
    share.set_defaults(run=_share)


def _compose(arguments: argparse.Namespace) -> None:
    from alm.common.settings import load_settings
    from alm.common.terminal import counter, progress
    from alm.data.scenes.compose import ComposeConfig, compose

    overrides = [f"seed={arguments.seed}", *arguments.overrides]
    if arguments.data:
        overrides.insert(0, f"labels_csv={arguments.data}")
    config = load_settings(ComposeConfig, None, overrides)
    with progress("compose", config.n_train + config.n_validation + config.n_test, "scene") as advance:
        compose(config, arguments.out, counter(advance))
    print(f"wrote {arguments.out}/train.jsonl, validation.jsonl, test.jsonl")


def _shard(arguments: argparse.Namespace) -> None:
    from alm.common.terminal import progress
    from alm.data.readers.base import named_source
    from alm.data.shard_writer import write_shards
    from alm.data.sources import open_records

    records = open_records([named_source(text) for text in arguments.manifest], audio_only=True)
    with progress("shard", len(records), "record") as advance:
        index = write_shards(records, arguments.out, arguments.shard_mb, arguments.shuffle, advance)
    megabytes = sum(shard["bytes"] for shard in index["shards"]) / 1e6
    print(
        f"wrote {arguments.out}: {index['records']} records, {index['clips']} clips, {len(index['shards'])} shards, "
        f"{megabytes:.0f} MB"
    )


def _verify(arguments: argparse.Namespace) -> int:
    from alm.common.errors import ConfigError
    from alm.common.terminal import progress
    from alm.common.text import one_line
    from alm.data.audit import verify
    from alm.data.readers.base import named_source
    from alm.data.sources import open_source

    if arguments.config is not None:
        return _verify_for(arguments.config, arguments.manifest)
    if len(arguments.manifest) != 1:
        raise ConfigError(f"MANIFEST: got {len(arguments.manifest)}; give one, or --for CONFIG.yaml")
    source = named_source(arguments.manifest[0])
    with progress("verify", len(open_source(source, audio_only=True)), "record") as advance:
        found = verify(source, advance)
    for where, what in found.problems:
        print(one_line(f"{where}: {what}"))
    print(f"{found.records} records, {found.clips} clips: {len(found.problems) or 'no'} problems")
    return 1 if found.problems else 0


def _verify_for(config: str, overrides: list[str]) -> int:
    from alm.common.text import one_line
    from train.pipeline.verify import refused_samples

    n_samples, refused = refused_samples(config, overrides)
    for name, reason in refused:
        print(one_line(f"{name}: {reason}"))
    print(f"{n_samples} samples: training would refuse {len(refused) or 'none'}")
    return 1 if refused else 0


def _stats(arguments: argparse.Namespace) -> None:
    import json

    from alm.common.text import one_line
    from alm.data.audit import statistics
    from alm.data.readers.base import named_source

    numbers = statistics(named_source(arguments.manifest))
    if arguments.json:
        print(json.dumps(numbers))
        return
    for name, value in numbers.items():
        shown = (
            ", ".join(f"{key} {item}" for key, item in value.items()) if isinstance(value, dict) else value
        )
        print(f"{name:<14}{one_line(str(shown))}")


def _get(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from alm.common.errors import ConfigError
    from alm.common.terminal import counter, progress
    from alm.data.corpora import CORPORA
    from alm.data.download import download

    source = CORPORA.get(arguments.source).download
    if source is None:
        known = [name for name in CORPORA.names() if CORPORA.get(name).download is not None]
        raise ConfigError(
            f"{arguments.source}: has no public source that a program can use; get it from its authors' page. alm data "
            f"get downloads {', '.join(known)}"
        )
    archives = source.chosen(arguments.parts)
    print(f"{arguments.source} ({source.page}): licence {source.licence}, {source.licence_url}")
    for archive in archives:
        print(f"  {archive.url}")
    if not arguments.accept_licence:
        raise ConfigError(
            f"{arguments.source}: read the licence at {source.licence_url}, and accept it with --accept-licence"
        )
    for archive in archives:
        with progress(archive.name, 0, "B") as advance:
            download(source, Path(arguments.out), [archive.part], counter(advance))
    print(f"wrote {arguments.out}; next: alm data convert {arguments.source} {arguments.out} --out FOLDER")


def _convert(arguments: argparse.Namespace) -> None:
    from alm.common.settings import apply_overrides
    from alm.data.convert import convert

    out = arguments.out
    options: dict[str, Any] = {}
    apply_overrides(options, arguments.overrides)
    done = convert(arguments.source, arguments.root, out, arguments.audio, arguments.max_missing, options)
    _tell(done, out)


def _from_labels(arguments: argparse.Namespace) -> None:
    from alm.data.convert import write_manifests
    from alm.data.corpora.label_csv import LabelCsv
    from alm.data.from_labels import load_templates

    corpus = LabelCsv(root=arguments.root, separator=arguments.separator)
    kinds, templates = tuple(arguments.kinds.split(",")), load_templates(arguments.templates)
    done = write_manifests(
        "label_csv", corpus, arguments.out, arguments.audio, arguments.max_missing, kinds, templates
    )
    _tell(done, arguments.out)


def _tell(done: Any, out: str) -> None:
    for split, count in done.written.items():
        print(f"wrote {out}/{split}.jsonl: {count} records")
    for reason, count in done.skipped.items():
        print(f"skipped {count} entries: {reason}")
    if done.missing:
        print(f"{len(done.missing)} of {done.clips} audio files are missing; see {out}/missing.txt")


def _share(arguments: argparse.Namespace) -> None:
    from pathlib import Path

    from alm.data.subset import write_share

    clips, records = write_share(
        Path(arguments.manifest), Path(arguments.out), arguments.share, arguments.seed
    )
    print(f"wrote {arguments.out}: {clips} clips, {records} records")


COMMAND = Command(add, order=2)
