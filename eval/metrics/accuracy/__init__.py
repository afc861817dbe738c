"""Accuracy of short answers."""

from eval.metrics.record import ANSWERS, MetricRecord

METRIC = MetricRecord(applies_to=(ANSWERS,), proportion=True)
