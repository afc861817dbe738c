"""What simple means reach on the same clips, to hold a model's score against."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from encoders.mel import KaldiFbank
from eval.errors import EvaluationError

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
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    labels = [label for _, label in train]
    counts = Counter(labels)
    if len(counts) < 2 or not test:
        raise EvaluationError(
            f"the log-mel baseline got {len(counts)} training labels and {len(test)} test clips; "
            "expected at least two labels and one clip"
        )
    features = logmel_features([waveform for waveform, _ in [*train, *test]], sample_rate)
    known, asked = features[: len(train)], features[len(train) :]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3))
    n_folds = min(N_FOLDS, min(counts.values()))
    if n_folds >= 2:
        folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
        search = GridSearchCV(model, {"logisticregression__C": STRENGTHS}, cv=folds)
        # Problems this small are solved many times faster by one thread than by several that wait for each other.
        with threadpool_limits(1):
            search.fit(known, labels, groups=list(groups) if groups is not None else range(len(labels)))
        model, strength = search.best_estimator_, search.best_params_["logisticregression__C"]
    else:
        # A label with a single clip cannot be in both halves of a fold: the library's default strength.
        strength = 1.0
        model.fit(known, labels)
    predictions = [str(label) for label in model.predict(asked)]
    right = sum(said == label for said, (_, label) in zip(predictions, test, strict=True))
    return {
        "accuracy": right / len(test),
        "predictions": predictions,
        "n": len(test),
        "strength": float(strength),
    }


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
