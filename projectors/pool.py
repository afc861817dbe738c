"""Mean over frequency and over neighbouring time steps, then one linear layer."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor, nn

from projectors.base import Projector, ProjectorConfig, ProjectorError, mean_time


@dataclasses.dataclass(frozen=True)
class PooledConfig(ProjectorConfig):
    """Options of projectors that average encoder tokens.

    Attributes:
        stride: Encoder time steps per LLM token; all their frequency rows are averaged.
    """

    stride: int = 2

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ProjectorError(f"projector '{self.name}': stride={self.stride}, expected an integer >= 1")

    def n_tokens_for(self, n_time: int) -> int:
        """One LLM token per started group of `stride` time steps."""
        return math.ceil(n_time / self.stride)

    @property
    def tokens_per_second(self) -> float:
        """Encoder frame rate divided by the stride."""
        return self.frame_rate_hz / self.stride


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
