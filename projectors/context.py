"""What a clip sounds like as a whole, for projectors that otherwise see one moment at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ClipContext(nn.Module):
    """Mean and standard deviation over time of every frequency row, standardised over clips.

    Utterance-level statistics beside each frame are ECAPA-TDNN's global context (Desplanques et al. 2020, section
    3.2). They differ less between recordings of one kind than single moments do, so a projector that sees them
    needs fewer recordings to learn what a kind sounds like.

    Args:
        n_freq: Frequency rows of the grid.
        dim: Width of a token.
    """

    def __init__(self, n_freq: int, dim: int) -> None:
        super().__init__()
        self.width = 2 * n_freq * dim
        self.running_mean: Tensor
        self.running_var: Tensor
        self.register_buffer("running_mean", torch.zeros(self.width))
        self.register_buffer("running_var", torch.ones(self.width))

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Statistics of each clip's valid tokens.

        Args:
            tokens: (B, N, D), time-major.
            mask: (B, N) bool.
            grid: (n_time, n_freq).

        Returns:
            (B, 2 * n_freq * D); a clip's row does not depend on its padding.
        """
        rows = tokens.unflatten(1, grid).flatten(2).float()  # (B, T, F * D)
        valid = mask.view(len(mask), *grid).any(-1)[..., None]  # (B, T, 1)
        n_valid = valid.sum(1).clamp(min=1)  # (B, 1)
        mean = rows.masked_fill(~valid, 0.0).sum(1) / n_valid
        squares = (rows - mean[:, None]).square().masked_fill(~valid, 0.0).sum(1) / n_valid
        statistics = torch.cat([mean, (squares + 1e-6).sqrt()], dim=1)
        # A single clip has no spread to be standardised by.
        fresh = self.training and len(statistics) > 1
        statistics = statistics.to(self.running_mean.dtype)  # bfloat16 engines convert buffers too
        normed = functional.batch_norm(statistics, self.running_mean, self.running_var, training=fresh)
        return normed.to(tokens.dtype)
