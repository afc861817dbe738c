"""BERTScore: F-measure of the best matches between token embeddings."""

from typing import Any

import numpy as np
import torch

from eval.metrics._base import TextMetric
from eval.metrics._captions import as_result
from eval.metrics._encoder import model_source, run_text_model


class BertScore(TextMetric):
    """BERTScore F1 without IDF weights and rescaling, best over the references."""

    citation = "Zhang et al. 2020, BERTScore: Evaluating Text Generation with BERT."

    def _compute(
        self,
        predictions: list[str],
        references: list[list[str]],
        bert_model: str | None = None,
        layer: int = -1,
        **options: Any,
    ) -> dict[str, Any]:
        """Return `bertscore`, `per_sample` and `backend`.

        Args:
            predictions: Captions.
            references: Their references.
            bert_model: Directory or hub id; None looks at ALM_BERTSCORE_MODEL.
            layer: Which hidden layer; the published numbers use 17 of roberta-large and 9 of bert-base-uncased.
            **options: None are known.

        Raises:
            MetricUnavailable: No model is given, or it cannot be loaded.
        """
        source = model_source(bert_model, "ALM_BERTSCORE_MODEL", "a BERT model")
        texts = list(dict.fromkeys([*predictions, *(text for targets in references for text in targets)]))
        embedded = dict(zip(texts, _token_embeddings(source, texts, layer), strict=True))
        samples = [
            max(_f1(embedded[prediction], embedded[target]) for target in targets)
            for prediction, targets in zip(predictions, references, strict=True)
        ]
        return as_result("bertscore", np.array(samples), f"bertscore[{source},layer={layer},idf=no]")


def _token_embeddings(source: str, texts: list[str], layer: int) -> list[torch.Tensor]:
    """Unit-length embeddings of each text's tokens, (tokens, D) each, without the first and last special token."""
    rows = []
    for output, mask in run_text_model(source, texts, output_hidden_states=True):
        hidden = torch.nn.functional.normalize(output.hidden_states[layer].float(), dim=-1)
        rows += [one[keep.bool()][1:-1] for one, keep in zip(hidden, mask, strict=True)]
    return rows


def _f1(said: torch.Tensor, wanted: torch.Tensor) -> float:
    if not len(said) or not len(wanted):
        return float(len(said) == len(wanted))
    similarity = said @ wanted.T  # (tokens said, tokens wanted)
    precision, recall = similarity.amax(1).mean(), similarity.amax(0).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall > 0 else 0.0
