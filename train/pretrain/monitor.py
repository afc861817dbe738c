"""Whether a self-supervised encoder is collapsing: cheap figures of its features, and a warning.

Axis letters: B clips, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

# Below these a batch's features are one point, or lie on one line; healthy runs stay far away.
COLLAPSED_STD = 0.01
COLLAPSED_RANK = 1.5
_FEWEST_CLIPS = 16  # of fewer, none of the figures says much
_MOST_ROWS = 512  # rows that are looked at; the decomposition of so many takes milliseconds


@torch.no_grad()
def spread(features: Tensor) -> dict[str, float]:
    """How much of its space a batch of features uses.

    Args:
        features: (B, D), of any length.

    Returns:
        `std`: standard deviation per dimension of the features brought to unit length, times sqrt(D): 0 where
        all are one point, 1 where they are spread evenly over the sphere (SimSiam, Chen and He 2021).
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
    """How much of what tells clips apart in one view is there in the other too.

    Masks alone move an encoder's features, so an encoder that has stopped listening still shows some spread; but
    what its two views of a clip show has nothing in common.

    Args:
        first: (B, D) features of one view.
        second: (B, D) of the other, in the same order.

    Returns:
        Covariance of both over their standard deviations, each centred, in [-1, 1]; about 0, give or take
        1 / sqrt(B * effective rank), where they know nothing of the clip.
    """
    one, other = (features - features.mean(dim=0) for features in (first.float(), second.float()))
    norm = (one.square().sum() * other.square().sum()).sqrt().clamp(min=1e-12)
    return float((one * other).sum() / norm)


def collapse_warning(metrics: Mapping[str, float], batch: int) -> str | None:
    """What to tell the user where the pooled features have collapsed; None where they have not.

    Args:
        metrics: With `pooled_std`, `pooled_effective_rank` and `view_agreement`; without them nothing is said.
        batch: Clips they were computed on; of fewer than 16 nothing is said.
    """
    needed = {"pooled_std", "pooled_effective_rank", "view_agreement"}
    if batch < _FEWEST_CLIPS or not needed <= metrics.keys():
        return None
    std, rank, agree = (metrics[key] for key in ("pooled_std", "pooled_effective_rank", "view_agreement"))
    by_chance = 2 / (batch * max(rank, 1.0)) ** 0.5
    if std >= COLLAPSED_STD and rank >= COLLAPSED_RANK and agree > by_chance:
        return None
    return (
        f"the encoder has collapsed: its features' deviation is {std:.2g} (of 1), their effective rank {rank:.1f}, "
        f"the agreement of two views {agree:.2f} (by chance below {by_chance:.2f}); lower optim.lr, raise "
        "optim.warmup_steps, or check that the clips differ"
    )
