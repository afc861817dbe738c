"""A two-layer MLP over stacked encoder frames (LLaVA-1.5; ultravox and Audio Flamingo 3 use the same)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn

from projectors.base import Projector, ProjectorError, stack_time
from projectors.context import ClipContext
from projectors.linear import StackedConfig


@dataclasses.dataclass(frozen=True)
class MLPConfig(StackedConfig):
    """Options of the MLP projector: `stack`, `hidden` and `context`.

    Attributes:
        hidden: Width of the hidden layer; None takes the LLM's width.
        context: Append the clip's statistics to every stacked frame; see `projectors.context`.
    """

    name: ClassVar[str] = "mlp"
    hidden: int | None = None
    context: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden is not None and self.hidden < 1:
            raise ProjectorError(f"projector '{self.name}': hidden={self.hidden}, expected an integer >= 1")


class MLPProjector(Projector):
    """LayerNorm over each encoder token, stacking in time, Linear, GELU, Linear."""

    config_class = MLPConfig
    config: MLPConfig

    def __init__(self, config: MLPConfig) -> None:
        super().__init__(config)
        hidden = config.hidden or config.llm_dim
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.context = ClipContext(config.n_freq, config.encoder_dim) if config.context else None
        width = config.stacked_dim + (self.context.width if self.context else 0)
        self.layers = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, config.llm_dim))

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        stacked, valid = stack_time(self.norm(tokens), mask, grid, self.config.stack)
        if self.context is not None:
            clip = self.context(tokens, mask, grid)[:, None].expand(-1, stacked.shape[1], -1)
            stacked = torch.cat([stacked, clip], dim=2)
        return self.layers(stacked), valid


PROJECTOR = MLPProjector
