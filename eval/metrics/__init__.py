"""Metrics: one folder per metric, whose `__init__.py` declares a `METRIC` record; the name is the registry key.

`<name>/<name>.py` defines an offline `evaluate.Metric`: the folder loads with `evaluate.load("<path of the folder>")`,
too, and joins `evaluate.combine`. Files starting with `_` are shared code. Metrics that need Java or a model raise
`MetricUnavailable` if it is missing; they are then reported as absent, never approximated. A file with a `METRIC`
record in a plug-in folder is a metric as well.
"""

import importlib
import inspect
from typing import TYPE_CHECKING

from alm.common.errors import ConfigError
from alm.common.plugins import Registry
from eval.errors import MetricError
from eval.metrics.record import MetricRecord

if TYPE_CHECKING:
    import evaluate

__all__ = ["METRICS", "find_metric", "load_metric"]

METRICS: Registry[MetricRecord] = Registry(
    "metric",
    "METRIC",
    "eval.metrics",
    accepts=lambda found: isinstance(found, MetricRecord),
    expected="MetricRecord(...)",
)


def find_metric(score: str) -> tuple[str, MetricRecord, tuple[str, ...]]:
    """The metric that gives a score.

    Args:
        score: Name of a metric, or of one of its parts, such as `bleu_4`.

    Returns:
        The metric's name, its record, and the names of the scores that were asked for.

    Raises:
        MetricError: No metric has that name or part; names the nearest.
    """
    names = METRICS.names()
    if score in names:
        record = METRICS.get(score)
        return score, record, record.parts or (score,)
    for name in names:
        record = METRICS.get(name)
        if score in record.parts:
            return name, record, (score,)
    try:
        METRICS.get(score)
    except ConfigError as error:
        raise MetricError(str(error)) from error
    raise AssertionError("unreachable")


def load_metric(name: str) -> "evaluate.Metric":
    """Build the metric of that name.

    Args:
        name: A registry key, one of `METRICS.names()`.

    Returns:
        The metric; `compute(predictions=[str], references=[[str, ...]])` gives the corpus score under the metric's
        name, `per_sample` (one number per prediction) and `backend` (how the number was made).

    Raises:
        MetricError: No metric has that name.
    """
    try:
        record = METRICS.get(name)
    except ConfigError as error:
        raise MetricError(str(error)) from error
    if record.build is not None:
        return record.build()
    import evaluate  # takes seconds to import, so only when a metric is wanted

    module = importlib.import_module(f"eval.metrics.{name}.{name}")
    for value in vars(module).values():
        is_metric = inspect.isclass(value) and issubclass(value, evaluate.Metric)
        if is_metric and not inspect.isabstract(value):
            metric: evaluate.Metric = value(keep_in_memory=True)
            return metric
    raise MetricError(f"{module.__file__}: defines no evaluate.Metric; a metric file must define one")
