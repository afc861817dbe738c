"""The path of LTU (Gong et al. 2024) as AudioMosaic uses it: pool, scale, normalise, one linear layer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from projectors.base import Projector, ProjectorError, mean_time
from projectors.pool import PooledConfig

VARIANTS = ("corrected", "official")
_DIVISOR = 50.0  # official code: divides before LayerNorm; the result differs through the norm's epsilon


@dataclasses.dataclass(frozen=True)
class LTUConfig(PooledConfig):
    """Options of the LTU projector: `stride`, and in which order tokens are read.

    Attributes:
        variant: `corrected` averages over frequency. `official` averages what the official code does: it reads
            the time-major tokens of a clip as (n_freq, n_time), so distant moments are averaged and frequencies
            kept. Released LTU weights were trained that way, on clips of one whole window (10.24 s).
        token_norm: LayerNorm over each encoder token first. False where the encoder's tokens are normalised, as in
            the released model.
    """

    name: ClassVar[str] = "ltu"
    variant: str = "corrected"
    token_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ProjectorError(
                f"projector 'ltu': variant='{self.variant}', expected one of {', '.join(VARIANTS)}"
            )


class LTUProjector(Projector):
    """Pool frequency and `stride` time steps, divide by 50, LayerNorm without weights, one linear layer."""

    config_class = LTUConfig
    config: LTUConfig

    def __init__(self, config: LTUConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.encoder_dim, eps=1e-6) if config.token_norm else nn.Identity()
        self.proj = nn.Linear(config.encoder_dim, config.llm_dim)

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        pooled, valid = self.pool(tokens, mask, grid)
        return self.proj(pooled), valid

    def pool(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Input of the linear layer: (B, M, D) and its mask (B, M)."""
        tokens = self.norm(tokens)
        if self.config.variant == "official":
            tokens = _official_order(tokens, mask, grid)
        pooled, valid = mean_time(tokens, mask, grid, self.config.stride)
        return nn.functional.layer_norm(pooled / _DIVISOR, pooled.shape[-1:]), valid


def _official_order(tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
    """Reorder each clip's tokens so that averaging rows of one time step averages what the official code does.

    A clip with t valid steps has t * n_freq tokens, read as (n_freq, t): step c holds tokens c, t + c, 2 t + c, ...
    """
    n_time, n_freq = grid
    n_valid = mask.sum(1) // n_freq  # (B,)
    columns = torch.arange(n_time, device=tokens.device)[None, :, None]
    rows = torch.arange(n_freq, device=tokens.device)[None, None, :]
    index = (rows * n_valid[:, None, None] + columns).flatten(1)  # (B, N)
    return tokens.take_along_dim(index.clamp(max=n_time * n_freq - 1)[..., None], dim=1)


PROJECTOR = LTUProjector
