"""The base class of corpora: options, reading of the tables, and the entries that reading yields."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

from alm.common.errors import ConfigError, ManifestError, did_you_mean
from alm.data.corpora.audio_files import AudioFiles, Clip
from alm.data.corpora.rows import Row, find_files
from alm.data.download import Download


@dataclass(frozen=True)
class Entry:
    """One entry of a corpus: recordings with captions, a question or labels.

    Attributes:
        id: Unique within its split.
        audio: Its recordings, in order.
        where: `file:line` of the table, or the recording itself if no table lists it.
        split: The corpus' own name of the part it belongs to; None where the corpus has no splits.
        captions: Captions.
        question: A question without its choices; empty for none.
        answer: The right answer; None if it is not published.
        answers: All answers that annotators gave, in order, where there were several annotators.
        choices: Options of a multiple-choice question.
        kind: Kind of question; scores are given for each kind.
        labels: Names of its classes.
        group: The source recording or speaker; entries of one group never fall on both sides of a split.
        fold: The fold, where the corpus has folds.
        subset: Part of the test set that is scored by itself.
        meta: Further values of the row; benchmarks break scores down by them.
        manifest: Keys of the converted record that differ from the defaults (`id`, `kind`) or are added to it.
        skipped: Why conversion skips the entry; empty if it is kept.

    Raises:
        ManifestError: The answer is not one of the choices.
    """

    id: str
    audio: tuple[Clip, ...]
    where: str
    split: str | None = None
    captions: tuple[str, ...] = ()
    question: str = ""
    answer: str | None = None
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    kind: str = "qa"
    labels: tuple[str, ...] = ()
    group: str = ""
    fold: str | None = None
    subset: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def __post_init__(self) -> None:
        if self.choices and self.answer not in (None, *self.choices) and not self.skipped:
            raise ManifestError(
                f"{self.where}: the answer {self.answer!r} is not one of the choices {list(self.choices)}"
            )


Entries = Iterator[Entry]
"""The entries of a corpus, as reading yields them."""


@dataclass(frozen=True)
class Corpus(ABC):
    """A corpus: its options are the fields of the dataclass.

    Attributes:
        root: Folder of the corpus as published, or its one table.
        max_missing_rate: Largest share of the listed recordings that may be missing in fine-tuning.
        splits: Names of its splits; empty if it has none.
        trainable: Whether fine-tuning can use it: its entries have labels, and splits or folds.
        multi_label: Whether an entry may have several labels, or none.
        metric: The metric of classification, a name in `eval.metrics`; None chooses by `multi_label`.
        positive: The class to detect, if the metric is an equal error rate.
        download: The source for `alm data get`; None if it is not public, or cannot be downloaded by a program.
    """

    root: str
    max_missing_rate: float = 0.0
    splits: ClassVar[tuple[str, ...]] = ()
    trainable: ClassVar[bool] = False
    metric: ClassVar[str | None] = None
    positive: ClassVar[str | None] = None
    multi_label: ClassVar[bool] = False
    download: ClassVar[Download | None] = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_missing_rate < 1:
            raise ConfigError(
                f"max_missing_rate: got {self.max_missing_rate}, expected 0 or more and less than 1"
            )

    @abstractmethod
    def entries(self, audio: AudioFiles, split: str | None = None) -> Entries:
        """Read the tables.

        Args:
            audio: Finds the recordings.
            split: One of `splits`; None reads all.

        Raises:
            ManifestError: A table is missing or not as published; names file and line.
        """

    def class_names(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        """All class names, in the order of a classifier's outputs; by default those of the entries, sorted."""
        return tuple(sorted({label for entry in entries for label in entry.labels}))

    def has_several_labels(self) -> bool:
        """Whether an entry may have several labels, or none."""
        return self.multi_label

    def audio_folders(self) -> list[Path]:
        """Where recordings are searched, at any depth."""
        return [self.path if self.path.is_dir() else self.path.parent]

    @property
    def path(self) -> Path:
        """`root` as a path."""
        return Path(self.root).expanduser()

    def chosen(self, split: str | None) -> tuple[str, ...]:
        """The given split alone, or all splits for None."""
        return self.splits if split is None else (split,)

    def tables(self, names: Iterable[str]) -> list[Path]:
        """The tables among some names that are below the root, at any depth; the root itself if it is a file.

        Raises:
            ManifestError: None of them is there, or the same table is in two folders.
        """
        names = list(names)
        if self.path.is_file():
            return [self.path]
        found = find_files(self.path, names)
        if not found:
            raise ManifestError(f"{self.root}: none of {', '.join(names)} is there; expected {self.layout()}")
        return [found[name] for name in names if name in found]

    def table(self, *names: str) -> Path:
        """The table below the root, at any depth, under the first of several names or paths that exists.

        Raises:
            ManifestError: None of them is there, or it is in two folders.
        """
        return self.tables(names)[0]

    def layout(self) -> str:
        """The published layout in one line: the docstring's first line of the corpus' file."""
        return (sys.modules[type(self).__module__].__doc__ or "the published layout").strip().splitlines()[0]


def choice_question(
    row: Row,
    audio: AudioFiles,
    split: str,
    paths: Sequence[str],
    answer: str,
    choices: tuple[str, ...],
    kind: str,
    wrong_answers: str = "error",
) -> Entry:
    """A multiple-choice question as benchmarks publish it, from a row with `id` and `question`.

    Args:
        row: The row; all of it becomes metadata.
        audio: Finds the recordings.
        split: The split.
        paths: Where the recordings are in the published layout.
        answer: The right answer; empty where it is not published.
        choices: The options.
        kind: Kind of question.
        wrong_answers: `error`, or `skip` for an entry that conversion skips where the answer is none of the choices.
    """
    wrong = wrong_answers == "skip" and answer and answer not in choices
    return Entry(
        id=row.text("id"),
        audio=tuple(in_its_folder(audio, path) for path in paths),
        where=row.where,
        split=split,
        question=row.text("question"),
        answer=answer or None,
        choices=choices,
        kind=kind,
        meta=dict(row.values),
        skipped="the answer is not one of the choices" if wrong else "",
    )


TRANSCRIBE = "Write down what is said in this recording."
"""The question of corpora of speech with transcripts."""


def transcribed(
    row: Row, clip: Clip, text: str, split: str | None, speaker: str, about: Mapping[str, str] | None = None
) -> Entry:
    """An utterance of a corpus for speech recognition, as a request to transcribe it.

    Args:
        row: Its row.
        clip: The recording.
        text: The transcript.
        split: Its split.
        speaker: The speaker; no split shares one.
        about: Further metadata.
    """
    return Entry(
        id=PurePosixPath(clip.name).stem,
        audio=(clip,),
        where=row.where,
        split=split,
        question=TRANSCRIBE,
        answer=text,
        kind="transcript",
        group=speaker,
        meta={"speaker": speaker, **(about or {})},
    )


def in_its_folder(audio: AudioFiles, name: str) -> Clip:
    """The recording of a name with the folders of the published layout, so that no other file can match."""
    folder = str(PurePosixPath(name).parent)
    return audio.clip(name, inside=() if folder == "." else (folder,))


def check_option(name: str, value: str, expected: Sequence[str]) -> None:
    """Check that an option has one of its expected values.

    Raises:
        ConfigError: It has another value; names the expected ones.
    """
    if value not in expected:
        raise ConfigError(f"{name}: got '{value}', expected one of {', '.join(expected)}")


def check_classes(labels: Iterable[str], classes: Sequence[str] | set[str], where: str) -> None:
    """Check that all labels are classes.

    Raises:
        ManifestError: A label is not a class; names the nearest one.
    """
    for label in labels:
        if label not in classes:
            hint = did_you_mean(label, classes, f"the {len(classes)} classes have no such name")
            raise ManifestError(f"{where}: unknown class '{label}'; {hint}")
