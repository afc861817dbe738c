"""The log-mel baseline learns what can be learned, and looks at training clips only."""

import csv
from collections import Counter

import numpy as np
import pytest
from scipy import signal
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from encoders.audio import load_audio
from eval.errors import EvaluationError
from eval.scoring import logistic
from eval.scoring.baselines import logmel_baseline, logmel_features
from eval.scoring.logistic import fit_logistic


def tone(pitch_hz, seed, seconds=0.3):
    rng = np.random.default_rng(seed)
    time = np.arange(int(16000 * seconds)) / 16000
    return (0.3 * np.sin(2 * np.pi * pitch_hz * time) + 0.01 * rng.standard_normal(len(time))).astype(
        np.float32
    )


def tones(per_label, offset=0):
    return [
        (tone(pitch * (1 + 0.02 * (i % 5)), offset + i, 0.2 + 0.05 * (i % 3)), label)
        for label, pitch in (("low", 200), ("middle", 900), ("high", 4000))
        for i in range(per_label)
    ]


def test_tells_pitches_apart():
    result = logmel_baseline(tones(6), tones(4, 100), 16000)
    assert result["accuracy"] == 1.0 and result["n"] == 12
    assert result["predictions"] == [label for _, label in tones(4)]
    assert result == logmel_baseline(tones(6), tones(4, 100), 16000)


def test_random_labels_stay_at_chance():
    rng = np.random.default_rng(0)
    noise = [(rng.standard_normal(4800).astype(np.float32) * 0.1, "ab"[i % 2]) for i in range(120)]
    assert 0.3 < logmel_baseline(noise[:60], noise[60:], 16000)["accuracy"] < 0.7


def test_no_recording_is_on_both_sides_of_a_fold():
    """The penalty that scikit-learn chooses, with takes of a recording together or as recordings of their own."""
    rng = np.random.default_rng(4)
    clips, groups = [], []
    for i in range(12):  # takes sound alike, and the label is chance
        tilt = rng.uniform(-0.9, 0.9)
        for _ in range(4):
            noise = signal.lfilter([1], [1, tilt], rng.standard_normal(3200))
            clips.append(((0.1 * noise / np.abs(noise).max()).astype(np.float32), "ab"[i % 2]))
            groups.append(f"r{i}")
    features, labels = logmel_features([clip for clip, _ in clips], 16000), [label for _, label in clips]
    found = []
    for given, known in ((groups, groups), (None, range(48))):
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3))
        search = GridSearchCV(
            model, {"logisticregression__C": [0.001, 0.01, 0.1, 1.0, 10.0]}, refit=False,
            cv=StratifiedGroupKFold(5, shuffle=True, random_state=0),
        ).fit(features, labels, groups=known)  # fmt: skip
        found.append(logmel_baseline(clips, clips[:1], 16000, groups=given)["strength"])
        assert found[-1] == search.best_params_["logisticregression__C"]
    assert found[0] != found[1]


def test_the_seed_deals_the_folds():
    """If labels are random, each assignment to folds prefers another penalty."""
    features, groups = (
        np.random.default_rng(9).standard_normal((30, 4)),
        [str(number) for number in range(30)],
    )
    found = [
        fit_logistic(features, np.eye(2)[np.arange(30) % 2], groups, seed=seed).strength
        for seed in (0, 0, 1, 2, 3)
    ]
    assert found[0] == found[1] and len(set(found)) > 1


def test_takes_of_one_recording_choose_no_penalty_of_several_labels(monkeypatch):
    """In every fold, a recording has all of its takes among the training clips, or none."""
    rng = np.random.default_rng(0)
    features = np.repeat(rng.standard_normal((15, 2)), 4, axis=0)
    targets = np.repeat(rng.random((15, 3)) < 0.5, 4, axis=0).astype(float)
    learned, solve = [], logistic._solve_sigmoids
    monkeypatch.setattr(
        logistic, "_solve_sigmoids", lambda x, y, strength: learned.append(x) or solve(x, y, strength)
    )
    takes = [f"r{number // 4}" for number in range(60)]
    order = rng.permutation(60)
    fit_logistic(features[order], targets[order], [takes[i] for i in order], multi_label=True)
    folds = [x for x in learned if len(x) < 60]
    assert len(folds) == 25 and all(set(Counter(x[:, 0].tolist()).values()) == {4} for x in folds)


def test_a_feature_that_never_changed_in_training_decides_nothing():
    features = np.random.default_rng(0).standard_normal((30, 3))
    features[:, 1] = 1 / 3
    model = fit_logistic(features, np.eye(2)[np.arange(30) % 2], [str(n) for n in range(30)])
    other = features.copy()
    other[:, 1] = 5.0
    np.testing.assert_allclose(model.logits(other), model.logits(features), atol=1e-6)


def test_labels_with_one_clip_need_no_folds():
    result = logmel_baseline(tones(1), tones(1), 16000)
    assert result["strength"] == 1.0 and result["accuracy"] == 1.0


def test_features_do_not_depend_on_the_other_clips():
    clips = [tone(300, 0), tone(800, 1, 0.5)]
    both = logmel_features(clips, 16000)
    assert both.shape == (2, 256)
    np.testing.assert_array_equal(both[1], logmel_features(clips[1:], 16000)[0])


def test_bad_input_is_a_typed_error():
    with pytest.raises(EvaluationError, match="1 training labels"):
        logmel_baseline(tones(1)[:1], tones(1), 16000)
    with pytest.raises(EvaluationError, match="0 test clips"):
        logmel_baseline(tones(1), [], 16000)
    with pytest.raises(EvaluationError, match="has 10 samples"):
        logmel_baseline(tones(1), [(np.zeros(10, np.float32), "low")], 16000)


def test_real_recordings(shared_dir):
    """ESC-10 without fold 4: far above the chance of one in ten, far from perfect."""
    folder = shared_dir / "data" / "esc10"
    rows = list(csv.DictReader((folder / "meta.csv").open()))[::2]
    clips = [(load_audio(folder / row["filename"], 16000), row["category"]) for row in rows]
    held_out = [row["fold"] == "4" for row in rows]
    result = logmel_baseline(
        [clip for clip, out in zip(clips, held_out, strict=True) if not out],
        [clip for clip, out in zip(clips, held_out, strict=True) if out],
        16000,
    )
    assert result["n"] == 40
    assert 0.5 < result["accuracy"] < 0.95
