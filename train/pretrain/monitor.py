"""Detection of collapse of a self-supervised encoder: cheap metrics of its features, and a warning.

Axis letters: B clips, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

# Below these values a batch's features are one point, or lie on one line. Healthy runs stay far above.
COLLAPSED_STD = 0.01
COLLAPSED_RANK = 1.5
_FEWEST_CLIPS = 16  # the metrics of fewer clips are too noisy
_MOST_ROWS = 512  # the singular values of this many rows take milliseconds


@torch.no_grad()
def spread(features: Tensor) -> dict[str, float]:
    """Measure how widely the features of a batch are spread over their space.

    Args:
        features: (B, D), of any length.

    Returns:
        `std`: standard deviation per dimension of the features scaled to unit length, times sqrt(D): 0 if all are one
        point, 1 if they are spread evenly over the sphere (SimSiam, Chen and He 2021).
        `effective_rank`: exp of the entropy of the centred features' normalised singular values (Roy and
        Vetterli 2007), between 1 and min(B - 1, D).
    """
    rows = functional.normalize(features[:_MOST_ROWS].detach().float(), dim=1)
    centred = rows - rows.mean(dim=0)
    std = centred.square().mean(dim=0).sqrt().mean() * rows.shape[1] ** 0.5
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=1e-12)
    entropy = -torch.special.xlogy(share, share).sum()
    return {"std": float(std), "effective_rank": float(entropy.exp())}


@torch.no_grad()
def agreement(first: Tensor, second: Tensor) -> float:
    """Measure how much of the difference between clips in one view is also in the other view.

    Masks alone change an encoder's features, so features that ignore the audio still show some spread; but the features
    of the two views of a clip are then uncorrelated.

    Args:
        first: (B, D) features of one view.
        second: (B, D) of the other, in the same order.

    Returns:
        Correlation of the centred features of both views, in [-1, 1]. For features that do not depend on the clip
        it is 0 with a standard deviation of 1 / sqrt(B * effective rank).
    """
    one, other = (features - features.mean(dim=0) for features in (first.float(), second.float()))
    norm = (one.square().sum() * other.square().sum()).sqrt().clamp(min=1e-12)
    return float((one * other).sum() / norm)


def collapse_warning(metrics: Mapping[str, float], batch: int) -> str | None:
    """Return a warning if the pooled features have collapsed, else None.

    Args:
        metrics: With `pooled_std`, `pooled_effective_rank` and `view_agreement`; without them the result is None.
        batch: Clips they were computed on; for fewer than 16 the result is None.
    """
    needed = {"pooled_std", "pooled_effective_rank", "view_agreement"}
    if batch < _FEWEST_CLIPS or not needed <= metrics.keys():
        return None
    std, rank, agree = (metrics[key] for key in ("pooled_std", "pooled_effective_rank", "view_agreement"))
    by_chance = 2 / (batch * max(rank, 1.0)) ** 0.5
    if std >= COLLAPSED_STD and rank >= COLLAPSED_RANK and agree > by_chance:
        return None
    return (
        f"the encoder has collapsed: standard deviation of the features {std:.2g} (1 is ideal), effective rank "
        f"{rank:.1f}, agreement of two views {agree:.2f} (chance: below {by_chance:.2f}); lower optim.lr, raise "
        "optim.warmup_steps, or check that the clips differ"
    )
