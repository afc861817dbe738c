"""F1 of the words that an answer shares with a reference."""

from eval.metrics.record import ANSWERS, MetricRecord

METRIC = MetricRecord(applies_to=(ANSWERS,))
