"""ROUGE-L as the COCO caption evaluation computes it."""

from typing import Any

from eval.metrics._base import TextMetric, Tokens, caption_backend, mean_result, tokenize_pairs

# Weight of recall over precision in the COCO scorer (ROUGE's own default is 1.0).
BETA = 1.2


class RougeL(TextMetric):
    """COCO ROUGE-L: F-measure of the longest common subsequence, best precision and best recall over references."""

    citation = "Lin 2004, ROUGE; Chen et al. 2015, Microsoft COCO Captions."

    def _compute(
        self, predictions: list[str], references: list[list[str]], tokenizer: str = "ptb", **options: Any
    ) -> dict[str, Any]:
        """Return `rouge_l` (mean over samples), `per_sample` and `backend`."""
        hypotheses, targets = tokenize_pairs(predictions, references, tokenizer)
        samples = [_score(tokens, refs) for tokens, refs in zip(hypotheses, targets, strict=True)]
        return mean_result("rouge_l", samples, caption_backend("rouge_l", tokenizer))


def _score(tokens: Tokens, references: list[Tokens]) -> float:
    # The COCO scorer sees an empty caption as one empty word, so two empty captions match.
    tokens = tokens or [""]
    padded = [reference or [""] for reference in references]
    common = [_common_length(tokens, reference) for reference in padded]
    precision = max(common) / len(tokens)
    recall = max(length / len(reference) for length, reference in zip(common, padded, strict=True))
    if not precision or not recall:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def _common_length(first: Tokens, second: Tokens) -> int:
    """Length of the longest common subsequence, bit-parallel (Hyyrö 2004): one machine word step per token."""
    positions: dict[str, int] = {}
    for index, token in enumerate(first):
        positions[token] = positions.get(token, 0) | 1 << index
    full = (1 << len(first)) - 1
    unmatched = full
    for token in second:
        hits = unmatched & positions.get(token, 0)
        unmatched = ((unmatched + hits) | (unmatched - hits)) & full
    return len(first) - unmatched.bit_count()
