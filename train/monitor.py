"""Whether a self-supervised encoder is collapsing: cheap figures of its features, and a warning.

Axis letters: B clips, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

# Below these a batch's features are one point, or lie on one line; healthy runs stay an order of magnitude away.
COLLAPSED_STD = 1e-3
COLLAPSED_RANK = 1.5
_MOST_ROWS = 512  # rows that are looked at; the decomposition of so many takes milliseconds


@torch.no_grad()
def spread(features: Tensor) -> dict[str, float]:
    """How much of its space a batch of features uses.

    Args:
        features: (B, D), of any length.

    Returns:
        ``std``: standard deviation per dimension of the features brought to unit length, times sqrt(D): 0 where
        all are one point, 1 where they are spread evenly over the sphere (SimSiam, Chen and He 2021).
        ``effective_rank``: exp of the entropy of the centred features' normalised singular values (Roy and
        Vetterli 2007), between 1 and min(B - 1, D).
    """
    rows = functional.normalize(features[:_MOST_ROWS].detach().float(), dim=1)
    centred = rows - rows.mean(dim=0)
    std = centred.square().mean(dim=0).sqrt().mean() * rows.shape[1] ** 0.5
    values = torch.linalg.svdvals(centred)
    share = values / values.sum().clamp(min=1e-12)
    entropy = -torch.special.xlogy(share, share).sum()
    return {"std": float(std), "effective_rank": float(entropy.exp())}


def collapse_warning(metrics: Mapping[str, float]) -> str | None:
    """What to tell the user where the pooled features have collapsed; None where they have not."""
    std, rank = metrics.get("pooled_std"), metrics.get("pooled_effective_rank")
    if std is None or rank is None or (std >= COLLAPSED_STD and rank >= COLLAPSED_RANK):
        return None
    return (
        f"the encoder has collapsed: its features' deviation is {std:.2g} (of 1), their effective rank {rank:.1f}; "
        "lower optim.lr, raise optim.warmup_steps, or check that the clips differ"
    )
