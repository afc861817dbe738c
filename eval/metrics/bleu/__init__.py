"""BLEU-1..4 of captions; intervals are computed from its summed counts."""

import numpy as np

from eval.metrics.record import CAPTIONS, MetricRecord


def _of_sums(name: str, sums: np.ndarray) -> np.ndarray:
    from eval.metrics.bleu.bleu import bleu_of  # imports `evaluate`, which takes seconds

    return np.asarray(bleu_of(sums)[:, int(name.removeprefix("bleu_")) - 1])


METRIC = MetricRecord(
    applies_to=(CAPTIONS,), parts=("bleu_1", "bleu_2", "bleu_3", "bleu_4"), of_sums=_of_sums
)
