"""BLEU-1..4 as the COCO caption evaluation computes it."""

from collections import Counter
from typing import Any

import numpy as np

from eval.metrics._base import TextMetric, Tokens, caption_backend, tokenize_pairs

MAX_ORDER = 4
# The two constants of the COCO scorer keep empty counts finite; they show in the ninth digit of every score.
TINY = 1e-15
SMALL = 1e-9


class Bleu(TextMetric):
    """COCO BLEU: clipped n-gram precision, brevity penalty against the closest reference length."""

    citation = "Papineni et al. 2002; Chen et al. 2015, Microsoft COCO Captions."

    def _compute(
        self, predictions: list[str], references: list[list[str]], tokenizer: str = "ptb", **options: Any
    ) -> dict[str, Any]:
        """Return `bleu_1`..`bleu_4`, `per_sample` (BLEU-4), `per_sample_by_key`, `counts` and `backend`.

        `counts` are per sample what `bleu_of` takes: corpus BLEU is a function of their sum, not a mean.
        """
        hypotheses, targets = tokenize_pairs(predictions, references, tokenizer)
        counts = np.array([_counts(tokens, refs) for tokens, refs in zip(hypotheses, targets, strict=True)])
        samples, corpus = bleu_of(counts), bleu_of(counts.sum(axis=0, keepdims=True))[0]
        by_key = {f"bleu_{order + 1}": samples[:, order].tolist() for order in range(MAX_ORDER)}
        return {
            **{f"bleu_{order + 1}": float(corpus[order]) for order in range(MAX_ORDER)},
            "per_sample": by_key[f"bleu_{MAX_ORDER}"],
            "per_sample_by_key": by_key,
            "counts": counts.tolist(),
            "backend": caption_backend("bleu", tokenizer),
        }


def _ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _counts(tokens: Tokens, references: list[Tokens]) -> list[int]:
    """Clipped matches per order, guesses per order, hypothesis length, closest reference length."""
    matches, guesses = [], []
    for order in range(1, MAX_ORDER + 1):
        found = _ngrams(tokens, order)
        allowed: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            allowed |= _ngrams(reference, order)
        matches.append(sum(min(count, allowed[ngram]) for ngram, count in found.items()))
        guesses.append(max(0, len(tokens) - order + 1))
    # Of two references equally close in length the shorter counts.
    closest = min((abs(len(reference) - len(tokens)), len(reference)) for reference in references)[1]
    return [*matches, *guesses, len(tokens), closest]


def bleu_of(counts: np.ndarray) -> np.ndarray:
    """BLEU-1..4 from counts, or sums of counts over samples.

    Args:
        counts: (R, 10): matches per order, guesses per order, hypothesis length, closest reference length.

    Returns:
        (R, 4) scores.
    """
    counts = np.asarray(counts, dtype=np.float64)
    matches, guesses = counts[:, :MAX_ORDER], counts[:, MAX_ORDER : 2 * MAX_ORDER]
    ratio = (counts[:, -2] + TINY) / (counts[:, -1] + SMALL)
    brevity = np.where(ratio < 1, np.exp(1 - 1 / np.minimum(ratio, 1.0)), 1.0)
    products = np.cumprod((matches + TINY) / (guesses + SMALL), axis=1)
    scores: np.ndarray = products ** (1 / np.arange(1, MAX_ORDER + 1)) * brevity[:, None]
    return scores
