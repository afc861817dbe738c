"""chrF2 of translations by sacrebleu: character n-grams up to six, no word n-grams, beta 2."""

from importlib.metadata import version
from typing import Any

import numpy as np

from eval.metrics._base import TextMetric
from eval.metrics._sacrebleu import sacrebleu_metrics


class Chrf(TextMetric):
    """Character n-gram F-score, 0 to 100; it suits languages without spaces as well."""

    citation = "Popović 2015, chrF: character n-gram F-score for automatic MT evaluation."

    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Return `chrf`, `per_sample`, `counts` and `backend`."""
        chrf = sacrebleu_metrics().CHRF()
        # The counts behind a score have no public name; tests hold the score to `corpus_score`.
        counts = [
            chrf._extract_corpus_statistics([prediction], [[target] for target in targets])[0]
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        rows = np.array(counts)
        return {
            "chrf": float(chrf_of(rows.sum(axis=0, keepdims=True))[0]),
            "per_sample": chrf_of(rows).tolist(),
            "counts": counts,
            "backend": f"chrf[sacrebleu={version('sacrebleu')},characters=6,words=0,beta=2]",
        }


def chrf_of(counts: np.ndarray) -> np.ndarray:
    """ChrF from counts, or sums of counts over samples.

    Args:
        counts: (R, 18): n-grams of the hypothesis, of the reference, and of both, for each order.

    Returns:
        (R,) scores, 0 to 100.
    """
    chrf = sacrebleu_metrics().CHRF()
    return np.array([chrf._compute_f_score(row) for row in np.asarray(counts, dtype=np.int64).tolist()])
