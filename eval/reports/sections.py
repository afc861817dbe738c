"""The parts of a report, in any output format: sections with cards, tables, pictures and clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from eval.reports.media import data_address


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: The value.
        note: What stands in small print below it, for example an interval.
        share: From 0 to 1, how strongly the cell is tinted; None is not tinted.
    """

    text: str
    note: str = ""
    share: float | None = None

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
        note: A sentence below the table.
        words: Whether cells hold sentences, which are set to the left and may wrap.
        tags: Per row its verdict and kind, which the page's filter goes by; empty where rows are not filtered.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]
    label: str = ""
    totals: frozenset[int] = frozenset()
    note: str = ""
    words: bool = False
    tags: Sequence[tuple[str, str]] = ()


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
        verdict: `right`, `wrong`, `unparsed`, or which of two models is right; empty where answers are none of it.
        title: Name of the clip.
    """

    waveform: np.ndarray
    sample_rate: int
    question: str
    reference: str
    answer: str
    kind: str = "qa"
    captions: tuple[str, ...] = ()
    verdict: str = ""
    title: str = ""


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
        findings: What the page shows, one sentence each; they stand above the tables.
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
    findings: Sequence[str] = ()

    @property
    def filters(self) -> dict[str, list[str]]:
        """The filters of clips and rows: name -> values, where there is more than one value."""
        tags = [(one.verdict, one.kind) for one in self.examples]
        tags += [tag for table in self.tables for tag in table.tags]
        columns = zip(("answers", "kinds"), zip(*tags, strict=True), strict=True) if tags else ()
        found = {name: list(dict.fromkeys(value for value in values if value)) for name, values in columns}
        return {name: values for name, values in found.items() if len(values) > 1}

    @property
    def empty(self) -> bool:
        """Whether there is nothing below the heading."""
        parts = (self.lead, self.findings, self.cards, self.tables, self.pictures, self.examples, self.notes)
        return not any([*parts, self.facts, self.details])
