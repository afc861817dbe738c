"""Scores of simple methods on the same clips, as a reference for the score of a model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from encoders.mel import KaldiFbank
from eval.errors import EvaluationError
from eval.scoring.logistic import fit_logistic

LabelledClip = tuple[np.ndarray, str]


def logmel_baseline(
    train: Sequence[LabelledClip],
    test: Sequence[LabelledClip],
    sample_rate: int,
    seed: int = 0,
    groups: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Classify sounds by logistic regression on the mean and deviation of each log-mel band over time.

    Features are standardised and the strength of the penalty is chosen by cross-validation, on the training clips
    alone.

    Args:
        train: (waveform (S,) float32 in [-1, 1], label) per training clip; at least two labels among them.
        test: The same for the clips to be classified.
        sample_rate: Sample rate of all waveforms in Hz.
        seed: Seed of the folds.
        groups: Per training clip the recording it was cut from; clips of one recording on both sides of a fold
            would make cross-validation choose too weak a penalty. None treats every clip as a recording of its own.

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
    names = sorted(set(labels))
    targets = np.array([[label == name for name in names] for label in labels], dtype=np.float64)
    own = range(len(labels)) if groups is None else groups
    model = fit_logistic(features[: len(train)], targets, [str(group) for group in own], seed=seed)
    predictions = [names[index] for index in model.logits(features[len(train) :]).argmax(axis=1)]
    right = sum(said == label for said, (_, label) in zip(predictions, test, strict=True))
    return {
        "accuracy": right / len(test),
        "predictions": predictions,
        "n": len(test),
        "strength": model.strength,
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
