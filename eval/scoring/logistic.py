"""Logistic regression on standardised features, with the penalty chosen by cross-validation on the training clips.

The same classifier serves all features that are compared: statistics of a log-mel, and clip features of a frozen
encoder. Axis letters: K features, C classes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from eval.metrics.ranking import class_precisions

# Inverse strengths of the L2 penalty that cross-validation chooses from.
STRENGTHS = tuple(10.0**power for power in range(-3, 2))
N_FOLDS = 5
_NEVER = -100.0  # logit of a class without training clips: a probability of about e^-100, and still finite


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """A fitted classifier of raw features; the standardisation is folded into its weights.

    Attributes:
        weight: (C, K) float64.
        bias: (C,) float64.
        strength: Inverse strength of the penalty that was chosen.
        multi_label: Whether probabilities are sigmoids, one per class, rather than a softmax over classes.
    """

    weight: np.ndarray
    bias: np.ndarray
    strength: float
    multi_label: bool

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(n, K) -> (n, C)."""
        return np.asarray(features @ self.weight.T + self.bias)

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """(n, K) -> (n, C)."""
        from scipy.special import expit, softmax

        logits = self.logits(features)
        return np.asarray(expit(logits) if self.multi_label else softmax(logits, axis=1))


def fit_logistic(
    features: np.ndarray,
    targets: np.ndarray,
    groups: Sequence[str],
    *,
    multi_label: bool = False,
    seed: int = 0,
) -> LinearClassifier:
    """Fit the classifier.

    Args:
        features: (clips, K).
        targets: (clips, C) zeros and ones; a single one per clip, and at least two classes with clips, unless
            `multi_label`.
        groups: Per clip the recording it was cut from: no recording is on both sides of a fold.
        multi_label: One regression per class, with one penalty for all, chosen by mean average precision; else one
            multinomial regression, its penalty chosen by accuracy.
        seed: Seed of the folds.
    """
    fit = _fit_sigmoids if multi_label else _fit_softmax
    mean, deviation = features.mean(axis=0), features.std(axis=0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    weight, bias, strength = fit((features - mean) / deviation, targets, groups, seed)
    weight = weight / deviation
    return LinearClassifier(weight, bias - weight @ mean, strength, multi_label)


def _fit_softmax(
    features: np.ndarray, targets: np.ndarray, groups: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """scikit-learn's, over the classes that have clips: weights (C, K), biases (C,), strength."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    labels = targets.argmax(axis=1)
    taught, counts = np.unique(labels, return_counts=True)
    model = LogisticRegression(max_iter=1000, tol=1e-3)
    # The library's default stays if some class has a single clip, which cannot be on both sides of a fold.
    strength = 1.0
    n_folds = min(N_FOLDS, int(counts.min()))
    # Problems this small are solved many times faster by one thread than by several that wait for each other.
    with threadpool_limits(1):
        if n_folds >= 2:
            folds = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
            scaled = make_pipeline(StandardScaler(), model)  # fitted in each fold on its training clips
            search = GridSearchCV(scaled, {"logisticregression__C": STRENGTHS}, cv=folds, refit=False)
            search.fit(features, labels, groups=list(groups))
            strength = float(search.best_params_["logisticregression__C"])
        model.set_params(C=strength).fit(features, labels)
    n_classes = targets.shape[1]
    weight, bias = np.zeros((n_classes, features.shape[1])), np.full(n_classes, _NEVER)
    weight[taught], bias[taught] = 0.0, 0.0
    of = taught if len(taught) > 2 else taught[1:]  # for two classes, only the second has weights
    weight[of], bias[of] = model.coef_, model.intercept_
    return weight, bias, strength


def _fit_sigmoids(
    features: np.ndarray, targets: np.ndarray, groups: Sequence[str], _seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """One regression per class, all solved at once: weights (C, K), biases (C,), strength.

    It solves the same problem as scikit-learn's `OneVsRestClassifier(LogisticRegression(C))`, which takes hours for
    hundreds of classes.
    """
    from scipy.special import expit
    from sklearn.model_selection import GroupKFold

    n_folds = min(N_FOLDS, len(set(groups)))
    strength = 1.0
    if n_folds >= 2:
        scores = dict.fromkeys(STRENGTHS, 0.0)
        for train, held in GroupKFold(n_folds).split(features, groups=list(groups)):
            for candidate in STRENGTHS:
                weight, bias = _solve_sigmoids(features[train], targets[train], candidate)
                precisions = class_precisions(expit(features[held] @ weight.T + bias), targets[held] > 0)
                scores[candidate] += float(np.nan_to_num(np.nanmean(precisions)))
        strength = max(scores, key=lambda candidate: scores[candidate])
    return *_solve_sigmoids(features, targets, strength), strength


def _solve_sigmoids(
    features: np.ndarray, targets: np.ndarray, strength: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit (clips, K) to (clips, C) under an L2 penalty of 1 / strength on the weights: weights (C, K), biases (C,)."""
    x, y = torch.from_numpy(features).float(), torch.from_numpy(targets).float()
    weight = torch.zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=300, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def objective() -> torch.Tensor:
        solver.zero_grad()
        misfit = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight.T + bias, y, reduction="sum")
        # Divided by the clips: LBFGS' tolerances are absolute, and the minimum stays where it is.
        loss = (misfit + weight.square().sum() / (2 * strength)) / len(x)
        loss.backward()
        return loss

    solver.step(objective)
    return weight.detach().double().numpy(), bias.detach().double().numpy()
