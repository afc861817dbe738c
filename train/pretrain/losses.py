"""Contrastive losses between two views: NT-Xent (AudioMosaic's) and the sigmoid loss.

Axis letters: B clips of this process, A clips of all processes, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from train.engine.collectives import gather_with_gradient, rank_and_world


def nt_xent(z0: Tensor, z1: Tensor, temperature: float = 0.1, chunk_rows: int = 0) -> Tensor:
    """Normalised temperature-scaled cross-entropy between two views (SimCLR, Chen et al. 2020).

    Every embedding must pick its clip's other view among all other embeddings of both views: 2A - 1 candidates.
    With torch.distributed initialised, candidates come from all processes, with gradient; the mean over
    processes of the gradients (what DistributedDataParallel and DeepSpeed compute) then equals the gradient of
    one process holding the whole batch. Every process must bring the same B.

    Computed in float32 whatever comes in and whatever autocast says: in bfloat16 the positive logits of 2048
    clips collapse to 19 values.

    Args:
        z0: (B, D) embeddings of view 0, of any length (they are normalised here).
        z1: (B, D) embeddings of view 1, in the same order.
        temperature: Divides the cosine similarities; 0.1 in the paper.
        chunk_rows: Compute so many rows of the (2B, 2A) logits at a time and recompute them in the backward
            pass, for batches whose logits do not fit in memory. 0: all at once.

    Returns:
        Scalar float32 loss, the mean over this process's 2B embeddings.

    Raises:
        ValueError: Shapes differ, or there is no second clip to tell apart.
    """
    _check_pair(z0, z1)
    rank, world = rank_and_world()
    batch = len(z0)
    if batch * world < 2:
        raise ValueError("a contrastive loss needs at least two clips in the batch")
    with torch.autocast(z0.device.type, enabled=False):
        own = functional.normalize(torch.stack([z0, z1]).float(), dim=2)  # (2, B, D)
        everyone = gather_with_gradient(own)  # (world, 2, B, D)
        # (2A, D): all of view 0, all of view 1
        candidates = everyone.transpose(0, 1).reshape(2 * batch * world, -1)
        here = torch.arange(batch, device=own.device) + rank * batch
        itself = torch.cat([here, here + batch * world])  # (2B,) each row's own place among the candidates
        partner = torch.cat([here + batch * world, here])

        def loss_of(rows: Tensor, itself: Tensor, partner: Tensor) -> Tensor:
            return _row_losses(rows, candidates, itself, partner, temperature)

        return _in_chunks(loss_of, chunk_rows, own.flatten(0, 1), itself, partner) / (2 * batch)


class SigmoidLoss(nn.Module):
    """Sigmoid loss of all pairs of one clip's view 0 and one clip's view 1 (SigLIP, Zhai et al. 2023).

    Every pair is a yes-no question of its own, so nothing is normalised over the batch. Temperature and bias
    learn; they start as in the paper: t = 10, b = -10. Mean over the processes of loss and gradients equals that
    of one process holding the whole batch. Every process must bring the same B.

    Args:
        chunk_rows: Compute so many rows of the (B, A) logits at a time; 0: all at once.
    """

    def __init__(self, chunk_rows: int = 0) -> None:
        super().__init__()
        self.chunk_rows = chunk_rows
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The loss, in float32 whatever comes in.

        Args:
            z0: (B, D) embeddings of view 0, of any length (they are normalised here).
            z1: (B, D) embeddings of view 1, in the same order.

        Returns:
            Scalar, the sum over pairs per clip of this process.
        """
        _check_pair(z0, z1)
        rank, _ = rank_and_world()
        with torch.autocast(z0.device.type, enabled=False):
            rows = functional.normalize(z0.float(), dim=1)
            candidates = gather_with_gradient(functional.normalize(z1.float(), dim=1)).flatten(0, 1)  # (A, D)
            partner = torch.arange(len(rows), device=rows.device) + rank * len(rows)
            scale, bias = self.log_scale.float().exp(), self.bias.float()

            def loss_of(rows: Tensor, partner: Tensor) -> Tensor:
                logits = rows @ candidates.T * scale + bias  # (rows, A)
                positive = logits.gather(1, partner[:, None])
                # log sigmoid(-x) for every pair, and x more where the pair is a true one
                return functional.softplus(logits).sum() - positive.sum()

            return _in_chunks(loss_of, self.chunk_rows, rows, partner) / len(rows)


def _check_pair(z0: Tensor, z1: Tensor) -> None:
    if z0.shape != z1.shape or z0.ndim != 2:
        raise ValueError(
            f"embeddings of shape {tuple(z0.shape)} and {tuple(z1.shape)}; expected two equal (B, D)"
        )


def _in_chunks(loss_of: Callable[..., Tensor], chunk_rows: int, rows: Tensor, *others: Tensor) -> Tensor:
    """Sum of `loss_of` over the rows, some at a time, recomputed in the backward pass; 0 takes all at once."""
    if not 0 < chunk_rows < len(rows):
        return loss_of(rows, *others)
    parts = zip(rows.split(chunk_rows), *(other.split(chunk_rows) for other in others), strict=True)
    losses = [checkpoint(loss_of, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(losses).sum()


def _row_losses(
    rows: Tensor, candidates: Tensor, itself: Tensor, partner: Tensor, temperature: float
) -> Tensor:
    """Summed cross-entropy of some rows against all candidates but themselves."""
    logits = rows @ candidates.T / temperature  # (rows, 2A)
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return functional.cross_entropy(logits, partner, reduction="sum")
