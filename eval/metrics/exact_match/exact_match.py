"""Exact match of strings."""

from typing import Any

from eval.metrics._base import TextMetric, mean_result


class ExactMatch(TextMetric):
    """Share of predictions equal to a reference, character for character; white space at the ends is ignored."""

    citation = "Rajpurkar et al. 2016, SQuAD (without its normalisation)."

    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Return `exact_match`, `per_sample` (0.0 or 1.0) and `backend`."""
        samples = [
            float(prediction.strip() in {target.strip() for target in targets})
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        return mean_result("exact_match", samples, "exact_match[strip]")
