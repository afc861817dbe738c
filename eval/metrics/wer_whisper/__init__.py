"""Word error rate with Whisper's normaliser for English."""

from eval.metrics.record import ANSWERS, MetricRecord, ratio

METRIC = MetricRecord(applies_to=(ANSWERS,), lower_is_better=True, of_sums=ratio)
