"""BLEU of translations by sacrebleu: tokenizer 13a, case-sensitive, exponential smoothing."""

from importlib.metadata import version
from typing import Any

import numpy as np

from eval.metrics._base import TextMetric
from eval.metrics._sacrebleu import sacrebleu_metrics

_ORDERS = 4


class TranslationBleu(TextMetric):
    """BLEU as translation papers report it, 0 to 100; not the BLEU of captions, which is tokenised otherwise."""

    citation = "Papineni et al. 2002; Post 2018, A Call for Clarity in Reporting BLEU Scores."

    def _compute(self, predictions: list[str], references: list[list[str]], **options: Any) -> dict[str, Any]:
        """Return `bleu_mt`, `per_sample`, `counts` (matches and guesses per order, lengths) and `backend`."""
        bleu = sacrebleu_metrics().BLEU()
        counts = []
        for prediction, targets in zip(predictions, references, strict=True):
            found = bleu.corpus_score([prediction], [[target] for target in targets])
            counts.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        rows = np.array(counts)
        return {
            "bleu_mt": float(bleu_of(rows.sum(axis=0, keepdims=True))[0]),
            "per_sample": bleu_of(rows, effective_order=True).tolist(),
            "counts": counts,
            "backend": f"bleu_mt[sacrebleu={version('sacrebleu')},tokenizer=13a,smoothing=exp]",
        }


def bleu_of(counts: np.ndarray, effective_order: bool = False) -> np.ndarray:
    """BLEU from counts, or sums of counts over samples.

    Args:
        counts: (R, 10): matches per order, guesses per order, hypothesis length, closest reference length.
        effective_order: Ignore n-gram orders that are longer than the sentence; used for single sentences.

    Returns:
        (R,) scores, 0 to 100.
    """
    compute = sacrebleu_metrics().BLEU.compute_bleu
    return np.array(
        [
            compute(
                list(row[:_ORDERS]),
                list(row[_ORDERS : 2 * _ORDERS]),
                row[-2],
                row[-1],
                smooth_method="exp",
                effective_order=effective_order,
            ).score
            for row in np.asarray(counts, dtype=np.int64).tolist()
        ]
    )
