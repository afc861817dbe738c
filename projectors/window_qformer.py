"""A Q-Former over short windows, so that longer audio gets more tokens (SALMONN, Tang et al. 2024, section 3.1)."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import pad

from projectors.base import ProjectorError
from projectors.qformer import QFormerConfig, QFormerProjector


@dataclasses.dataclass(frozen=True)
class WindowQFormerConfig(QFormerConfig):
    """Options of the windowed Q-Former: those of `qformer` and the window.

    Attributes:
        n_queries: Learned queries, the number of LLM tokens per window.
        window_s: Length of a window in seconds (SALMONN: 0.33), rounded to whole time steps of the encoder.
    """

    name: ClassVar[str] = "window_qformer"
    n_queries: int = 1
    window_s: float = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.window_s <= 0:
            raise ProjectorError(f"projector '{self.name}': window_s={self.window_s}, expected more than 0")

    @property
    def window(self) -> int:
        """Time steps per window; one where the encoder's steps are longer than `window_s`."""
        return max(1, round(self.window_s * self.frame_rate_hz))

    def n_tokens_for(self, n_time: int) -> int:
        """`n_queries` for every started window."""
        return math.ceil(n_time / self.window) * self.n_queries

    @property
    def tokens_per_second(self) -> float:
        """Queries per window over its length in whole time steps."""
        return self.n_queries * self.frame_rate_hz / self.window


class WindowQFormerProjector(QFormerProjector):
    """The same queries read one window after the other."""

    config_class = WindowQFormerConfig
    config: WindowQFormerConfig

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        (n_time, n_freq), window = grid, self.config.window
        short = -n_time % window * n_freq
        windows = pad(tokens, (0, 0, 0, short)).unflatten(1, (-1, window * n_freq))  # (B, W, window * F, D)
        inside = pad(mask, (0, short)).unflatten(1, (-1, window * n_freq))
        exists = inside.any(-1)  # (B, W)
        found = self.read(windows[exists], inside[exists], (window, n_freq))  # (windows, Q, llm_dim)
        out = found.new_zeros(*exists.shape, *found.shape[1:])
        out[exists] = found
        return out.flatten(1, 2), exists.repeat_interleave(self.config.n_queries, dim=1)


PROJECTOR = WindowQFormerProjector
