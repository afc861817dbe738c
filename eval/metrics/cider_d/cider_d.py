"""CIDEr-D as the COCO caption evaluation computes it, vectorised."""

from typing import Any

import numpy as np

from eval.metrics._base import TextMetric, Tokens, caption_backend, tokenize_pairs

MAX_ORDER = 4
# Standard deviation of the length penalty, in n-grams (Vedantam et al. 2015, section 5).
SIGMA = 6.0


class CiderD(TextMetric):
    """COCO CIDEr-D: clipped TF-IDF cosine of n-grams, length penalty, times ten.

    The document frequencies come from the references of the evaluated set itself. So scores of sets of different
    size are not comparable, and a single sample always scores 0.
    """

    citation = "Vedantam et al. 2015, CIDEr: Consensus-based Image Description Evaluation."

    def _compute(
        self, predictions: list[str], references: list[list[str]], tokenizer: str = "ptb", **options: Any
    ) -> dict[str, Any]:
        """Return `cider_d` (mean over samples), `per_sample` and `backend`."""
        hypotheses, targets = tokenize_pairs(predictions, references, tokenizer)
        samples = _scores(hypotheses, targets)
        return {
            "cider_d": float(samples.mean()),
            "per_sample": samples.tolist(),
            "backend": caption_backend("cider_d", tokenizer),
        }


def _scores(hypotheses: list[Tokens], references: list[list[Tokens]]) -> np.ndarray:
    """CIDEr-D of every sample, (samples,) float64.

    Captions are numbered hypotheses first, then all references; `clip_of` maps a caption to its sample.
    """
    n_clips = len(hypotheses)
    n_references = np.array([len(refs) for refs in references])
    captions = [*hypotheses, *(tokens for refs in references for tokens in refs)]
    clip_of = np.concatenate([np.arange(n_clips), np.repeat(np.arange(n_clips), n_references)])
    lengths = np.array([max(0, len(tokens) - 1) for tokens in captions], dtype=np.float64)
    gap = lengths[clip_of[n_clips:]] - lengths[n_clips:]
    similarity = np.zeros(len(captions) - n_clips)
    for caption, ngram in _ngram_codes(captions):
        similarity += _similarity(caption, ngram, clip_of, n_clips, len(captions))
    similarity *= np.exp(-(gap**2) / (2 * SIGMA**2)) / MAX_ORDER
    totals = np.bincount(clip_of[n_clips:], weights=similarity, minlength=n_clips)
    return np.asarray(10.0 * totals / n_references)


def _ngram_codes(captions: list[Tokens]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Number the n-grams of each order: per order, arrays (caption, n-gram number), one row per occurrence."""
    vocabulary: dict[str, int] = {}
    flat = [vocabulary.setdefault(token, len(vocabulary)) for tokens in captions for token in tokens]
    words = np.array(flat, dtype=np.int64)
    caption = np.repeat(np.arange(len(captions)), [len(tokens) for tokens in captions])
    codes, orders = words, []
    for last in range(MAX_ORDER):
        starts = caption[: max(0, len(words) - last)]
        if last:
            # One word longer: number the pairs (shorter n-gram, next word).
            codes = np.unique(codes[:-1] * len(vocabulary) + words[last:], return_inverse=True)[1]
        # Drop n-grams that begin in one caption and end in the next.
        inside = starts == caption[last:]
        orders.append((starts[inside], codes[inside]))
    return orders


def _similarity(
    caption: np.ndarray, ngram: np.ndarray, clip_of: np.ndarray, n_clips: int, n_captions: int
) -> np.ndarray:
    """Clipped TF-IDF cosine of each reference with its clip's hypothesis for one n-gram order, (references,)."""
    if not len(ngram):
        return np.zeros(n_captions - n_clips)
    n_ngrams = int(ngram.max()) + 1
    key, frequency = np.unique(caption * n_ngrams + ngram, return_counts=True)
    owner, gram = key // n_ngrams, key % n_ngrams
    of_reference = owner >= n_clips
    clip_key = clip_of[owner] * n_ngrams + gram
    documents = np.bincount(np.unique(clip_key[of_reference]) % n_ngrams, minlength=n_ngrams)
    weight = frequency * (np.log(n_clips) - np.log(np.maximum(1, documents)))[gram]
    norm = np.sqrt(np.bincount(owner, weights=weight**2, minlength=n_captions))

    hypothesis_key, hypothesis_weight = key[~of_reference], weight[~of_reference]
    overlap: np.ndarray = np.zeros(n_captions - n_clips)
    if len(hypothesis_key):
        wanted = clip_key[of_reference]
        at = np.minimum(np.searchsorted(hypothesis_key, wanted), len(hypothesis_key) - 1)
        hit = hypothesis_key[at] == wanted
        clipped = np.minimum(hypothesis_weight[at], weight[of_reference]) * weight[of_reference]
        counted = np.bincount(owner[of_reference] - n_clips, weights=clipped * hit, minlength=len(overlap))
        overlap = counted.astype(np.float64)  # without any n-gram, `bincount` returns integers
    scale = norm[clip_of[n_clips:]] * norm[n_clips:]
    return np.asarray(np.divide(overlap, scale, out=np.zeros_like(overlap), where=scale > 0))
