"""SPIDEr-FL: SPIDEr with FENSE's penalty for broken sentences."""

from typing import Any

from eval.metrics._base import TextMetric
from eval.metrics._captions import as_result, parts_of, penalise
from eval.metrics._encoder import error_probabilities, model_source


class SpiderFl(TextMetric):
    """SPIDEr times 0.1 where the error detector is surer than 0.9 that the caption is broken."""

    summary = "SPIDEr, less nine tenths for captions that the fluency error detector rejects."
    citation = "DCASE 2023 challenge, task 6a; Zhou et al. 2022."

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        error_model: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return `spider_fl`, `per_sample` and `backend`; `error_model` as in FENSE."""
        source = model_source(error_model, "ALM_FLUENCY_MODEL", "a fluency error detector")
        (scores,), backend = parts_of(("spider",), predictions, references, **options)
        samples = penalise(scores, error_probabilities(source, predictions).numpy())
        return as_result("spider_fl", samples, f"spider_fl[{backend},fluency={source}]")
