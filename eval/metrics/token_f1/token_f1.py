"""F1 of the words that an answer shares with a reference."""

from collections import Counter
from typing import Any

from eval.metrics._base import TextMetric, mean_result
from eval.parsing.normalise import normalise_answer


class TokenF1(TextMetric):
    """SQuAD's token F1 after normalisation, best over the references."""

    citation = "Rajpurkar et al. 2016, SQuAD."

    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Return `token_f1`, `per_sample` and `backend`."""
        samples = [
            max(
                _f1(normalise_answer(prediction).split(), normalise_answer(target).split())
                for target in targets
            )
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        return mean_result("token_f1", samples, "token_f1[normalise=1]")


def _f1(said: list[str], wanted: list[str]) -> float:
    shared = sum((Counter(said) & Counter(wanted)).values())
    if not said and not wanted:
        return 1.0  # an empty answer to a question whose answer is empty
    return 2 * shared / (len(said) + len(wanted))
