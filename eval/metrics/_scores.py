"""Shared parts of the metrics of class scores: the evaluate interface and input checks."""

from abc import ABC, abstractmethod
from typing import Any

import datasets
import evaluate
import numpy as np

from eval.errors import MetricError
from eval.metrics._base import check_options


class ScoreMetric(evaluate.Metric, ABC):  # type: ignore[misc]
    """A metric of one score per class and sample against zeros and ones of the same shape.

    Abstract, because `evaluate.load` takes the first concrete metric class that it finds in a file.
    """

    citation: str

    def _info(self) -> evaluate.MetricInfo:
        rows = datasets.Sequence(datasets.Value("float64"))
        return evaluate.MetricInfo(
            description=type(self).__doc__,
            citation=self.citation,
            inputs_description="predictions: one list of class scores per sample; references: lists of 0 and 1.",
            features=datasets.Features({"predictions": rows, "references": rows}),
        )

    def compute(
        self, *, predictions: Any = None, references: Any = None, **options: Any
    ) -> dict[str, Any] | None:
        """Score class scores against labels.

        Args:
            predictions: (n, C) finite numbers, higher means more likely.
            references: (n, C) zeros and ones.
            **options: None are known.

        Returns:
            The score under the metric's name, and `backend`.

        Raises:
            MetricError: Shapes differ, there are no samples, a value is not what it should be, or an option is given.
        """
        check_options(self, options)
        if predictions is not None or references is not None:
            scores, labels = check_scores(predictions, references)
            predictions, references = scores.tolist(), labels.astype(float).tolist()
        result: dict[str, Any] | None = super().compute(
            predictions=predictions, references=references, **options
        )
        return result

    @abstractmethod
    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], **options: Any
    ) -> dict[str, Any]:
        """Score checked inputs."""


def check_scores(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    """Check what a metric was given; return scores (n, C) float64 and labels (n, C) bool."""
    if predictions is None or references is None:
        raise MetricError("got only one of predictions and references; a metric needs both.")
    try:
        scores = np.asarray(predictions, dtype=np.float64)
        labels = np.asarray(references, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MetricError(
            f"got values that are no numbers ({error}); give (samples, classes) of them."
        ) from error
    if scores.ndim != 2 or scores.shape != labels.shape or not scores.size:
        raise MetricError(
            f"got scores of shape {scores.shape} and labels of shape {labels.shape}; "
            "give both as (samples, classes), at least one of each."
        )
    if not np.isfinite(scores).all():
        row, column = np.argwhere(~np.isfinite(scores))[0]
        raise MetricError(
            f"the score of sample {row} for class {column} is {scores[row, column]}; give a number."
        )
    if not np.isin(labels, (0.0, 1.0)).all():
        row, column = np.argwhere(~np.isin(labels, (0.0, 1.0)))[0]
        raise MetricError(
            f"the label of sample {row} for class {column} is {labels[row, column]}; give 0 or 1."
        )
    return scores, labels.astype(bool)
