"""Tests of differences: how often they find one where there is none, exact values, and corrected p-values."""

import numpy as np
import pytest
from scipy import stats

from eval.scoring.significance import holm, mcnemar_p, permutation_p


def mean(sums):
    return sums[:, 0] / sums[:, 1]


def columns(values):
    return np.stack([values, np.ones(len(values))], axis=1)


def test_false_alarms_of_the_permutation_test():
    rng = np.random.default_rng(0)
    trials, alarms = 400, 0
    clips = np.repeat(np.arange(30), 3)
    for trial in range(trials):
        # Two models equally good, each with answers that hang together within a clip.
        answers = [rng.random(90) < np.repeat(rng.beta(2, 1, size=30), 3) for _ in range(2)]
        p = permutation_p(
            *(columns(one.astype(float)) for one in answers), clips, mean, n_permutations=400, seed=trial
        )
        alarms += p <= 0.05
    assert alarms / trials <= 0.06


def test_power_and_symmetry():
    rng = np.random.default_rng(1)
    good, bad = (rng.random(200) < 0.8).astype(float), (rng.random(200) < 0.6).astype(float)
    p = permutation_p(columns(good), columns(bad), range(200), mean)
    assert p < 0.01 and p == permutation_p(columns(bad), columns(good), range(200), mean)
    assert permutation_p(columns(good), columns(good), range(200), mean) == 1.0
    # Swapping answers one by one would take 200 repetitions of one clip for evidence.
    assert permutation_p(columns(good), columns(bad), [0] * 200, mean) == 1.0
    with pytest.raises(ValueError, match="differ in shape"):
        permutation_p(columns(good), columns(bad[:10]), range(200), mean)


def test_equals_the_exact_test_of_few_clips():
    first, second = np.array([1.0, 1, 1, 1, 1]), np.array([0.0, 0, 0, 0, 1])
    # Of the 32 ways to swap, those with all four differing clips on one side reach the difference.
    found = permutation_p(columns(first), columns(second), range(5), mean, n_permutations=20000)
    assert found == pytest.approx(2 / 16, abs=0.01)


def test_no_number_of_swaps_makes_a_difference_impossible():
    """Of 40 clips that all differ, none of 99 swaps reaches the observed one: it is counted itself, 1 of 100."""
    first, second = columns(np.ones(40)), columns(np.zeros(40))
    for statistic in (mean, lambda sums: -mean(sums)):
        assert permutation_p(first, second, range(40), statistic, n_permutations=99) == pytest.approx(1 / 100)


def test_mcnemar():
    first = [1] * 10 + [0] * 2 + [1] * 5
    second = [0] * 10 + [1] * 2 + [1] * 5
    assert mcnemar_p(first, second) == pytest.approx(stats.binomtest(10, 12).pvalue)
    assert mcnemar_p([1, 0], [1, 0]) == 1.0
    with pytest.raises(ValueError, match="differ in number"):
        mcnemar_p([1], [1, 0])


def test_the_seed_draws_the_swaps():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 30, 1))
    found = [
        permutation_p(first, second, range(30), lambda sums: sums[:, 0], n_permutations=100, seed=seed)
        for seed in (0, 0, 1, 2)
    ]
    assert found[0] == found[1] and len(set(found)) > 1


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
