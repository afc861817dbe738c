"""Text models that metrics need: read from a local directory or a hub id, run in batches without padding effects."""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from alm.common.pretrained import from_pretrained
from eval.errors import MetricUnavailable

BATCH = 64


def model_source(given: str | None, variable: str, what: str) -> str:
    """The directory or hub id of a model: as given, or from the environment.

    Raises:
        MetricUnavailable: Neither is there.
    """
    source = given or os.environ.get(variable)
    if not source:
        raise MetricUnavailable(f"needs {what}; set {variable} to its directory or hub id")
    return source


@lru_cache(maxsize=2)
def load_text_model(source: str, kind: str = "AutoModel") -> tuple[Any, Any]:
    """Tokenizer and model, in eval mode.

    Args:
        source: A directory in the transformers or the sentence-transformers layout, or a hub id.
        kind: The transformers class that loads it.

    Raises:
        MetricUnavailable: It cannot be loaded.
    """
    import transformers

    folder = Path(source)
    # The sentence-transformers layout keeps the transformer in a folder of its own where there are several modules.
    if (folder / "0_Transformer" / "config.json").is_file():
        source = str(folder / "0_Transformer")
    tokenizer, model = (
        from_pretrained(loader, source, role="text model", error=MetricUnavailable)
        for loader in (transformers.AutoTokenizer, getattr(transformers, kind))
    )
    return tokenizer, model.eval()


@torch.inference_mode()
def run_text_model(
    source: str, texts: Sequence[str], kind: str = "AutoModel", **options: Any
) -> Iterator[tuple[Any, Any]]:
    """Outputs and attention mask of batches of texts, in order.

    Yields:
        (model output, attention mask (B, L)) per batch.
    """
    tokenizer, model = load_text_model(source, kind)
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            list(texts[start : start + BATCH]), padding=True, truncation=True, return_tensors="pt"
        )
        yield model(**batch, **options), batch["attention_mask"]


def sentence_embeddings(source: str, texts: Sequence[str]) -> torch.Tensor:
    """Mean-pooled, unit-length embeddings (n, D) float32, as sentence-transformers computes them."""
    rows = []
    for output, mask in run_text_model(source, texts):
        weight = mask[..., None].float()  # (B, L, 1)
        rows.append((output.last_hidden_state * weight).sum(1) / weight.sum(1).clamp(min=1e-9))
    return torch.nn.functional.normalize(torch.cat(rows).float(), dim=-1)


def error_probabilities(source: str, texts: Sequence[str]) -> torch.Tensor:
    """Probability (n,) that a caption is broken: the last label of a multi-label sequence classifier."""
    found = run_text_model(source, texts, "AutoModelForSequenceClassification")
    return torch.cat([output.logits[:, -1].float().sigmoid() for output, _ in found])
