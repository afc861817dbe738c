"""Intervals for means and differences of scores, resampling clips instead of samples.

Questions about one clip are not independent, so whole clips are resampled. All are 95 % percentile bootstrap intervals,
widened for few clips like a t interval (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", section 4.5):
without this they are too narrow below some 30 clips.

Two special cases. With a single clip, the variance between clips is unknown: low and high are None. If all values of a
proportion are equal (all right or all wrong), the bootstrap interval would have zero width. Then the exact binomial
(Clopper-Pearson) bound for the number of clips is used: 20 clips that are all right give [0.832, 1].
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

N_RESAMPLES = 2000
_CONFIDENCE = 0.95  # share of such intervals that hold the true score
# Resamples that are drawn at a time; bounds the memory at a few MB for ten thousand clips.
_BLOCK = 100

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A score with its 95 % confidence interval.

    Attributes:
        value: The score of the sample.
        low: Lower end; None if there is only one clip.
        high: Upper end; None if there is only one clip.
        n: Samples.
        n_clips: Clips they belong to.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    n_clips: int


def mean_interval(
    values: Sequence[float] | np.ndarray,
    clips: Sequence[Hashable],
    *,
    proportion: bool = False,
    seed: int = 0,
) -> Interval:
    """Mean of per-sample scores with a clip-clustered bootstrap interval.

    Args:
        values: One score per sample.
        clips: The clip of each sample.
        proportion: Whether the values are zeros and ones; the module's docstring says what happens if all are equal.
        seed: Seed of the resampling; the same seed gives the same interval.

    Returns:
        The mean over samples and its interval.

    Raises:
        ValueError: No values, or not one clip per value.
    """
    values = np.asarray(values, dtype=np.float64)
    columns = np.stack([values, np.ones_like(values)], axis=1)
    interval = ratio_interval(columns, clips, _mean, seed=seed)
    if proportion and interval.value in (0.0, 1.0):
        return _without_variation(interval, 0.0, 1.0)
    return interval


def difference_interval(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    clips: Sequence[Hashable],
    *,
    proportion: bool = False,
    seed: int = 0,
) -> Interval:
    """Mean of `first - second` over the same samples, with a clip-clustered bootstrap interval.

    Args:
        first: One score per sample.
        second: The scores of the same samples in the other condition.
        clips: The clip of each sample.
        proportion: Whether the scores are zeros and ones.
        seed: Seed of the resampling.

    Returns:
        The mean difference and its interval.

    Raises:
        ValueError: The lengths differ, or there are no values.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(f"paired scores differ in number: {len(first)} and {len(second)}")
    interval = mean_interval(first - second, clips, seed=seed)
    if proportion and len(set((first - second).tolist())) == 1:
        return _without_variation(interval, -1.0, 1.0)
    return interval


def ratio_interval(
    columns: np.ndarray,
    clips: Sequence[Hashable],
    statistic: Statistic,
    *,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a score that is a function of sums over samples, such as corpus BLEU.

    Args:
        columns: Per sample the numbers to be summed, (samples, K).
        clips: The clip of each sample.
        statistic: Maps sums (R, K) to scores (R,).
        seed: Seed of the resampling.

    Returns:
        The score of all samples and its interval.

    Raises:
        ValueError: No samples, or not one clip per sample.
    """
    columns = np.asarray(columns, dtype=np.float64)
    if not len(columns) or len(columns) != len(clips):
        raise ValueError(
            f"got {len(columns)} scores for {len(clips)} clips; expected one clip per score, at least one"
        )
    owner, n_clips = number_clips(clips)
    sums = np.zeros((n_clips, columns.shape[1]))
    np.add.at(sums, owner, columns)
    value = float(statistic(columns.sum(axis=0, keepdims=True))[0])
    if n_clips == 1:
        return Interval(value, None, None, len(columns), 1)
    drawn = np.concatenate([statistic(counts @ sums) for counts in _draw_counts(n_clips, N_RESAMPLES, seed)])
    drawn = drawn[np.isfinite(drawn)]  # the error rate is undefined if all references of a resample are empty
    if not len(drawn):
        return Interval(value, None, None, len(columns), n_clips)
    return Interval(value, *_ends(drawn, n_clips), len(columns), n_clips)


def weighted_interval(
    clips: Sequence[Hashable],
    statistic: Statistic,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a score that is no function of sums, such as mAP or the equal error rate.

    Args:
        clips: The clip of each of n samples.
        statistic: Maps weights (R, n), how often each sample counts, to scores (R,); NaN where a resample has
            none; these resamples are ignored.
        bounds: The lowest and the highest possible score; if every resample gives one of them, the exact bound applies
            (see the module's docstring).
        n_resamples: Number of resamples.
        seed: Seed of the resampling.

    Returns:
        The score of all samples and its interval.

    Raises:
        ValueError: No samples.
    """
    if not len(clips):
        raise ValueError("got no samples; expected at least one")
    owner, n_clips = number_clips(clips)
    value = float(statistic(np.ones((1, len(owner))))[0])
    if n_clips == 1 or np.isnan(value):
        return Interval(value, None, None, len(owner), n_clips)
    drawn = np.concatenate(
        [statistic(counts[:, owner]) for counts in _draw_counts(n_clips, n_resamples, seed)]
    )
    drawn = drawn[~np.isnan(drawn)]
    if (drawn == value).all() and value in bounds:
        return _without_variation(Interval(value, value, value, len(owner), n_clips), *bounds)
    return Interval(value, *_ends(drawn, n_clips), len(owner), n_clips)


def _without_variation(interval: Interval, least: float, most: float) -> Interval:
    """Interval for values that are all equal: the value ± the Clopper-Pearson bound for `n_clips` clips."""
    if interval.low is None:
        return interval
    reach = 1 - ((1 - _CONFIDENCE) / 2) ** (1 / interval.n_clips)
    low, high = max(least, interval.value - reach), min(most, interval.value + reach)
    return Interval(interval.value, low, high, interval.n, interval.n_clips)


def _mean(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[:, 0] / sums[:, 1])


def number_clips(clips: Sequence[Hashable]) -> tuple[np.ndarray, int]:
    """Number clips in order of first use: the number of each sample's clip, (samples,), and how many there are."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(clip, len(numbers)) for clip in clips]), len(numbers)


def _draw_counts(n_clips: int, n_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each clip is drawn, in blocks (at most _BLOCK, n_clips)."""
    generator = np.random.default_rng(seed)
    for start in range(0, n_resamples, _BLOCK):
        size = min(_BLOCK, n_resamples - start)
        picks = generator.integers(0, n_clips, size=(size, n_clips))
        picks += n_clips * np.arange(size)[:, None]
        yield np.bincount(picks.ravel(), minlength=size * n_clips).reshape(size, n_clips)


def _ends(drawn: np.ndarray, n_clips: int) -> tuple[float, float]:
    """Both ends of the percentile interval, as wide as a t interval for `n_clips` clips."""
    reach = np.sqrt(n_clips / (n_clips - 1)) * distributions.t.ppf((1 + _CONFIDENCE) / 2, n_clips - 1)
    tail = float(distributions.norm.cdf(-reach))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)
