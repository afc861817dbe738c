"""Mean over classes of the average precision (macro mAP)."""

from typing import Any

import numpy as np

from eval.metrics._scores import ScoreMetric, check_scores
from eval.metrics.ranking import class_precisions


class MeanAveragePrecision(ScoreMetric):
    """Macro mAP over the classes that occur; the others are excluded from the mean and counted."""

    citation = "Gemmeke et al. 2017, AudioSet (the metric); scikit-learn's average_precision_score (the sum)."

    def _compute(
        self, predictions: list[list[float]], references: list[list[float]], **options: Any
    ) -> dict[str, Any]:
        """Return `mean_average_precision`, `per_class` (None where absent), `n_absent` and `backend`."""
        per_class = class_precisions(*check_scores(predictions, references))
        present = per_class[~np.isnan(per_class)]
        return {
            "mean_average_precision": float(present.mean()) if len(present) else None,
            "per_class": [None if np.isnan(value) else float(value) for value in per_class],
            "n_absent": int(np.isnan(per_class).sum()),
            "backend": "mean_average_precision[macro]",
        }
