"""Shared parts of caption and answer metrics: results, scores of other metrics, the penalty for broken sentences."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.errors import MetricError
from eval.metrics._base import TextMetric, options_of
from eval.metrics._encoder import error_probabilities, model_source

# Zhou et al. 2022, "Can audio captions be evaluated with image caption metrics?", section 4: a caption that the error
# detector is surer of than this loses nine tenths of its score.
FLUENCY_THRESHOLD = 0.9
FLUENCY_PENALTY = 0.9


def parts_of(
    names: Sequence[str], predictions: list[str], references: list[list[str]], **options: Any
) -> tuple[list[np.ndarray], str]:
    """Per-sample scores of other metrics, and their backends joined with `+`; each metric gets the options it knows."""
    from eval.metrics import load_metric

    results = []
    for name in names:
        metric = load_metric(name)
        its = {key: value for key, value in options.items() if key in options_of(metric)}
        result = metric.compute(predictions=predictions, references=references, **its)
        assert result is not None  # None only in multi-process evaluate runs
        results.append(result)
    return [np.asarray(result["per_sample"]) for result in results], "+".join(r["backend"] for r in results)


class FluencyPenalised(TextMetric):
    """The scores of another metric, after the penalty for captions that the error detector rejects."""

    @property
    @abstractmethod
    def name_(self) -> str:
        """Name of this metric; `made_of` names the one metric whose scores it penalises."""

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        error_model: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return the score under `name_`, `per_sample` and `backend`.

        Args:
            predictions: Captions.
            references: Their references.
            error_model: Directory or hub id of a multi-label sequence classifier whose last label is "has an error";
                None looks at ALM_FLUENCY_MODEL.
            **options: Those of the other metric.

        Raises:
            MetricUnavailable: A model is not given, or cannot be loaded.
        """
        source = model_source(error_model, "ALM_FLUENCY_MODEL", "a fluency error detector")
        (scores,), backend = parts_of(self.made_of, predictions, references, **options)
        broken = error_probabilities(source, predictions).numpy() > FLUENCY_THRESHOLD
        samples = scores * (1 - FLUENCY_PENALTY * broken)
        return as_result(self.name_, samples, f"{self.name_}[{backend},fluency={source}]")


def as_result(name: str, samples: np.ndarray, backend: str) -> dict[str, Any]:
    """A metric's result from its per-sample scores."""
    if not np.isfinite(samples).all():
        raise MetricError(f"{name} of sample {int(np.argmin(np.isfinite(samples)))} is not a number")
    return {name: float(samples.mean()), "per_sample": samples.tolist(), "backend": backend}
