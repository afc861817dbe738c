"""Mean average precision, and its values per class."""

from eval.metrics.mean_average_precision.mean_average_precision import class_precisions

__all__ = ["class_precisions"]
