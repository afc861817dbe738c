"""The record of a metric, available without loading it: what it applies to, and how to compute a score from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import evaluate

    from alm.data.records import Record

CAPTIONS = "captions"
"""Applies to records that ask for a caption; the score is `caption/<name>`."""

ANSWERS = "answers"
"""Applies to records that ask a question; the score is `answer/<name>`."""

CLASS_SCORES = "class scores"
"""Takes numbers in place of text, one per class; no benchmark asks for it by name."""

OfSums = Callable[[str, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class MetricRecord:
    """A metric as benchmarks ask for it.

    Attributes:
        applies_to: Some of `CAPTIONS`, `ANSWERS` and `CLASS_SCORES`.
        parts: Names of its scores if it has several, such as `bleu_1` to `bleu_4`; empty: the metric's own name.
        lower_is_better: Whether it counts errors.
        costly: Whether it runs Java or a model.
        proportion: Whether its per-sample values are zeros and ones.
        of_sums: Takes the name of a score and sums (R, K) of the `counts` in its result, returns scores (R,). None: the
            score is the mean of `per_sample`.
        options: Takes the records; returns further arguments of `compute`.
        build: Builds the `evaluate.Metric`; None loads the class in `<name>/<name>.py` of this package.
    """

    applies_to: tuple[str, ...]
    parts: tuple[str, ...] = ()
    lower_is_better: bool = False
    costly: bool = False
    proportion: bool = False
    of_sums: OfSums | None = None
    options: Callable[[Sequence[Record]], dict[str, Any]] | None = None
    build: Callable[[], evaluate.Metric] | None = None


def ratio(_name: str, sums: np.ndarray) -> np.ndarray:
    """The first sum divided by the second, as for error rates; NaN where the second is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan)
