"""BERTScore of captions and answers."""

from eval.metrics.record import ANSWERS, CAPTIONS, MetricRecord

METRIC = MetricRecord(applies_to=(CAPTIONS, ANSWERS), costly=True)
