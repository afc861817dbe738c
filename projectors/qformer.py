"""Q-Former: learned queries that cross-attend to the encoder's tokens, on transformers' BLIP-2 blocks."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from projectors.base import Projector, ProjectorConfig, ProjectorError, time_positions


@dataclasses.dataclass(frozen=True)
class QFormerConfig(ProjectorConfig):
    """Options of the Q-Former projector (Li et al. 2023, BLIP-2, section 3.1).

    Attributes:
        n_queries: Learned queries, the number of LLM tokens per clip whatever its length.
        hidden: Width of the Q-Former; None takes the encoder's width.
        depth: Transformer layers, each with cross-attention.
        heads: Attention heads.
    """

    name: ClassVar[str] = "qformer"
    n_queries: int = 32
    hidden: int | None = None
    depth: int = 2
    heads: int = 4

    def __post_init__(self) -> None:
        for key in ("n_queries", "depth", "heads", "hidden"):
            if (value := getattr(self, key)) is not None and value < 1:
                raise ProjectorError(f"projector '{self.name}': {key}={value}, expected an integer >= 1")
        if self.width % self.heads:
            raise ProjectorError(
                f"projector '{self.name}': width {self.width} is not a multiple of heads={self.heads}; "
                "set hidden or heads"
            )

    @property
    def width(self) -> int:
        """Width of the Q-Former."""
        return self.hidden or self.encoder_dim

    def n_tokens_for(self, n_time: int) -> int:
        """The number of queries, for any clip that holds audio."""
        return self.n_queries if n_time else 0

    @property
    def tokens_per_second(self) -> float | None:
        """None: the number of tokens per clip is fixed."""
        return None


class QFormerProjector(Projector):
    """Learned queries read all valid tokens; time positions keep stitched windows apart."""

    config_class = QFormerConfig
    config: QFormerConfig

    def __init__(self, config: QFormerConfig) -> None:
        from transformers import Blip2QFormerConfig, Blip2QFormerModel

        super().__init__(config)
        # BLIP-2 initialises its 768 wide blocks with 0.02; narrower ones need the same variance per output.
        std = 0.02 * math.sqrt(768 / config.width)
        self.norm = nn.LayerNorm(config.encoder_dim)
        self.queries = nn.Parameter(torch.randn(1, config.n_queries, config.width) * std)
        self.qformer = Blip2QFormerModel(
            Blip2QFormerConfig(
                hidden_size=config.width,
                num_hidden_layers=config.depth,
                num_attention_heads=config.heads,
                intermediate_size=4 * config.width,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                cross_attention_frequency=1,
                encoder_hidden_size=config.encoder_dim,
                initializer_range=std,
            )
        )
        self.proj = nn.Linear(config.width, config.llm_dim)

    def forward(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """See `projectors.base.Projector`."""
        self.check(tokens, mask, grid)
        valid = mask.any(-1, keepdim=True).expand(-1, self.config.n_queries)
        return self.read(tokens, mask, grid), valid

    def read(self, tokens: Tensor, mask: Tensor, grid: tuple[int, int]) -> Tensor:
        """Cross-attend from the queries to tokens (B, N, D): (B, n_queries, llm_dim)."""
        n_time, n_freq = grid
        places = time_positions(n_time, tokens.shape[-1], tokens.device).to(tokens.dtype)
        tokens = self.norm(tokens) + places.repeat_interleave(n_freq, dim=0)
        out = self.qformer(
            query_embeds=self.queries.expand(tokens.shape[0], -1, -1),
            encoder_hidden_states=tokens,
            encoder_attention_mask=mask.long(),
        ).last_hidden_state  # (B, Q, width)
        projected: Tensor = self.proj(out)
        return projected


PROJECTOR = QFormerProjector
