"""FENSE: sentence similarity with a penalty for broken sentences."""

from typing import Any

from eval.metrics._base import TextMetric
from eval.metrics._captions import as_result, parts_of, penalise
from eval.metrics._encoder import error_probabilities, model_source


class Fense(TextMetric):
    """SBERT similarity times 0.1 where the error detector is surer than 0.9 that the caption is broken."""

    summary = "Sentence-embedding similarity, less nine tenths for captions that the fluency error detector rejects."
    citation = "Zhou et al. 2022, Can audio captions be evaluated with image caption metrics?"

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        error_model: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return `fense`, `per_sample` and `backend`.

        Args:
            predictions: Captions.
            references: Their references.
            error_model: Directory or hub id of a multi-label sequence classifier whose last label is "has an error";
                None looks at ALM_FLUENCY_MODEL.
            **options: `sbert_model`, as in `sbert_sim`.

        Raises:
            MetricUnavailable: A model is not given, or cannot be loaded.
        """
        source = model_source(error_model, "ALM_FLUENCY_MODEL", "a fluency error detector")
        (scores,), backend = parts_of(("sbert_sim",), predictions, references, **options)
        samples = penalise(scores, error_probabilities(source, predictions).numpy())
        return as_result("fense", samples, f"fense[{backend},fluency={source}]")
