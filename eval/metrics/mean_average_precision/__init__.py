"""Mean average precision over classes."""

from eval.metrics.record import CLASS_SCORES, MetricRecord

METRIC = MetricRecord(applies_to=(CLASS_SCORES,))
