"""What simple means reach on the same clips, to hold a model's score against."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from encoders.mel import KaldiFbank
from eval.errors import EvaluationError
from eval.metrics.mean_average_precision import class_precisions

LabelledClip = tuple[np.ndarray, str]

# Inverse strengths of the L2 penalty that cross-validation chooses from.
STRENGTHS = tuple(10.0**power for power in range(-3, 2))
N_FOLDS = 5


def logmel_baseline(
    train: Sequence[LabelledClip],
    test: Sequence[LabelledClip],
    sample_rate: int,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Tell sounds apart by logistic regression on the mean and deviation of each log-mel band over time.

    Features are standardised and the strength of the penalty is chosen by cross-validation, on the training clips
    alone.

    Args:
        train: (waveform (S,) float32 in [-1, 1], label) per training clip; at least two labels among them.
        test: The same for the clips to be told apart.
        sample_rate: Of all waveforms, in Hz.
        seed: Seed of the folds.
        groups: Per training clip the recording it was cut from; takes of one recording on both sides of a fold
            would make cross-validation choose too weak a penalty. None takes every clip for a recording.

    Returns:
        `accuracy` on the test clips, `predictions` (one label per test clip), `n` (number of test clips) and
        `strength` (the penalty's inverse strength that was chosen).

    Raises:
        EvaluationError: No test clips, fewer than two labels to learn, or a clip shorter than one 25 ms frame.
    """
    labels = [label for _, label in train]
    if len(set(labels)) < 2 or not test:
        raise EvaluationError(
            f"the log-mel baseline got {len(set(labels))} training labels and {len(test)} test clips; "
            "expected at least two labels and one clip"
        )
    features = logmel_features([waveform for waveform, _ in [*train, *test]], sample_rate)
    model, strength = fit_logistic(features[: len(train)], labels, seed, groups)
    predictions = [str(label) for label in model.predict(features[len(train) :])]
    right = sum(said == label for said, (_, label) in zip(predictions, test, strict=True))
    return {
        "accuracy": right / len(test),
        "predictions": predictions,
        "n": len(test),
        "strength": strength,
    }


def fit_logistic(
    features: np.ndarray, labels: Sequence[Any], seed: int = 0, groups: Sequence[str] | None = None
) -> tuple[Any, float]:
    """Logistic regression on standardised features, its penalty chosen by cross-validation across groups.

    Args:
        features: (clips, K).
        labels: One per clip, at least two different ones.
        seed: Seed of the folds.
        groups: One per clip; None takes every clip for a group.

    Returns:
        A fitted scikit-learn pipeline, and the inverse strength of the penalty that was chosen.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3))
    n_folds = min(N_FOLDS, min(Counter(labels).values()))
    if n_folds < 2:
        # A label with a single clip cannot be in both halves of a fold: the library's default strength.
        return model.fit(features, labels), 1.0
    folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=folds)
    # Problems this small are solved many times faster by one thread than by several that wait for each other.
    with threadpool_limits(1):
        search.fit(features, labels, groups=list(groups) if groups is not None else range(len(labels)))
    return search.best_estimator_, float(search.best_params_["logisticregression__C"])


def multi_label_probabilities(
    features: np.ndarray, targets: np.ndarray, asked: np.ndarray, groups: Sequence[str]
) -> tuple[np.ndarray, float]:
    """One logistic regression per class, all solved at once; the common penalty is chosen across groups by mAP.

    The same problem as scikit-learn's ``OneVsRestClassifier(LogisticRegression(C))``, which takes hours for some
    hundred classes.

    Args:
        features: (clips, K) of the training clips.
        targets: (clips, C) zeros and ones.
        asked: (n, K) features to score.
        groups: One per training clip.

    Returns:
        Probabilities (n, C), and the inverse strength of the penalty.
    """
    from sklearn.model_selection import GroupKFold

    mean, deviation = features.mean(axis=0), features.std(axis=0)
    scaled, wanted = ((part - mean) / np.maximum(deviation, 1e-9) for part in (features, asked))
    n_folds = min(N_FOLDS, len(set(groups)))
    strength = 1.0
    if n_folds >= 2:
        scores = dict.fromkeys(STRENGTHS, 0.0)
        for train, held in GroupKFold(n_folds).split(scaled, groups=list(groups)):
            for candidate in STRENGTHS:
                said = _sigmoid_regression(scaled[train], targets[train], candidate, scaled[held])
                scores[candidate] += float(
                    np.nan_to_num(np.nanmean(class_precisions(said, targets[held] > 0)))
                )
        strength = max(scores, key=lambda candidate: scores[candidate])
    return _sigmoid_regression(scaled, targets, strength, wanted), strength


def _sigmoid_regression(
    features: np.ndarray, targets: np.ndarray, strength: float, asked: np.ndarray
) -> np.ndarray:
    """Fit (clips, K) to (clips, C) under an L2 penalty of 1 / strength on the weights; probabilities of (n, K)."""
    x, y = torch.from_numpy(features).float(), torch.from_numpy(targets).float()
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def objective() -> torch.Tensor:
        solver.zero_grad()
        misfit = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y, reduction="sum")
        # Divided by the clips: LBFGS' tolerances are absolute, and the minimum stays where it is.
        loss = (misfit + weight.square().sum() / (2 * strength)) / len(x)
        loss.backward()
        return loss

    solver.step(objective)
    with torch.no_grad():
        return (torch.from_numpy(asked).float() @ weight + bias).sigmoid().double().numpy()


def logmel_features(waveforms: Sequence[np.ndarray], sample_rate: int) -> np.ndarray:
    """Mean and standard deviation over time of 128 log-mel bands.

    Args:
        waveforms: (S,) float each, of any lengths.
        sample_rate: In Hz.

    Returns:
        (clips, 256) float64.

    Raises:
        EvaluationError: A clip is shorter than one frame.
    """
    front_end = KaldiFbank(sample_rate)
    rows = []
    for number, waveform in enumerate(waveforms):
        mel, n_frames = front_end(torch.as_tensor(waveform)[None], torch.tensor([len(waveform)]))
        if not int(n_frames[0]):
            raise EvaluationError(
                f"clip {number} of the log-mel baseline has {len(waveform)} samples; expected at least 25 ms"
            )
        rows.append(torch.cat([mel[0].mean(dim=0), mel[0].std(dim=0, correction=0)]).double().numpy())
    return np.stack(rows)
