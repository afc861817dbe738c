"""BLEU-1..4 as the COCO caption evaluation computes it."""

import math
from collections import Counter
from typing import Any

from eval.metrics._base import TextMetric, Tokens, caption_backend, tokenize_pairs

MAX_ORDER = 4
# The two constants of the COCO scorer keep empty counts finite; they show in the ninth digit of every score.
TINY = 1e-15
SMALL = 1e-9


class Bleu(TextMetric):
    """COCO BLEU: clipped n-gram precision, brevity penalty against the closest reference length."""

    summary = "BLEU-1..4 of the COCO caption evaluation (closest reference length, no smoothing)."
    citation = "Papineni et al. 2002; Chen et al. 2015, Microsoft COCO Captions."

    def _compute(
        self, predictions: list[str], references: list[list[str]], tokenizer: str = "ptb", **options: Any
    ) -> dict[str, Any]:
        """Return `bleu_1`..`bleu_4`, `per_sample` (BLEU-4), `per_sample_by_key` and `backend`."""
        hypotheses, targets = tokenize_pairs(predictions, references, tokenizer)
        statistics = [_statistics(tokens, refs) for tokens, refs in zip(hypotheses, targets, strict=True)]
        samples = [_score(*one) for one in statistics]
        corpus = _score(
            [sum(one[0][order] for one in statistics) for order in range(MAX_ORDER)],
            [sum(one[1][order] for one in statistics) for order in range(MAX_ORDER)],
            sum(one[2] for one in statistics),
            sum(one[3] for one in statistics),
        )
        by_key = {f"bleu_{order + 1}": [sample[order] for sample in samples] for order in range(MAX_ORDER)}
        return {
            **{f"bleu_{order + 1}": corpus[order] for order in range(MAX_ORDER)},
            "per_sample": by_key[f"bleu_{MAX_ORDER}"],
            "per_sample_by_key": by_key,
            "backend": caption_backend("bleu", tokenizer),
        }


def _ngrams(tokens: Tokens, order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _statistics(tokens: Tokens, references: list[Tokens]) -> tuple[list[int], list[int], int, int]:
    """Clipped matches and guesses per order, hypothesis length, and the closest reference length."""
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
    return matches, guesses, len(tokens), closest


def _score(matches: list[int], guesses: list[int], length: int, reference_length: int) -> list[float]:
    """BLEU-1..4 of summed statistics."""
    ratio = (length + TINY) / (reference_length + SMALL)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for order in range(MAX_ORDER):
        product *= (matches[order] + TINY) / (guesses[order] + SMALL)
        scores.append(product ** (1 / (order + 1)) * brevity)
    return scores
