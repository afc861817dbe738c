"""Cosine similarity of sentence embeddings."""

from typing import Any

import numpy as np

from eval.metrics._base import TextMetric
from eval.metrics._captions import as_result
from eval.metrics._encoder import model_source, sentence_embeddings


class SbertSimilarity(TextMetric):
    """Mean cosine similarity of a caption's sentence embedding with those of its references."""

    citation = "Reimers and Gurevych 2019, Sentence-BERT; as used by FENSE (Zhou et al. 2022)."

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        sbert_model: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Return `sbert_sim`, `per_sample` and `backend`.

        Args:
            predictions: Captions.
            references: Their references.
            sbert_model: Directory or hub id of the embedding model; None looks at ALM_SBERT_MODEL. The published FENSE
                numbers are those of `paraphrase-TinyBERT-L6-v2`.
            **options: None are known.

        Raises:
            MetricUnavailable: No model is given, or it cannot be loaded.
        """
        source = model_source(sbert_model, "ALM_SBERT_MODEL", "a sentence embedding model")
        owner = np.repeat(np.arange(len(references)), [len(targets) for targets in references])
        embedded = sentence_embeddings(
            source, [*predictions, *(text for targets in references for text in targets)]
        )
        said, wanted = embedded[: len(predictions)], embedded[len(predictions) :]
        similarity = (said[owner] * wanted).sum(-1).double().numpy()
        totals = np.bincount(owner, weights=similarity, minlength=len(references))
        return as_result("sbert_sim", totals / np.bincount(owner), f"sbert_sim[{source}]")
