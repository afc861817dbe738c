"""Sound events with their times: segment F1, event F1, and PSDS of a single operating point."""

import numpy as np

from eval.metrics.record import ANSWERS, MetricRecord


def _of_sums(name: str, sums: np.ndarray) -> np.ndarray:
    from eval.metrics.sound_events.sound_events import score_of  # imports `evaluate`, which takes seconds

    return score_of(name, sums)


METRIC = MetricRecord(
    applies_to=(ANSWERS,),
    parts=("segment_f1", "event_f1", "psds"),
    of_sums=_of_sums,
    options=lambda records: {"durations_s": [record.meta.get("duration_s") for record in records]},
)
