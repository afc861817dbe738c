"""The config of the small LLM, in a module of its own so that reading a config does not import the trainer."""

from dataclasses import dataclass

from alm.common.errors import ConfigError


@dataclass(frozen=True)
class TextLLMConfig:
    """The small LLM and its training.

    Attributes:
        seed: Seed of weights and exercises.
        vocab_size: Largest number of tokens; 262 of them are bytes and special tokens.
        hidden_size: Width.
        intermediate_size: Width of the feed-forward layers.
        n_layers: Depth.
        n_heads: Attention heads.
        max_position_embeddings: Longest prompt with answer, in tokens.
        steps: Optimiser steps.
        batch_scenes: Scenes per step, each with eight or nine exercises.
        learning_rate: Peak learning rate.
        warmup_share: Share of the steps with linear warm-up.
        weight_decay: Weight decay of embeddings (AdamW); the other matrices have none.
        n_test_scenes: New scenes for the scores, five exercises each.
    """

    seed: int = 0
    vocab_size: int = 600
    hidden_size: int = 96
    intermediate_size: int = 192
    n_layers: int = 4
    n_heads: int = 4
    max_position_embeddings: int = 1024
    steps: int = 1600
    batch_scenes: int = 8
    learning_rate: float = 4e-3
    warmup_share: float = 0.05
    weight_decay: float = 0.05
    n_test_scenes: int = 100

    def __post_init__(self) -> None:
        for key in ("hidden_size", "intermediate_size", "n_layers", "n_heads", "steps", "batch_scenes"):
            if getattr(self, key) < 1:
                raise ConfigError(f"text_llm.{key} is {getattr(self, key)!r}; expected 1 or more")
        if self.hidden_size % (2 * self.n_heads):
            raise ConfigError(
                f"text_llm.hidden_size is {self.hidden_size}; expected a multiple of twice n_heads ({self.n_heads})"
            )
        if self.vocab_size < 400:
            raise ConfigError(f"text_llm.vocab_size is {self.vocab_size}; expected 400 or more")
