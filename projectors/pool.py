"""Mean over frequency and over neighbouring time steps, then one linear layer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from projectors.base import GroupedConfig, Projector, mean_time


@dataclasses.dataclass(frozen=True)
class PooledConfig(GroupedConfig):
    """Options of projectors that average encoder tokens.

    Attributes:
        stride: Encoder time steps per LLM token; all their frequency rows are averaged.
    """

    group_option: ClassVar[str] = "stride"
    stride: int = 2


@dataclasses.dataclass(frozen=True)
class PoolConfig(PooledConfig):
    """Options of the pooling projector: `stride`."""

    name: ClassVar[str] = "pool"


class PoolProjector(Projector):
    """LayerNorm over each encoder token, mean over frequency and `stride` steps, one linear layer."""

    config_class = PoolConfig
    config: PoolConfig

    def __init__(self, config: PoolConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.proj = nn.Linear(config.encoder_dim, config.llm_dim)

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        pooled, valid = mean_time(self.norm(tokens), mask, grid, self.config.stride)
        return self.proj(pooled), valid


PROJECTOR = PoolProjector
