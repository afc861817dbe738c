"""Statistics of a whole clip, for projectors that otherwise process a few time steps at a time.

Axis letters: B clips, N tokens, T time steps, F frequency rows, D width, W statistics.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.01  # weight of a batch in the running statistics after the first hundred batches
_EPS = 1e-5


class ClipContext(nn.Module):
    """Mean and standard deviation over time of every frequency row, standardised over clips.

    This is the global context of ECAPA-TDNN (Desplanques et al. 2020, section 3.2): statistics of the utterance, given
    with each frame. Between recordings of one kind of sound they differ less than single frames do. So a projector
    that gets them needs fewer recordings to learn a kind.

    Training also standardises with the running statistics. With batch statistics, the values of a clip would depend
    on the other clips and differ in evaluation, and in a batch of two they would be +1 and -1. Processes do not
    synchronise the statistics; `DistributedDataParallel` copies the first process's buffers to the others.

    Args:
        n_freq: Frequency rows of the grid.
        dim: Width of a token.
    """

    def __init__(self, n_freq: int, dim: int) -> None:
        super().__init__()
        self.width = 2 * n_freq * dim
        self.running_mean: Tensor
        self.running_var: Tensor
        self.n_batches: Tensor
        self.register_buffer("running_mean", torch.zeros(self.width))
        self.register_buffer("running_var", torch.ones(self.width))
        self.register_buffer("n_batches", torch.tensor(0))

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
        if self.training and len(statistics):
            self._learn(statistics.detach())
        return ((statistics - self.running_mean) / (self.running_var + _EPS).sqrt()).to(tokens.dtype)

    @torch.no_grad()
    def _learn(self, statistics: Tensor) -> None:
        """Add a batch (B, W) to the running mean and variance: an average of all at first, then a moving one."""
        self.n_batches += 1
        weight = (1 / self.n_batches).clamp(min=_MOMENTUM)
        shift = statistics.mean(0) - self.running_mean
        within = statistics.var(0, correction=0)
        self.running_mean += weight * shift
        # the variance of two groups put together: within both, and between their means
        self.running_var += weight * (within - self.running_var) + weight * (1 - weight) * shift.square()

    def _apply(self, fn: Any, recurse: bool = True) -> ClipContext:
        """Move the statistics but keep them in float32: bfloat16 is too coarse for large means."""
        kept = {name: getattr(self, name) for name in ("running_mean", "running_var")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, value in kept.items():
            setattr(self, name, value.to(getattr(self, name).device))
        return self
