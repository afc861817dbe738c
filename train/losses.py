"""The contrastive loss of AudioMosaic's pretraining.

Axis letters: B clips of this process, A clips of all processes, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def nt_xent(z0: Tensor, z1: Tensor, temperature: float = 0.1, chunk_rows: int | None = None) -> Tensor:
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
            pass, for batches whose logits do not fit in memory. None: all at once.

    Returns:
        Scalar float32 loss, the mean over this process's 2B embeddings.

    Raises:
        ValueError: Shapes differ, or there is no second clip to tell apart.
    """
    if z0.shape != z1.shape or z0.ndim != 2:
        raise ValueError(
            f"embeddings of shape {tuple(z0.shape)} and {tuple(z1.shape)}; expected two equal (B, D)"
        )
    rank, world = (dist.get_rank(), dist.get_world_size()) if _distributed() else (0, 1)
    batch = len(z0)
    if batch * world < 2:
        raise ValueError("a contrastive loss needs at least two clips in the batch")
    with torch.autocast(z0.device.type, enabled=False):
        own = functional.normalize(torch.stack([z0, z1]).float(), dim=2)  # (2, B, D)
        everyone = gather_with_gradient(own) if world > 1 else own[None]  # (world, 2, B, D)
        candidates = everyone.transpose(0, 1).reshape(
            2 * batch * world, -1
        )  # (2A, D): all of view 0, all of view 1
        here = torch.arange(batch, device=own.device) + rank * batch
        itself = torch.cat([here, here + batch * world])  # (2B,) each row's own place among the candidates
        partner = torch.cat([here + batch * world, here])
        rows = own.flatten(0, 1)  # (2B, D)
        if chunk_rows is None or chunk_rows >= len(rows):
            return _row_losses(rows, candidates, itself, partner, temperature) / len(rows)
        total = rows.new_zeros(())
        for part in torch.arange(len(rows), device=rows.device).split(chunk_rows):
            total = total + checkpoint(
                _row_losses,
                rows[part],
                candidates,
                itself[part],
                partner[part],
                temperature,
                use_reentrant=False,
                preserve_rng_state=False,
            )
        return total / len(rows)


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Stack a tensor of every process: (...) -> (world, ...); gradients flow back to where each part came from.

    Every process must bring the same shape.
    """
    return _Gather.apply(tensor)


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums, over processes, the gradient of this process's part."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def _row_losses(
    rows: Tensor, candidates: Tensor, itself: Tensor, partner: Tensor, temperature: float
) -> Tensor:
    """Summed cross-entropy of some rows against all candidates but themselves."""
    logits = rows @ candidates.T / temperature  # (rows, 2A)
    logits = logits.scatter(1, itself[:, None], float("-inf"))
    return functional.cross_entropy(logits, partner, reduction="sum")


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
