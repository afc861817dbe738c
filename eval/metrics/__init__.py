"""Metrics: one folder per metric with one file of the same name, `<name>/<name>.py`; the name is the registry key.

Every metric is an offline `evaluate.Metric`: the folder loads with `evaluate.load("<path of the folder>")`, too, and
joins `evaluate.combine`. Files starting with `_` are shared code. Metrics that need Java or a model of their own say
so with `MetricUnavailable` where that is missing; they are left out then, never approximated.
"""

import importlib
import inspect
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from eval.errors import MetricError

if TYPE_CHECKING:
    import evaluate

__all__ = ["list_metrics", "load_metric"]


def list_metrics() -> list[str]:
    """Name every metric that `load_metric` knows, sorted."""
    folders = (path for path in Path(__file__).parent.iterdir() if not path.name.startswith("_"))
    return sorted(path.name for path in folders if (path / f"{path.name}.py").is_file())


def load_metric(name: str) -> "evaluate.Metric":
    """Build the metric of that name.

    Args:
        name: A registry key, one of `list_metrics()`.

    Returns:
        The metric; `compute(predictions=[str], references=[[str, ...]])` gives the corpus score under the metric's
        name, `per_sample` (one number per prediction) and `backend` (how the number was made).

    Raises:
        MetricError: No metric has that name.
    """
    known = list_metrics()
    if name not in known:
        nearest = get_close_matches(name, known, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        raise MetricError(f"unknown metric {name!r}{hint} Known metrics: {', '.join(known)}.")
    import evaluate  # takes seconds to import, so only when a metric is wanted

    module = importlib.import_module(f"eval.metrics.{name}.{name}")
    for value in vars(module).values():
        is_metric = inspect.isclass(value) and issubclass(value, evaluate.Metric)
        if is_metric and not inspect.isabstract(value):
            metric: evaluate.Metric = value(keep_in_memory=True)
            return metric
    raise MetricError(
        f"{module.__file__} defines no evaluate.Metric subclass; a metric file must define one."
    )
