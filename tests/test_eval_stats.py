"""Intervals: coverage by simulation, and the cases without variation."""

import json

import numpy as np
import pytest
from scipy import stats as distributions

from eval.errors import EvaluationError
from eval.metrics.bleu.bleu import bleu_of
from eval.scoring.predictions import read_predictions
from eval.scoring.stats import difference_interval, mean_interval, ratio_interval, weighted_interval


def test_same_seed_same_interval_and_order_of_samples_does_not_matter():
    rng = np.random.default_rng(0)
    values, clips = rng.random(60), [f"c{i % 20}" for i in range(60)]
    first = mean_interval(values, clips, seed=3)
    assert first == mean_interval(values, clips, seed=3)
    assert first != mean_interval(values, clips, seed=4)
    assert first.low < first.value < first.high
    assert (first.n, first.n_clips) == (60, 20)


@pytest.mark.parametrize(("n_clips", "per_clip"), [(12, 3), (60, 4)])
def test_coverage_of_the_95_percent_interval(n_clips, per_clip):
    rng = np.random.default_rng(1)
    trials, inside = 600, 0
    clips = np.repeat(np.arange(n_clips), per_clip)
    for trial in range(trials):
        # Samples of one clip are strongly correlated: the clip's own rate, then coin flips with it.
        rate = rng.beta(2, 1, size=n_clips)
        values = rng.random(n_clips * per_clip) < np.repeat(rate, per_clip)
        interval = mean_interval(values, clips, proportion=True, seed=trial)
        inside += interval.low <= 2 / 3 <= interval.high
    assert 0.93 <= inside / trials <= 0.97


def test_the_interval_of_few_clips_is_as_wide_as_a_t_interval():
    """12 evenly spread normal values, over many seeds: without the correction, intervals would be 4 % narrower."""
    values = distributions.norm.ppf((np.arange(12) + 0.5) / 12)
    found = [mean_interval(values, range(12), seed=seed) for seed in range(60)]
    width = np.mean([interval.high - interval.low for interval in found])
    wanted = 2 * distributions.t.ppf(0.975, 11) * values.std(ddof=1) / np.sqrt(12)
    assert width == pytest.approx(wanted, rel=0.02)


def test_ignoring_clips_would_be_too_narrow():
    rng = np.random.default_rng(2)
    values = np.repeat(rng.random(30), 10)
    clustered = mean_interval(values, np.repeat(np.arange(30), 10))
    naive = mean_interval(values, np.arange(300))
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_perfect_scores_do_not_claim_certainty():
    perfect = mean_interval([1.0] * 40, list(range(20)) * 2, proportion=True)
    assert (perfect.value, perfect.high) == (1.0, 1.0)
    assert perfect.low == pytest.approx(0.025 ** (1 / 20))
    none = mean_interval([0.0] * 20, range(20), proportion=True)
    assert (none.low, none.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_one_clip_gives_no_interval():
    single = mean_interval([1.0, 0.0], ["a", "a"], proportion=True)
    assert (single.value, single.low, single.high, single.n_clips) == (0.5, None, None, 1)


def test_paired_difference_is_narrower_than_unpaired():
    rng = np.random.default_rng(4)
    hard = rng.random(80)
    gap = difference_interval(hard + 0.1 + 0.01 * rng.random(80), hard, range(80))
    assert gap.low > 0.1 and gap.high < 0.12
    sure = difference_interval([1.0] * 20, [0.0] * 20, range(20), proportion=True)
    assert (sure.value, sure.high) == (1.0, 1.0) and 0.8 < sure.low < 0.9
    same = difference_interval([1.0] * 20, [1.0] * 20, range(20), proportion=True)
    assert same.value == 0.0 and -0.2 < same.low == -same.high < -0.1
    with pytest.raises(ValueError, match="differ in number"):
        difference_interval([1.0], [1.0, 2.0], ["a", "b"])


def test_corpus_bleu_is_resampled_from_its_counts():
    rng = np.random.default_rng(5)
    guesses = np.tile([10, 9, 8, 7], (40, 1))
    matches = (guesses * rng.random((40, 1))).astype(int)
    counts = np.hstack([matches, guesses, np.full((40, 2), 10)])
    interval = ratio_interval(counts, range(40), lambda sums: bleu_of(sums)[:, 3])
    assert interval.value == bleu_of(counts.sum(0, keepdims=True))[0, 3]
    assert interval.low < interval.value < interval.high


def test_a_score_that_is_not_defined_has_no_interval():
    found = weighted_interval(["a", "b", "c"], lambda weights: np.full(len(weights), np.nan))
    assert np.isnan(found.value) and found.low is found.high is None and found.n_clips == 3


def test_bad_input():
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([], [])
    with pytest.raises(ValueError, match="2 scores for 1 clips"):
        mean_interval([1.0, 0.0], ["a"])


def test_a_duration_that_is_no_number_is_refused(tmp_path):
    line = {"id": "q", "key": "k", "control": "none", "prediction": "rain"}
    file = tmp_path / "predictions.jsonl"
    for seconds in (None, 3, 2.5):
        file.write_text(json.dumps(line | {"duration_s": seconds}) + "\n")
        assert read_predictions(file)[0]["duration_s"] == seconds
    file.write_text(json.dumps(line) + "\n" + json.dumps(line | {"duration_s": "long"}) + "\n")
    with pytest.raises(EvaluationError, match="predictions.jsonl:2: duration_s is 'long', expected a number"):
        read_predictions(file)
