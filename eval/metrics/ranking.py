"""Scores that depend on how samples are ranked: average precision and equal error rate.

Both take weights per sample, so that the bootstrap (which counts a clip twice, or not at all) sorts only once.
Axis letters: R resamples, n samples, G thresholds (distinct scores, highest first).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np


class Ranking:
    """One class' samples in order of falling score; equal scores share a threshold.

    Args:
        scores: (n,) higher means more likely positive.
        positive: (n,) bool.
    """

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        self._order = np.argsort(-scores, kind="stable")
        ranked = scores[self._order]
        self._positive = positive[self._order].astype(np.float64)
        self._ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))

    def counts(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True and false positives at every threshold.

        Args:
            weights: (R, n) how often each sample counts.

        Returns:
            Two (R, G) arrays.
        """
        ranked = weights[:, self._order]
        hits = np.cumsum(ranked * self._positive, axis=1)[:, self._ends]
        return hits, np.cumsum(ranked, axis=1)[:, self._ends] - hits


def average_precision(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Area under the precision-recall steps, (R, G) twice -> (R,); NaN where nothing is positive.

    The same sum as scikit-learn's `average_precision_score`, divided by the number of positives last, so that
    a perfect ranking gives exactly 1.
    """
    gained = np.diff(hits, axis=1, prepend=0.0)
    n_chosen = hits + false_alarms
    precision = np.divide(hits, n_chosen, out=np.zeros_like(hits), where=n_chosen > 0)
    n_positive = hits[:, -1]
    area = (precision * gained).sum(axis=1)
    return np.asarray(np.divide(area, n_positive, out=np.full_like(area, np.nan), where=n_positive > 0))


def equal_error_rate(hits: np.ndarray, false_alarms: np.ndarray) -> np.ndarray:
    """Where misses and false alarms are equally frequent, (R, G) twice -> (R,); NaN without both kinds.

    Between two thresholds the rates are interpolated linearly, as along the ROC curve.
    """
    n_positive, n_negative = hits[:, -1:], false_alarms[:, -1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.insert(1 - hits / n_positive, 0, 1.0, axis=1)
        alarmed = np.insert(false_alarms / n_negative, 0, 0.0, axis=1)
        gap = missed - alarmed  # falls from 1 to -1
        after = (gap <= 0).argmax(axis=1)
        rows = np.arange(len(gap))
        before = np.maximum(after - 1, 0)
        step = gap[rows, before] / (gap[rows, before] - gap[rows, after])
        rate = alarmed[rows, before] + step * (alarmed[rows, after] - alarmed[rows, before])
    return np.where((n_positive * n_negative)[:, 0] > 0, rate, np.nan)


def class_mean(
    rankings: Sequence[Ranking], measure: Callable[[np.ndarray, np.ndarray], np.ndarray], weights: np.ndarray
) -> np.ndarray:
    """Mean of a measure over classes, (R,).

    A class whose measure is NaN in a resample does not count in that resample's mean, which is NaN if all are.

    Args:
        rankings: One per class.
        measure: `average_precision` or `equal_error_rate`.
        weights: (R, n) how often each sample counts.
    """
    values = np.stack([measure(*ranking.counts(weights)) for ranking in rankings])  # (classes, R)
    there = ~np.isnan(values)
    total, count = np.where(there, values, 0.0).sum(axis=0), there.sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0))


def class_precisions(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Average precision of every class, (n, C) twice -> (C,); NaN for a class without a positive sample."""
    once = np.ones((1, len(scores)))
    columns = zip(scores.T, labels.T, strict=True)
    return np.array([average_precision(*Ranking(s, y).counts(once))[0] for s, y in columns])
