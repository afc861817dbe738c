"""A strided convolution over time and two linear layers (SLAM-LLM's `cov1d-linear`; Ma et al. 2024)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from projectors.base import Projector, ProjectorError, stack_time
from projectors.pool import PooledConfig


@dataclasses.dataclass(frozen=True)
class Conv1dConfig(PooledConfig):
    """Options of the convolutional projector: `stride`, `kernel` and `hidden`.

    Attributes:
        stride: Encoder time steps per LLM token.
        kernel: Encoder time steps that an LLM token sees; None takes `stride`, as SLAM-LLM does. A wider one reaches
            into the neighbouring groups of `stride` steps, equally far on both sides.
        hidden: Width of the hidden layer; None takes the LLM's width.
    """

    name: ClassVar[str] = "conv1d"
    stride: int = 5
    kernel: int | None = None
    hidden: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel is not None and (self.kernel < self.stride or (self.kernel - self.stride) % 2):
            raise ProjectorError(
                f"projector '{self.name}': kernel={self.kernel}, expected stride ({self.stride}) plus an even number"
            )
        if self.hidden is not None and self.hidden < 1:
            raise ProjectorError(f"projector '{self.name}': hidden={self.hidden}, expected an integer >= 1")

    @property
    def margin(self) -> int:
        """Steps that a token sees on each side of its own `stride` steps."""
        return ((self.kernel or self.stride) - self.stride) // 2


class Conv1dProjector(Projector):
    """LayerNorm over each encoder token, a convolution over time, ReLU, Linear, ReLU, Linear.

    The frequency rows of a time step are channels of the convolution. The clip is padded with zeros on both sides.
    """

    config_class = Conv1dConfig
    config: Conv1dConfig

    def __init__(self, config: Conv1dConfig) -> None:
        super().__init__(config)
        width, hidden = config.n_freq * config.encoder_dim, config.hidden or config.llm_dim
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.conv = nn.Conv1d(width, config.encoder_dim, config.kernel or config.stride, config.stride)
        self.layers = nn.Sequential(
            nn.ReLU(), nn.Linear(config.encoder_dim, hidden), nn.ReLU(), nn.Linear(hidden, config.llm_dim)
        )

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        config = self.config
        steps, valid = stack_time(self.norm(tokens), mask, grid, 1)  # (B, T, F * D), zeros where invalid
        short = -grid[0] % config.stride
        steps = functional.pad(steps, (0, 0, config.margin, config.margin + short))
        convolved = self.conv(steps.transpose(1, 2)).transpose(1, 2)  # (B, M, D)
        groups = functional.pad(valid, (0, short)).unflatten(1, (-1, config.stride))  # (B, M, stride)
        return self.layers(convolved), groups.any(2)


PROJECTOR = Conv1dProjector
