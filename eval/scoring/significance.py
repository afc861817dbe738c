"""Tests of whether two models differ on the same questions."""

from collections.abc import Callable, Hashable, Sequence

import numpy as np
from scipy import stats as distributions

from eval.scoring.stats import number_clips

N_PERMUTATIONS = 5000
_BLOCK = 250


def permutation_p(
    first: np.ndarray,
    second: np.ndarray,
    clips: Sequence[Hashable],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    n_permutations: int = N_PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p-value of a paired permutation test that swaps the two models' answers clip by clip.

    Args:
        first: One model's numbers to be summed, (samples, K).
        second: The other's, of the same samples.
        clips: The clip of each sample; its answers are swapped together.
        statistic: Maps sums (R, K) to scores (R,).
        n_permutations: How many random swaps.
        seed: Seed of the swaps.

    Returns:
        The share of swaps whose difference is at least the observed one. The observed assignment counts as one more
        swap, so the p-value is never 0.

    Raises:
        ValueError: The shapes differ, or there are no samples.
    """
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if first.shape != second.shape or not len(first) or len(first) != len(clips):
        raise ValueError(
            f"paired scores differ in shape: {first.shape}, {second.shape} and {len(clips)} clips"
        )
    owner, n_clips = number_clips(clips)
    gain = np.zeros((n_clips, first.shape[1]))
    np.add.at(gain, owner, second - first)
    low, high = first.sum(axis=0), second.sum(axis=0)

    def differences(swapped: np.ndarray) -> np.ndarray:
        moved = swapped @ gain
        return np.asarray(statistic(low + moved) - statistic(high - moved))

    observed = abs(differences(np.zeros((1, len(gain))))[0])
    generator = np.random.default_rng(seed)
    n_large = 0
    for start in range(0, n_permutations, _BLOCK):
        size = min(_BLOCK, n_permutations - start)
        drawn = differences(generator.integers(0, 2, size=(size, len(gain))).astype(np.float64))
        n_large += int((np.abs(drawn) >= observed - 1e-12).sum())
    return (1 + n_large) / (1 + n_permutations)


def mcnemar_p(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Two-sided p-value of McNemar's exact test on right and wrong answers to the same questions.

    The test assumes independent questions. Where several questions are about one clip, use `permutation_p` instead.

    Args:
        first: One model's zeros and ones.
        second: The other's.

    Returns:
        The p-value; 1 where the models differ on no question.

    Raises:
        ValueError: The numbers differ.
    """
    first, second = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    if first.shape != second.shape:
        raise ValueError(f"paired answers differ in number: {len(first)} and {len(second)}")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(distributions.binomtest(only_first, only_first + only_second, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method, in the same order."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        corrected[index] = largest
    return corrected
