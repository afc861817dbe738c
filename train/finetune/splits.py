"""Which labelled clips train, which choose the epoch, and which are scored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from train.data.settings import DataSettings
from train.finetune.datasets import LabelledClip, LabelledData, read_dataset, read_tables
from train.settings import TrainSettings

_MIN_CLIPS = 2


@dataclass(frozen=True)
class Split:
    """Clips by use; no group is in two of them.

    Attributes:
        data: The data set they are from.
        train: Clips that train.
        validation: Clips that choose the epoch.
        test: Clips that are scored, once.
        notes: What was left out and why.
    """

    data: LabelledData
    train: tuple[LabelledClip, ...]
    validation: tuple[LabelledClip, ...]
    test: tuple[LabelledClip, ...]
    notes: tuple[str, ...]

    @property
    def clips(self) -> tuple[LabelledClip, ...]:
        """All of them."""
        return (*self.train, *self.validation, *self.test)

    def targets(self, clips: Sequence[LabelledClip]) -> Tensor:
        """Zeros and ones, (clips, classes) float32."""
        column = {name: index for index, name in enumerate(self.data.classes)}
        targets = torch.zeros(len(clips), len(column))
        for row, clip in enumerate(clips):
            targets[row, [column[label] for label in clip.labels]] = 1.0
        return targets


def read_data(data: DataSettings) -> LabelledData:
    """The data set or the label tables that a config names.

    Raises:
        ConfigError: Unknown data set or option.
        ManifestError: A table or file that is not as it should be.
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
    """Split a data set as the config says; the test set never chooses anything.

    Raises:
        ConfigError: No such fold, no test clips, too few clips, or a class that is scored but never trained.
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
        notes.append(f"{dropped + dropped_too} clips left out: their source recording is in the test set")
    if validation:
        rest, dropped = _without_groups(rest, validation)
        if dropped:
            notes.append(
                f"{dropped} training clips left out: their source recording is in the validation set"
            )
    else:
        rest, validation = _hold_out(rest, settings.finetune.validation_share)
    _check_sizes(rest, validation, test)
    _check_classes(rest, validation, test)
    return Split(data, rest, validation, test, tuple(notes))


def folds_of(data: LabelledData) -> list[str]:
    """The folds, numbers in their order."""
    folds = {clip.fold for clip in data.clips if clip.fold is not None}
    return sorted(folds, key=lambda fold: (not fold.isdigit(), fold.zfill(9)))


def digest(data: LabelledData) -> str:
    """Hash of what a data set says: clips, labels, splits."""
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
    """Test, training and validation clips by fold; no validation clips where a share is to be taken."""
    known = folds_of(data)
    if not known:
        raise ConfigError(
            "data.folds: the data set has no folds; use its own splits (leave data.folds.test out)"
        )
    if test not in known:
        raise ConfigError(f"data.folds.test: no fold '{test}'; the folds are {', '.join(known)}")
    if validation == "next":
        validation = known[(known.index(test) + 1) % len(known)]
    if validation == test:
        raise ConfigError(
            f"data.folds.validation: fold '{test}' is the test fold; choose another, next or auto"
        )
    if validation != "auto" and validation not in known:
        raise ConfigError(
            f"data.folds.validation: no fold '{validation}'; the folds are {', '.join(known)}, next, auto"
        )
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
    """The clips whose group is not among the others', and how many were left out."""
    taken = {clip.group for clip in others}
    kept = tuple(clip for clip in clips if clip.group not in taken)
    return kept, len(clips) - len(kept)


def _hold_out(
    clips: tuple[LabelledClip, ...], share: float
) -> tuple[tuple[LabelledClip, ...], tuple[LabelledClip, ...]]:
    """Split off whole groups, the same share of every class; every class keeps a group for training.

    A group of several classes counts for the rarest. A group's place is a hash of its name, so that adding clips
    moves few others and the order of the rows does not matter. Where no class can spare its share, groups are taken
    from wherever they can be spared.

    Raises:
        ConfigError: Every group but one or none is the only one of some class.
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
