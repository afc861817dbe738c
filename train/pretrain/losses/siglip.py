"""The sigmoid loss of all pairs (SigLIP).

Axis letters: B clips of this process, A clips of all processes, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.pretrain.losses.base import ContrastiveLoss, check_pair, sum_in_chunks
from train.processes import gather_with_gradient, rank_and_world


class SigmoidLoss(ContrastiveLoss):
    """Sigmoid loss of all pairs of one clip's view 0 and one clip's view 1 (SigLIP, Zhai et al. 2023).

    Every pair is a binary classification of its own, so there is no softmax over the batch. Scale and bias are learned;
    they start as in the paper: t = 10, b = -10.

    Args:
        temperature: Ignored; the loss learns its own.
        chunk_rows: Rows of the (B, A) logits computed at a time; 0 computes all at once.
    """

    def __init__(self, temperature: float = 0.1, chunk_rows: int = 0) -> None:
        super().__init__(temperature, chunk_rows)
        self.log_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def forward(self, z0: Tensor, z1: Tensor) -> Tensor:
        """The sum over all pairs, divided by this process's B; see `ContrastiveLoss.forward`."""
        check_pair(z0, z1)
        rank, _ = rank_and_world()
        with torch.autocast(z0.device.type, enabled=False):
            rows = functional.normalize(z0.float(), dim=1)
            candidates = gather_with_gradient(functional.normalize(z1.float(), dim=1)).flatten(0, 1)  # (A, D)
            partner = torch.arange(len(rows), device=rows.device) + rank * len(rows)
            scale, bias = self.log_scale.float().exp(), self.bias.float()

            def loss_of(rows: Tensor, partner: Tensor) -> Tensor:
                logits = rows @ candidates.T * scale + bias  # (rows, A)
                positive = logits.gather(1, partner[:, None])
                # -log sigmoid(-x) for every pair, and -x more where the pair is a true one
                return functional.softplus(logits).sum() - positive.sum()

            return sum_in_chunks(loss_of, self.chunk_rows, rows, partner) / len(rows)

    def metrics(self) -> dict[str, float]:
        """The learned scale (1 / temperature) and bias."""
        return {"logit_scale": float(self.log_scale.detach().exp()), "logit_bias": float(self.bias.detach())}


LOSS = SigmoidLoss
