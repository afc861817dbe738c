"""How good a judge, a language model behind an endpoint, finds free answers, from 1 to 10."""

from eval.metrics.record import ANSWERS, MetricRecord

METRIC = MetricRecord(
    applies_to=(ANSWERS,),
    costly=True,
    options=lambda records: {
        "questions": [record.question for record in records],
        "descriptions": [str(record.meta.get("description") or "") for record in records],
    },
)
