"""Errors of the evaluation floor that are the user's to fix."""

from encoders.errors import UserError


class EvaluationError(UserError):
    """A run, a predictions file or a benchmark that cannot be evaluated as it stands."""


class MetricError(UserError):
    """Predictions and references that a metric cannot score, or an unknown metric name."""
