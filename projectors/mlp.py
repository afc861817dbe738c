"""A two-layer MLP over stacked encoder frames (LLaVA-1.5; ultravox and Audio Flamingo 3 use the same)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from projectors.base import Projector, ProjectorError, stack_time
from projectors.context import ClipContext
from projectors.linear import StackedConfig


@dataclasses.dataclass(frozen=True)
class MLPConfig(StackedConfig):
    """Options of the MLP projector: `stack`, `hidden`, `context` and `dropout`.

    Attributes:
        hidden: Width of the hidden layer; None takes the LLM's width.
        context: Append the clip's statistics to every stacked frame; see `projectors.context`.
        dropout: Share of the normalised encoder values that training sets to 0, for few recordings or speakers.
    """

    name: ClassVar[str] = "mlp"
    hidden: int | None = None
    context: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden is not None and self.hidden < 1:
            raise ProjectorError(f"projector '{self.name}': hidden={self.hidden}, expected an integer >= 1")
        if not 0 <= self.dropout < 1:
            raise ProjectorError(
                f"projector '{self.name}': dropout={self.dropout}, expected 0 or more, below 1"
            )


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
        normed = functional.dropout(self.norm(tokens), self.config.dropout, self.training)
        stacked, valid = stack_time(normed, mask, grid, self.config.stack)
        if self.context is not None:
            clip = self.context(tokens, mask, grid)[:, None].expand(-1, stacked.shape[1], -1)
            stacked = torch.cat([stacked, clip], dim=2)
        return self.layers(stacked), valid


PROJECTOR = MLPProjector
