"""What the combined caption metrics share: the scores of other metrics, and the penalty for broken sentences."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.errors import MetricError

# Zhou et al. 2022, "Can audio captions be evaluated with image caption metrics?", section 4: a caption that the error
# detector is surer of than this loses nine tenths of its score.
FLUENCY_THRESHOLD = 0.9
FLUENCY_PENALTY = 0.9


def parts_of(
    names: Sequence[str], predictions: list[str], references: list[list[str]], **options: Any
) -> tuple[list[np.ndarray], str]:
    """Per-sample scores of other metrics, and their backends joined with `+`."""
    from eval.metrics import load_metric

    results = []
    for name in names:
        result = load_metric(name).compute(predictions=predictions, references=references, **options)
        assert result is not None  # None only in multi-process evaluate runs
        results.append(result)
    return [np.asarray(result["per_sample"]) for result in results], "+".join(r["backend"] for r in results)


def penalise(scores: np.ndarray, p_error: np.ndarray) -> np.ndarray:
    """Scores after the penalty for captions whose error probability exceeds the threshold."""
    penalised: np.ndarray = scores * (1 - FLUENCY_PENALTY * (p_error > FLUENCY_THRESHOLD))
    return penalised


def as_result(name: str, samples: np.ndarray, backend: str) -> dict[str, Any]:
    """A metric's result from its per-sample scores."""
    if not np.isfinite(samples).all():
        raise MetricError(f"{name} of sample {int(np.argmin(np.isfinite(samples)))} is not a number")
    return {name: float(samples.mean()), "per_sample": samples.tolist(), "backend": backend}
