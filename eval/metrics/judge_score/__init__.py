"""Ratings of free answers from 1 to 10 by a judge: a language model behind an endpoint."""

from eval.metrics.record import ANSWERS, MetricRecord

METRIC = MetricRecord(
    applies_to=(ANSWERS,),
    costly=True,
    options=lambda records: {
        "questions": [record.question for record in records],
        "descriptions": [str(record.meta.get("description") or "") for record in records],
    },
)
