"""Errors of evaluation: invalid data, metrics that cannot be computed."""

from alm.common.errors import UserError


class EvaluationError(UserError):
    """A run, a predictions file or a benchmark that cannot be evaluated."""


class MetricError(UserError):
    """Predictions and references that a metric cannot score, or an unknown metric name."""


class MetricUnavailable(MetricError):
    """A metric that needs a program or a model that is not installed; the message names it and how to provide it."""
