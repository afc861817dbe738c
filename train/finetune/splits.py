"""Splits of labelled clips: training, validation (selects the epoch), test."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from train.finetune.datasets import LabelledClip, LabelledData, read_dataset, read_tables
from train.settings import TrainSettings
from train.settings.data import DataSettings

_MIN_CLIPS = 2


@dataclass(frozen=True)
class Split:
    """Training, validation and test clips; no group is in two of them.

    Attributes:
        data: The data set.
        train: Training clips.
        validation: Clips that select the epoch.
        test: Clips that are scored, once.
        notes: Which clips were dropped and why.
    """

    data: LabelledData
    train: tuple[LabelledClip, ...]
    validation: tuple[LabelledClip, ...]
    test: tuple[LabelledClip, ...]
    notes: tuple[str, ...]

    @property
    def clips(self) -> tuple[LabelledClip, ...]:
        """All clips."""
        return (*self.train, *self.validation, *self.test)

    def targets(self, clips: Sequence[LabelledClip]) -> Tensor:
        """Return targets of zeros and ones, (clips, classes) float32."""
        column = {name: index for index, name in enumerate(self.data.classes)}
        targets = torch.zeros(len(clips), len(column))
        for row, clip in enumerate(clips):
            targets[row, [column[label] for label in clip.labels]] = 1.0
        return targets


def read_data(data: DataSettings) -> LabelledData:
    """Read the data set or the label tables of a config.

    Raises:
        ConfigError: Unknown data set or option.
        ManifestError: An invalid table or file.
    """
    if data.dataset is not None:
        options = dict(data.dataset_options)
        if data.dataset == "label_csv":
            options.setdefault("fold_column", data.folds.column)
        return read_dataset(data.dataset, options)
    classes = data.dataset_options.get("classes")
    if not data.test and not data.validation:  # one table with folds or splits of its own
        return read_tables({None: data.train}, data.folds.column, classes)
    tables: dict[str | None, Sequence[str]] = {"train": data.train}
    tables |= {"validation": data.validation, "test": data.test}
    return read_tables(tables, data.folds.column, classes)


def choose_split(data: LabelledData, settings: TrainSettings) -> Split:
    """Split a data set according to the config; the test set is not used for any choice.

    Raises:
        ConfigError: No such fold, no test clips, too few clips, or a scored class without training clips.
    """
    folds = settings.data.folds
    if folds.test is not None:
        test, rest, validation = _by_folds(data, str(folds.test), str(folds.validation))
    else:
        parts = {name: _of_split(data, name) for name in ("train", "validation", "test")}
        if not parts["test"]:
            has_folds = any(clip.fold is not None for clip in data.clips)
            fix = f"data.folds.test (folds: {', '.join(folds_of(data))})" if has_folds else "data.test"
            raise ConfigError(f"data: no test clips; give {fix} or finetune.folds=all")
        test, rest, validation = parts["test"], parts["train"], parts["validation"]
    notes = list(data.notes)
    rest, dropped = _without_groups(rest, test)
    validation, dropped_too = _without_groups(validation, test)
    if dropped + dropped_too:
        notes.append(f"{dropped + dropped_too} clips dropped: their source recording is in the test set")
    if validation:
        rest, dropped = _without_groups(rest, validation)
        if dropped:
            notes.append(f"{dropped} training clips dropped: their source recording is in the validation set")
    else:
        rest, validation = _hold_out(rest, settings.finetune.validation_share)
    _check_sizes(rest, validation, test)
    _check_classes(rest, validation, test)
    return Split(data, rest, validation, test, tuple(notes))


def folds_of(data: LabelledData) -> list[str]:
    """Return the folds, numbers in numerical order."""
    folds = {clip.fold for clip in data.clips if clip.fold is not None}
    return sorted(folds, key=lambda fold: (not fold.isdigit(), fold.zfill(9)))


def check_fold(key: str, fold: str, known: Sequence[str]) -> None:
    """Raise ConfigError if there is no such fold."""
    if fold not in known:
        raise ConfigError(f"{key}: no fold '{fold}'; the folds are {', '.join(known)}")


def digest(data: LabelledData) -> str:
    """Hash a data set's clips, labels and splits."""
    rows = hashlib.sha256(repr(data.classes).encode())
    for clip in data.clips:
        place = (str(clip.path), clip.start_s, clip.end_s)
        rows.update(
            repr((clip.id, clip.labels, clip.group, clip.split, clip.fold, clip.subset, place)).encode()
        )
    return rows.hexdigest()


def _by_folds(
    data: LabelledData, test: str, validation: str
) -> tuple[tuple[LabelledClip, ...], tuple[LabelledClip, ...], tuple[LabelledClip, ...]]:
    """Return test, training and validation clips by fold; no validation clips with `auto`."""
    known = folds_of(data)
    if not known:
        raise ConfigError(
            "data.folds: the data set has no folds; use its own splits (remove data.folds.test)"
        )
    check_fold("data.folds.test", test, known)
    if validation == "next":
        validation = known[(known.index(test) + 1) % len(known)]
    if validation == test:
        raise ConfigError(
            f"data.folds.validation: fold '{test}' is the test fold; choose another, next or auto"
        )
    check_fold("data.folds.validation", validation, [*known, "next", "auto"])
    if set(known) <= {test, validation}:
        raise ConfigError(f"data.folds: no fold is left for training (the folds are {', '.join(known)})")
    chosen = tuple(clip for clip in data.clips if clip.fold == test)
    held = tuple(clip for clip in data.clips if clip.fold == validation)
    rest = tuple(clip for clip in data.clips if clip.fold not in (test, validation, None))
    return chosen, rest, held


def _of_split(data: LabelledData, name: str) -> tuple[LabelledClip, ...]:
    return tuple(clip for clip in data.clips if clip.split == name)


def _without_groups(
    clips: tuple[LabelledClip, ...], others: Sequence[LabelledClip]
) -> tuple[tuple[LabelledClip, ...], int]:
    """Drop the clips whose group is among the others' groups; also return how many were dropped."""
    taken = {clip.group for clip in others}
    kept = tuple(clip for clip in clips if clip.group not in taken)
    return kept, len(clips) - len(kept)


def _hold_out(
    clips: tuple[LabelledClip, ...], share: float
) -> tuple[tuple[LabelledClip, ...], tuple[LabelledClip, ...]]:
    """Split off whole groups for validation, the same share of every class; every class keeps a group for training.

    A group with several classes counts for the rarest of them. Groups are ordered by a hash of their names, so that new
    clips change the split little and the order of the rows does not matter. If no class has enough groups for its
    share, groups are taken from all classes together.

    Raises:
        ConfigError: No group can be taken: each is the only one of some class.
    """
    labels: dict[str, set[str]] = {}
    for clip in clips:
        labels.setdefault(clip.group, set()).update(clip.labels)
    counts = Counter(label for clip in clips for label in clip.labels)
    left = Counter(label for of_group in labels.values() for label in of_group)  # groups that train, by class
    order = sorted(labels, key=lambda group: hashlib.sha256(group.encode()).hexdigest())
    strata: dict[str, list[str]] = {}
    for group in order:
        rarest = min(labels[group], key=lambda label: (counts[label], label), default="")
        strata.setdefault(rarest, []).append(group)
    held: set[str] = set()

    def hold(groups: Sequence[str], wanted: int) -> None:
        for group in groups:
            if wanted and group not in held and all(left[label] > 1 for label in labels[group]):
                held.add(group)
                left.subtract(labels[group])
                wanted -= 1

    for _, groups in sorted(strata.items()):
        hold(groups, min(max(round(share * len(groups)), 1), len(groups) - 1))
    if sum(clip.group in held for clip in clips) < _MIN_CLIPS:
        hold(order, max(round(share * len(order)), 1))
    validation = tuple(clip for clip in clips if clip.group in held)
    if clips and not validation:
        raise ConfigError(
            f"data: no validation clips can be split off {len(clips)} training clips: each of their {len(order)} "
            "recordings is the only one of some class; add recordings, or give data.validation"
        )
    return tuple(clip for clip in clips if clip.group not in held), validation


def _check_sizes(
    train: Sequence[LabelledClip], validation: Sequence[LabelledClip], test: Sequence[LabelledClip]
) -> None:
    for name, clips in (("training", train), ("validation", validation), ("test", test)):
        if len(clips) < _MIN_CLIPS:
            raise ConfigError(
                f"data: {len(clips)} {name} clips are left (training {len(train)}, validation {len(validation)}, "
                f"test {len(test)}); expected {_MIN_CLIPS} or more, from different recordings; "
                "add clips or choose other folds"
            )


def _check_classes(
    train: Sequence[LabelledClip], validation: Sequence[LabelledClip], test: Sequence[LabelledClip]
) -> None:
    taught = {label for clip in train for label in clip.labels}
    if len(taught) < 2:
        raise ConfigError(f"data: the training clips have {len(taught)} classes; expected two or more")
    for clip in (*test, *validation):
        for label in clip.labels:
            if label not in taught:
                raise ConfigError(
                    f"{clip.where}: class '{label}' has no training clips but is to be recognised here; "
                    "add some, choose other folds, or remove the class"
                )
