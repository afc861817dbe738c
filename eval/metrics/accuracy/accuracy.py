"""Accuracy of short answers, compared after normalisation."""

from typing import Any

from eval.metrics._base import TextMetric, mean_result
from eval.parsing.normalise import answers_match


class Accuracy(TextMetric):
    """Share of answers equal to a reference, after normalising case, articles, punctuation and number words."""

    citation = "The answer normalisation of the VQA and SQuAD evaluations."

    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Return `accuracy`, `per_sample` (0.0 or 1.0) and `backend`."""
        samples = [
            float(any(answers_match(prediction, target) for target in targets))
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        return mean_result("accuracy", samples, "accuracy[normalise=1]")
