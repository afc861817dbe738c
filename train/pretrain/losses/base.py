"""The base class of contrastive losses, and helpers for them.

Axis letters: B clips of this process, A clips of all processes, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class ContrastiveLoss(nn.Module):
    """A loss between the embeddings of two views of the same clips.

    DistributedDataParallel and DeepSpeed average loss and gradients over the processes. That average must equal the
    loss and gradients of one process that holds the whole batch. B is the same on every process.

    Args:
        temperature: `contrastive.temperature`; a loss that learns its own ignores it.
        chunk_rows: Rows of the logits computed at a time, for batches whose logits do not fit in memory; 0 computes
            all at once.
    """

    def __init__(self, temperature: float = 0.1, chunk_rows: int = 0) -> None:
        super().__init__()
        self.temperature, self.chunk_rows = temperature, chunk_rows

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            z0: (B, D) embeddings of view 0; they need not have unit norm.
            z1: (B, D) embeddings of view 1, in the same order.

        Returns:
            Scalar float32, the mean over the clips of this process.

        Raises:
            ValueError: The shapes differ, or there is no second clip to contrast with.
        """
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Values that the log shows beside the loss; none by default."""
        return {}


def check_pair(z0: Tensor, z1: Tensor) -> None:
    """Check that two batches of embeddings have one shape.

    Raises:
        ValueError: The shapes differ, or are not (B, D).
    """
    if z0.shape != z1.shape or z0.ndim != 2:
        raise ValueError(
            f"embeddings of shape {tuple(z0.shape)} and {tuple(z1.shape)}; expected two equal (B, D)"
        )


def sum_in_chunks(loss_of: Callable[..., Tensor], chunk_rows: int, rows: Tensor, *others: Tensor) -> Tensor:
    """Sum a loss over rows, some at a time, each chunk recomputed in the backward pass.

    Args:
        loss_of: Takes rows of all inputs, returns the sum of their losses.
        chunk_rows: Rows at a time; 0 takes all at once.
        rows: (n, ...).
        others: More inputs with the same first axis.

    Returns:
        Scalar.
    """
    if not 0 < chunk_rows < len(rows):
        return loss_of(rows, *others)
    parts = zip(rows.split(chunk_rows), *(other.split(chunk_rows) for other in others), strict=True)
    losses = [checkpoint(loss_of, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    return torch.stack(losses).sum()
