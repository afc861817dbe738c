"""NT-Xent, the loss of AudioMosaic.

Axis letters: B clips of this process, A clips of all processes, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from train.pretrain.losses.base import ContrastiveLoss, check_pair, sum_in_chunks
from train.processes import gather_with_gradient, rank_and_world


class NTXent(ContrastiveLoss):
    """Normalised temperature-scaled cross-entropy between two views (SimCLR, Chen et al. 2020).

    Every embedding must pick its clip's other view among all other embeddings of both views: 2A - 1 candidates.
    With torch.distributed initialised, candidates come from all processes, with gradient.

    Computed in float32 whatever the inputs' type and autocast: in bfloat16 the positive logits of 2048 clips
    collapse to 19 values.

    Args:
        temperature: Divides the cosine similarities; 0.1 in the paper.
        chunk_rows: Rows of the (2B, 2A) logits computed at a time and recomputed in the backward pass; 0 computes
            all at once.
    """

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The mean over this process's 2B embeddings; see `ContrastiveLoss.forward`."""
        check_pair(z0, z1)
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
            # (2B,) each row's own place among the candidates.
            itself = torch.cat([here, here + batch * world])
            partner = torch.cat([here + batch * world, here])

            def loss_of(rows: Tensor, itself: Tensor, partner: Tensor) -> Tensor:
                logits = rows @ candidates.T / self.temperature  # (rows, 2A)
                logits = logits.scatter(1, itself[:, None], float("-inf"))
                return functional.cross_entropy(logits, partner, reduction="sum")

            return sum_in_chunks(loss_of, self.chunk_rows, own.flatten(0, 1), itself, partner) / (2 * batch)


LOSS = NTXent
