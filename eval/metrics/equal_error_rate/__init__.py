"""Equal error rate of a detector."""

from eval.metrics.record import CLASS_SCORES, MetricRecord

METRIC = MetricRecord(applies_to=(CLASS_SCORES,), lower_is_better=True)
