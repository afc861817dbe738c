"""Equal error rate of a detector."""

from typing import Any

import numpy as np

from eval.errors import MetricError
from eval.metrics._scores import ScoreMetric, check_scores
from eval.metrics.ranking import Ranking, equal_error_rate


class EqualErrorRate(ScoreMetric):
    """The error rate at the threshold where misses and false alarms are equally frequent; 0 is perfect."""

    citation = (
        "Brümmer & de Villiers 2011, BOSARIS toolkit; the deepfake detection challenges (ASVspoof, ESDD)."
    )

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], **options: Any
    ) -> dict[str, Any]:
        """Return `equal_error_rate` in [0, 1] and `backend`; (n, 1) scores and labels."""
        scores, labels = check_scores(predictions, references)
        if scores.shape[1] != 1:
            raise MetricError(
                f"got {scores.shape[1]} classes; give (samples, 1), the score of the one to detect."
            )
        if labels.all() or not labels.any():
            raise MetricError("got samples of one kind only; an error rate of detection needs both kinds.")
        counts = Ranking(scores[:, 0], labels[:, 0]).counts(np.ones((1, len(scores))))
        return {
            "equal_error_rate": float(equal_error_rate(*counts)[0]),
            "backend": "equal_error_rate[linear]",
        }
