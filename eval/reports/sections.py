"""What a report consists of: sections with cards, tables, pictures and clips, whatever format they are written in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.reports.media import data_address


@dataclass(frozen=True)
class Cell:
    """One cell of a table: a value, and what stands in small print below it (an interval)."""

    text: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.note}".strip()


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its name.

    Attributes:
        head: Names of the columns.
        rows: Cells, as many per row as there are columns.
        label: What the table shows, for screen readers.
        totals: Numbers of the rows that sum up the others; they are set in bold.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    label: str = ""
    totals: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Card:
    """A headline number with its name and notes (interval, control)."""

    value: str
    label: str
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Picture:
    """A chart.

    Attributes:
        title: Caption, and the text for those who cannot see the chart.
        svg: An `<svg>` element.
        detail: What stands in small print beside the caption.
    """

    title: str
    svg: str
    detail: str = ""

    @property
    def address(self) -> str:
        """The chart as a `data:` address: in an image, drawings do not share the names of their parts."""
        return data_address("image/svg+xml", self.svg.encode())


@dataclass(frozen=True)
class Example:
    """One test clip with a question about it.

    Attributes:
        waveform: (S,) float32 in [-1, 1].
        sample_rate: In Hz.
        question: What was asked.
        reference: The right answer, or a caption.
        answer: What the model answered.
        kind: Kind of question.
        captions: Further captions of the clip.
        correct: Whether the answer is right; None where answers are not right or wrong.
        title: Name of the clip.
        spectrogram: (rows, columns, 4) picture in [0, 1]; None draws one from the waveform.
    """

    waveform: np.ndarray
    sample_rate: int
    question: str
    reference: str
    answer: str
    kind: str = "qa"
    captions: tuple[str, ...] = ()
    correct: bool | None = None
    title: str = ""
    spectrogram: np.ndarray | None = None


@dataclass(frozen=True)
class Section:
    """A part of a report under one heading.

    Attributes:
        heading: Its heading; empty for what stands above all sections.
        lead: Sentence below the heading.
        cards: Headline numbers.
        tables: Tables.
        pictures: Charts.
        examples: Clips to see and hear.
        notes: Remarks, one list item each.
        facts: Name -> value.
        details: Texts to unfold: summary -> text.
        level: 2, or 3 for a part of the section before it.
    """

    heading: str
    lead: str = ""
    cards: Sequence[Card] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    examples: Sequence[Example] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    details: Mapping[str, str] = field(default_factory=dict)
    level: int = 2

    @property
    def empty(self) -> bool:
        """Whether there is nothing below the heading."""
        parts = (self.lead, self.cards, self.tables, self.pictures, self.examples, self.notes)
        return not any([*parts, self.facts, self.details])
