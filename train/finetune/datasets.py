"""Data sets to fine-tune on: the corpora of `alm/data/corpora` that have labels, and label tables of the user's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, ManifestError
from alm.common.settings import parse_settings
from alm.data.corpora import CORPORA, Corpus, Entry
from alm.data.corpora.audio_files import AudioFiles, is_file
from alm.data.corpora.base import check_classes
from alm.data.corpora.label_csv import LabelCsv

_MISSING_SHOWN = 5
_SPLITS = {
    "train": "train",
    "balanced_train": "train",
    "unbalanced_train": "train",
    "test": "test",
    "eval": "test",
}
_SPLITS |= dict.fromkeys(("val", "valid", "validation"), "validation")


@dataclass(frozen=True)
class LabelledClip:
    """One labelled recording, or a part of one.

    Attributes:
        id: Unique within the data set.
        path: The audio file.
        labels: Names of its classes; one unless the data set is multi-label.
        where: `file:line` of the table it is listed in, or the file itself.
        group: The source recording or speaker; clips of one group never fall on both sides of a split.
        split: `train`, `validation` or `test`, if the data set states it.
        fold: The fold, if the data set has folds.
        subset: Part of the test set that is scored by itself.
        start_s: Start of the part, in seconds; None is the file's start.
        end_s: Its end; None is the file's end.
    """

    id: str
    path: Path
    labels: tuple[str, ...]
    where: str
    group: str
    split: str | None = None
    fold: str | None = None
    subset: str | None = None
    start_s: float | None = None
    end_s: float | None = None


@dataclass(frozen=True)
class LabelledData:
    """A data set as read.

    Attributes:
        classes: All class names, in the order of the classifier's outputs.
        clips: The clips whose files are there.
        multi_label: Whether a clip may have several labels, or none.
        metric: Name of the data set's metric in `eval.metrics`.
        positive: The class to detect, if the metric is an equal error rate.
        notes: What the user should know, for example how many files are missing.
    """

    classes: tuple[str, ...]
    clips: tuple[LabelledClip, ...]
    multi_label: bool = False
    metric: str = "accuracy"
    positive: str | None = None
    notes: tuple[str, ...] = ()


def list_datasets() -> list[str]:
    """Names of the corpora to fine-tune on, sorted."""
    return [name for name in CORPORA.names() if CORPORA.get(name).trainable]


def dataset_class(name: str) -> type[Corpus]:
    """The corpus of a name.

    Raises:
        ConfigError: No corpus has that name (names the nearest), or fine-tuning cannot use it.
    """
    try:
        corpus = CORPORA.get(name)
    except ConfigError as error:
        raise ConfigError(f"data.dataset: {error}") from error
    if not corpus.trainable:
        raise ConfigError(
            f"data.dataset: corpus '{name}' has no labels with splits or folds; expected one of "
            f"{', '.join(list_datasets())}"
        )
    return corpus


def read_dataset(name: str, options: dict[str, Any]) -> LabelledData:
    """Read a corpus' tables and find its files.

    Raises:
        ConfigError: Unknown corpus or option.
        ManifestError: A table or a file is invalid; names file and line.
    """
    return _data({None: [parse_settings(dataset_class(name), dict(options), "data.dataset_options")]})


def read_tables(
    tables: dict[str | None, Sequence[str]], fold_column: str = "fold", classes: str | None = None
) -> LabelledData:
    """Label tables as one data set.

    Args:
        tables: Tables by split; those under None have a column of splits or folds themselves.
        fold_column: Column of the fold.
        classes: A text file with one class name per line; None takes those of the training tables.

    Raises:
        ManifestError: A table is invalid, or has a class that the training tables lack.
    """
    return _data(
        {
            split: [LabelCsv(root=path, fold_column=fold_column, classes=classes) for path in paths]
            for split, paths in tables.items()
        }
    )


def _data(corpora: Mapping[str | None, Sequence[Corpus]]) -> LabelledData:
    """Several corpora of one kind as one data set, by split; None holds those that have splits or folds themselves."""
    clips: list[LabelledClip] = []
    training: list[Entry] = []
    everything = [(split, corpus) for split, given in corpora.items() for corpus in given]
    for split, corpus in everything:
        if not corpus.path.exists():
            raise ManifestError(
                f"data.dataset_options.root={corpus.root}: no such file or folder; expected {corpus.layout()}"
            )
        for entry in corpus.entries(AudioFiles(corpus.audio_folders())):
            clips.append(_labelled(entry, split, f"{corpus.path.stem}/" if split else ""))
            if clips[-1].split in ("train", None):
                training.append(entry)
    if not clips:
        raise ManifestError("the data set lists no clips; check data.train, or data.dataset_options")
    first = everything[0][1]
    classes = first.class_names(training)
    for clip in clips:
        check_classes(clip.labels, classes, clip.where)
    there, notes = _found(clips, first.max_missing_rate)
    several = any(corpus.has_several_labels() for _, corpus in everything)
    metric = first.metric or ("mean_average_precision" if several else "accuracy")
    return LabelledData(classes, there, several, metric, first.positive, notes)


def _labelled(entry: Entry, split: str | None, prefix: str) -> LabelledClip:
    if split is None and entry.split is not None:
        if entry.split not in _SPLITS:
            raise ManifestError(
                f"{entry.where}: split is '{entry.split}'; expected train, validation or test"
            )
        split = _SPLITS[entry.split]
    (clip,) = entry.audio
    return LabelledClip(
        id=f"{prefix}{entry.id}",
        path=clip.path,
        labels=entry.labels,
        where=entry.where,
        group=entry.group,
        split=split,
        fold=entry.fold,
        subset=entry.subset,
        start_s=clip.start_s,
        end_s=clip.end_s,
    )


def _found(
    clips: Sequence[LabelledClip], max_missing_rate: float
) -> tuple[tuple[LabelledClip, ...], tuple[str, ...]]:
    """The clips whose files are there, and a note on those that are missing.

    Raises:
        ManifestError: Two clips have one id, or more files are missing than allowed.
    """
    seen: dict[str, str] = {}
    for clip in clips:
        if clip.id in seen:
            raise ManifestError(
                f"{clip.where}: '{clip.id}' was already listed at {seen[clip.id]}; remove one row"
            )
        seen[clip.id] = clip.where
    absent = [clip for clip in clips if not is_file(clip.path)]
    if not absent:
        return tuple(clips), ()
    gone = {clip.id for clip in absent}
    rate = len(absent) / len(clips)
    names = ", ".join(clip.path.name for clip in absent[:_MISSING_SHOWN])
    more = ", ..." if len(absent) > _MISSING_SHOWN else ""
    note = f"{len(absent)} of {len(clips)} files are missing ({rate:.1%}): {names}{more}"
    if rate > max_missing_rate:
        raise ManifestError(
            f"{absent[0].where}: no file {absent[0].path}; {note}; add them or remove their rows "
            f"(allowed: {max_missing_rate:.1%})"
        )
    return tuple(clip for clip in clips if clip.id not in gone), (note,)
