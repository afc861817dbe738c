"""Converts published corpora to manifests: `alm data convert` and `alm data from-labels`.

`alm/data/corpora` reads the corpora. This module turns their entries into records, counts missing recordings, and
writes a manifest per split.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, ManifestError, UserError
from alm.common.files import write_text_atomic
from alm.common.names import check_file_name
from alm.data.corpora import Clip, Corpus, Entry, open_corpus
from alm.data.corpora.audio_files import AudioFiles, is_file
from alm.data.from_labels import KINDS, QuestionWriter, Templates
from alm.data.index import id_hash
from alm.data.manifest import ManifestWriter

MISSING = "missing.txt"
_RECORD_KEYS = frozenset(
    {"id", "audio", "messages", "question", "captions", "answer", "choices", "kind", "clip", "prompt"}
)


@dataclass(frozen=True)
class Converted:
    """The result of a conversion.

    Attributes:
        written: Records by split.
        missing: Names of recordings that were not found, each once.
        clips: How many different recordings the corpus names.
        skipped: Number of entries that an option of the corpus skips, by reason.
    """

    written: dict[str, int]
    missing: list[str]
    clips: int
    skipped: dict[str, int] = field(default_factory=dict)


def convert(
    source: str,
    root: str | os.PathLike[str],
    out: str | os.PathLike[str],
    audio: Sequence[str] = (),
    max_missing: float = 0.0,
    options: Mapping[str, Any] | None = None,
) -> Converted:
    """Write a published corpus as manifests.

    Args:
        source: One of `CORPORA.names()`.
        root: Where its tables are, as published (a folder, or the one file).
        out: Folder of the manifests (`SPLIT.jsonl`), and of `missing.txt` if recordings are missing.
        audio: Folders of the audio; empty searches the corpus' default folders below `root`.
        max_missing: Largest share of the named recordings that may be missing; their records are skipped.
        options: Options of the corpus, for example `wrong_answers` of MMAU.

    Raises:
        UserError: An unknown corpus, a table that is not as published, or too many missing recordings.
    """
    return write_manifests(source, open_corpus(source, Path(root), options), out, audio, max_missing)


def write_manifests(
    name: str,
    corpus: Corpus,
    out: str | os.PathLike[str],
    audio: Sequence[str] = (),
    max_missing: float = 0.0,
    kinds: Sequence[str] = KINDS,
    templates: Templates | None = None,
) -> Converted:
    """Write a corpus as manifests, see `convert`.

    Args:
        name: Name of the corpus; ids of records begin with it.
        corpus: The corpus with its options.
        out: Folder of the manifests.
        audio: Folders of the audio.
        max_missing: Largest share of the named recordings that may be missing.
        kinds: Kinds of records to write for an entry that has only labels; see `alm.data.from_labels.QuestionWriter`.
        templates: The wordings for these.
    """
    if not 0.0 <= max_missing <= 1.0:
        raise ConfigError(f"--max-missing: got {max_missing}, expected a share from 0 to 1")
    if not corpus.path.exists():
        raise ConfigError(f"{corpus.root}: no such file or folder")
    out = Path(out)
    files = AudioFiles([Path(folder) for folder in audio] or corpus.audio_folders())
    missing, n_clips = _missing(corpus.entries(files))
    if missing:
        out.mkdir(parents=True, exist_ok=True)
        write_text_atomic(out / MISSING, "".join(f"{name}\n" for name in missing))
    if len(missing) > max_missing * n_clips:
        raise UserError(
            f"{out}: {len(missing)} of {n_clips} audio files are missing (the first: {missing[0]}; all: "
            f"{out / MISSING}), more than --max-missing {max_missing}; name their folder with --audio, or "
            "raise the share"
        )
    writers: dict[str, ManifestWriter] = {}
    skipped: Counter[str] = Counter()
    with ExitStack() as open_writers:
        for entry, values in _records(name, corpus.entries(files), kinds, templates):
            if not all(is_file(clip.path) for clip in entry.audio):
                continue
            if entry.skipped:
                skipped[entry.skipped] += 1
                continue
            audio_of = [_audio_value(clip, out) for clip in entry.audio]
            record = {"id": values["id"], "audio": audio_of[0] if len(audio_of) == 1 else audio_of, **values}
            split = _manifest_name(entry)
            if split not in writers:
                out.mkdir(parents=True, exist_ok=True)
                writers[split] = open_writers.enter_context(ManifestWriter(out / f"{split}.jsonl"))
            writers[split].add(record)
    if not writers:
        raise UserError(
            f"{out}: nothing to write; no record has its audio in {', '.join(map(str, files.folders))}"
        )
    return Converted(
        {split: writer.written for split, writer in writers.items()}, missing, n_clips, dict(skipped)
    )


def _missing(entries: Iterator[Entry]) -> tuple[list[str], int]:
    """Names of missing recordings, sorted, and the number of all different recordings; checks the names of splits."""
    missing: dict[Path, str] = {}
    seen: set[int] = set()
    for entry in entries:
        check_file_name(_manifest_name(entry), f"{entry.where}: split")
        for clip in entry.audio:
            key = id_hash(os.fsencode(clip.path).hex())
            if key not in seen:
                seen.add(key)
                if not is_file(clip.path):
                    missing[clip.path] = clip.name
    return sorted(missing.values()), len(seen)


def _manifest_name(entry: Entry) -> str:
    if entry.split is not None:
        return entry.split
    return "train" if entry.fold is None else f"fold{entry.fold}"


def _audio_value(clip: Clip, out: Path) -> str | dict[str, Any]:
    path = os.path.relpath(clip.path.resolve(), out.resolve())
    times = {"start_s": clip.start_s, "end_s": clip.end_s}
    given = {key: value for key, value in times.items() if value is not None}
    return {"path": path, **given} if given else path


def _records(
    name: str, entries: Iterable[Entry], kinds: Sequence[str], templates: Templates | None
) -> Iterator[tuple[Entry, dict[str, Any]]]:
    """The records of entries, without their audio; several about each entry that has only labels."""
    labelled: dict[str, tuple[Entry, list[str]]] = {}
    for entry in entries:
        if entry.captions or entry.question:
            yield entry, _record(name, entry)
        else:
            # Tables with onsets name a clip once per event; its labels belong together.
            first, labels = labelled.setdefault(entry.id, (entry, []))
            if _manifest_name(first) != _manifest_name(entry):
                raise ManifestError(
                    f"{entry.where}: '{entry.id}' is in {_manifest_name(entry)!r} here and in "
                    f"{_manifest_name(first)!r} at {first.where}; correct one of the rows"
                )
            if not entry.labels:
                raise ManifestError(f"{entry.where} has no label; fill it in or remove the row")
            labels += entry.labels
    if labelled:
        everything = [label for _, labels in labelled.values() for label in labels]
        writer = QuestionWriter(everything, kinds, templates)
        for clip, (entry, labels) in labelled.items():
            for values in writer.write(clip, list(dict.fromkeys(labels))):
                yield entry, {**values, "clip": clip}


def _record(name: str, entry: Entry) -> dict[str, Any]:
    """The record of an entry with captions or a question, without its audio."""
    values: dict[str, Any] = {key: value for key, value in entry.meta.items() if _is_plain(value)}
    values = {key: value for key, value in values.items() if key not in _RECORD_KEYS}
    if entry.captions:
        values["captions"] = list(entry.captions)
    else:
        values |= {"question": entry.question, "answer": entry.answer, "kind": entry.kind}
        if entry.choices:
            values["choices"] = list(dict.fromkeys(entry.choices))  # MMAU lists some options twice
    values["id"] = "-".join(filter(None, (name, entry.split, entry.id)))
    values["clip"] = "+".join(f"{name}/{clip.name}" for clip in entry.audio)
    return {**values, **entry.manifest}


def _is_plain(value: Any) -> bool:
    """Whether a value of a row can stand in a manifest as it is."""
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
