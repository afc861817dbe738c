"""mAP and equal error rate against scikit-learn, on ties and absent classes, with intervals that cover."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_curve

from eval.errors import MetricError
from eval.metrics import load_metric
from eval.metrics.ranking import (
    Ranking,
    average_precision,
    class_mean,
    class_precisions,
    equal_error_rate,
)
from eval.scoring.stats import weighted_interval


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_equals_scikit_learn(ties):
    rng = np.random.default_rng(0)
    labels = rng.random((200, 7)) < 0.2
    scores = rng.normal(size=(200, 7)) + labels
    scores = np.round(scores) if ties else scores
    wanted = [average_precision_score(y, s) for y, s in zip(labels.T, scores.T, strict=True)]
    assert class_precisions(scores, labels) == pytest.approx(wanted, abs=1e-12)
    result = load_metric("mean_average_precision").compute(predictions=scores, references=labels)
    assert result["mean_average_precision"] == pytest.approx(np.mean(wanted), abs=1e-12)


@pytest.mark.parametrize("n", [3, 7, 49, 997])
def test_perfect_predictions_give_exactly_one_and_absent_classes_do_not_count(n):
    rng = np.random.default_rng(n)
    labels = rng.random((n, 4)) < 0.4
    labels[0], labels[:, 2] = True, False
    scores = labels + rng.random((n, 4)) * 0.5
    result = load_metric("mean_average_precision").compute(predictions=scores, references=labels)
    assert result["mean_average_precision"] == 1.0
    assert result["n_absent"] == 1 and result["per_class"][2] is None


def test_equal_error_rate_by_hand_and_by_the_roc_curve():
    def rate(scores, labels):
        columns = {"predictions": np.array(scores)[:, None], "references": np.array(labels)[:, None]}
        return load_metric("equal_error_rate").compute(**columns)["equal_error_rate"]

    assert rate([4, 3, 2, 1], [1, 1, 0, 0]) == 0.0
    assert rate([4, 3, 2, 1], [0, 0, 1, 1]) == 1.0
    assert rate([4, 3, 2, 1], [1, 0, 1, 0]) == 0.5
    assert rate([1, 1, 1, 1], [1, 0, 1, 0]) == 0.5  # a constant detector
    rng = np.random.default_rng(1)
    labels = rng.random(3000) < 0.3
    scores = rng.normal(size=3000) + 1.5 * labels
    alarmed, found, _ = roc_curve(labels, scores, drop_intermediate=False)
    nearest = np.abs(1 - found - alarmed).argmin()
    assert rate(scores, labels) == pytest.approx((1 - found + alarmed)[nearest] / 2, abs=1e-3)


@pytest.mark.parametrize("measure", [average_precision, equal_error_rate])
def test_a_class_that_a_resample_lacks_leaves_its_mean(measure):
    scores = np.array([4.0, 3.0, 2.0, 1.0])
    rankings = [Ranking(scores, np.array(row) > 0) for row in ([0, 1, 0, 1], [1, 0, 0, 0])]
    weights = np.array(
        [[1, 1, 1, 1], [0, 2, 1, 1], [0, 0, 3, 0]]
    )  # all; the second class absent; both undefined
    first, second = (measure(*ranking.counts(weights)) for ranking in rankings)
    assert np.isnan(second[1]) and np.isnan([first[2], second[2]]).all()
    mean = class_mean(rankings, measure, weights)
    assert mean[0] == pytest.approx((first[0] + second[0]) / 2)
    assert mean[1] == pytest.approx(first[1]) and np.isnan(mean[2])


def test_weights_count_samples_as_often_as_they_say():
    rng = np.random.default_rng(2)
    scores, labels = rng.normal(size=60), rng.random(60) < 0.5
    weights = rng.integers(0, 4, 60)
    repeated = np.repeat(np.arange(60), weights)
    for statistic in (average_precision, equal_error_rate):
        once = statistic(*Ranking(scores[repeated], labels[repeated]).counts(np.ones((1, len(repeated)))))
        assert statistic(*Ranking(scores, labels).counts(weights[None]))[0] == pytest.approx(
            once[0], abs=1e-12
        )


def test_interval_covers_the_true_rate_and_widens_with_clusters():
    """Nineteen of twenty intervals should hold the rate of a very large sample."""
    rng = np.random.default_rng(3)

    def interval(n, clips):
        labels = np.arange(n) % 2 == 0
        ranking = Ranking(rng.normal(size=n) + 2 * labels, labels)
        return weighted_interval(clips, lambda w: equal_error_rate(*ranking.counts(w)), n_resamples=300)

    true = 0.1587  # Phi(-1): the two normal densities are two deviations apart
    drawn = [interval(200, list(range(200))) for _ in range(60)]
    assert sum(i.low <= true <= i.high for i in drawn) >= 52
    one, paired = interval(200, list(range(200))), interval(200, [i // 20 for i in range(200)])
    assert paired.n_clips == 10 and paired.high - paired.low > 0 and one.n_clips == 200
    perfect = weighted_interval(range(20), lambda w: np.ones(len(w)))
    assert (perfect.value, perfect.high) == (1.0, 1.0) and 0.8 < perfect.low < 0.85


@pytest.mark.parametrize(
    ("name", "scores", "labels", "message"),
    [
        ("mean_average_precision", [[1.0, 2.0]], [[1.0]], r"shape \(1, 2\) and labels of shape \(1, 1\)"),
        ("mean_average_precision", [[float("nan")]], [[1]], "sample 0 for class 0 is nan"),
        ("mean_average_precision", [[0.5]], [[2]], "label of sample 0 for class 0 is 2.0"),
        ("mean_average_precision", [["a"]], [[1]], "no numbers"),
        ("mean_average_precision", [[0.5]], None, "only one of"),
        ("equal_error_rate", [[0.5], [0.2]], [[1], [1]], "one kind only"),
        ("equal_error_rate", [[0.5, 0.1]], [[1, 0]], "got 2 classes"),
    ],
)
def test_bad_input_is_a_typed_error(name, scores, labels, message):
    with pytest.raises(MetricError, match=message):
        load_metric(name).compute(predictions=scores, references=labels)
