"""Ultravox's projector: stack, RMSNorm, a SwiGLU layer, RMSNorm (Fixie AI's released code, `UltravoxProjector`)."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from projectors.base import Projector, ProjectorError, stack_time
from projectors.linear import StackedConfig

_NORM_INIT = 0.4  # `norm_init` of the released configs: embeddings start near the scale of the LLM's own
_EPS = 1e-6


@dataclasses.dataclass(frozen=True)
class UltravoxConfig(StackedConfig):
    """Options of ultravox's projector: `stack`, `hidden` and `ln_mid`.

    Attributes:
        stack: Encoder time steps per LLM token (`stack_factor`).
        hidden: Width of the first layer, an even number, of which SwiGLU leaves half; None takes the LLM's width,
            rounded up to an even number.
        ln_mid: Put the second RMSNorm behind SwiGLU, as releases since v0.5 do (`projector_ln_mid`); False puts it
            behind the last layer, as v0.4.1 and earlier do.
    """

    name: ClassVar[str] = "ultravox"
    stack: int = 8
    hidden: int | None = None
    ln_mid: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hidden is not None and (self.hidden < 2 or self.hidden % 2):
            raise ProjectorError(
                f"projector '{self.name}': hidden={self.hidden}, expected an even number of at least 2"
            )


class UltravoxProjector(Projector):
    """Stacking in time, RMSNorm, Linear, SwiGLU, RMSNorm, Linear, without biases; or the second norm at the end."""

    config_class = UltravoxConfig
    config: UltravoxConfig

    def __init__(self, config: UltravoxConfig) -> None:
        super().__init__(config)
        hidden = config.hidden or config.llm_dim + config.llm_dim % 2
        self.ln_pre = _rms_norm(config.stacked_dim)
        self.linear_1 = nn.Linear(config.stacked_dim, hidden, bias=False)
        self.ln_mid = _rms_norm(hidden // 2) if config.ln_mid else nn.Identity()
        self.linear_2 = nn.Linear(hidden // 2, config.llm_dim, bias=False)
        self.ln_post = nn.Identity() if config.ln_mid else _rms_norm(config.llm_dim)

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        stacked, valid = stack_time(tokens, mask, grid, self.config.stack)
        value, gate = self.linear_1(self.ln_pre(stacked)).chunk(2, dim=-1)
        return self.ln_post(self.linear_2(self.ln_mid(functional.silu(gate) * value))), valid


def _rms_norm(width: int) -> nn.RMSNorm:
    norm = nn.RMSNorm(width, eps=_EPS)
    nn.init.constant_(norm.weight, _NORM_INIT)
    return norm


PROJECTOR = UltravoxProjector
