"""Import of sacrebleu, an optional dependency of the translation metrics."""

from importlib import import_module
from typing import Any

from eval.errors import MetricUnavailable


def sacrebleu_metrics() -> Any:
    """The module `sacrebleu.metrics`.

    Raises:
        MetricUnavailable: It is not installed.
    """
    try:
        return import_module("sacrebleu.metrics")
    except ModuleNotFoundError as error:
        raise MetricUnavailable(f"needs sacrebleu ({error}); pip install 'alm-toolkit[speech]'") from error
