"""One linear layer over stacked encoder frames, the SLAM-LLM and xares-llm choice."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn

from projectors.base import GroupedConfig, Projector, stack_time


@dataclasses.dataclass(frozen=True)
class StackedConfig(GroupedConfig):
    """Options of projectors that stack neighbouring encoder time steps.

    Attributes:
        stack: Encoder time steps per LLM token; the frequency rows of each step are kept side by side.
    """

    group_option: ClassVar[str] = "stack"
    stack: int = 1

    @property
    def stacked_dim(self) -> int:
        """Width of one stacked input row."""
        return self.stack * self.n_freq * self.encoder_dim


@dataclasses.dataclass(frozen=True)
class LinearConfig(StackedConfig):
    """Options of the linear projector: `stack`."""

    name: ClassVar[str] = "linear"


class LinearProjector(Projector):
    """LayerNorm over each encoder token, stacking in time, one linear layer."""

    config_class = LinearConfig
    config: LinearConfig

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.proj = nn.Linear(config.stacked_dim, config.llm_dim)

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        stacked, valid = stack_time(self.norm(tokens), mask, grid, self.config.stack)
        return self.proj(stacked), valid


PROJECTOR = LinearProjector
