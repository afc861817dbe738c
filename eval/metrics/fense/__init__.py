"""FENSE of captions."""

from eval.metrics.record import CAPTIONS, MetricRecord

METRIC = MetricRecord(applies_to=(CAPTIONS,), costly=True)
