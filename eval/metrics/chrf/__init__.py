"""chrF of translations by sacrebleu, 0 to 100; intervals are computed from its summed counts."""

import numpy as np

from eval.metrics.record import ANSWERS, MetricRecord


def _of_sums(_name: str, sums: np.ndarray) -> np.ndarray:
    from eval.metrics.chrf.chrf import chrf_of  # imports `evaluate`, which takes seconds

    return chrf_of(sums)


METRIC = MetricRecord(applies_to=(ANSWERS,), of_sums=_of_sums)
