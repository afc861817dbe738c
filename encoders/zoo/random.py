"""The `random` control: AudioMosaic untrained, the same weights for the same seed.

The difference between a trained encoder of equal size and this control is the contribution of the trained weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import torch

from encoders.base import AudioEncoder
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from encoders.zoo.audiomosaic.model import AudioMosaicEncoder


@dataclass(frozen=True)
class RandomConfig(AudioMosaicConfig):
    """AudioMosaic's sizes and a seed."""

    model_class: str = "RandomEncoder"
    seed: int = 0
    """Seed of the weights."""

    @property
    def has_classes(self) -> bool:
        """There is no head."""
        return False


class RandomEncoder(AudioMosaicEncoder):
    """AudioMosaic's encoder without a head, as it is before training."""

    config: RandomConfig
    config_class = RandomConfig
    licence = "-"
    n_parameters = 85_651_200

    def __init__(self, config: RandomConfig | None = None) -> None:
        config = config or RandomConfig()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            super().__init__(config)

    @classmethod
    def from_pretrained(cls, source: Any, **options: Any) -> Self:
        """Load what `save_pretrained` wrote; see `AudioEncoder.from_pretrained`."""
        load: Any = AudioEncoder.from_pretrained
        # AudioMosaic's own method would also read published layouts, which this control does not have.
        loaded: Self = load.__func__(cls, source, **options)
        return loaded

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny instance: 32 mels, windows of 0.64 s, width 32."""
        sizes = {"spec_size": (64, 32), "patch_size": (8, 16), "embed_dim": 32, "depth": 2, "num_heads": 2}
        return cls(RandomConfig(seed=seed, **sizes)).eval()  # type: ignore[arg-type]


ENCODER = RandomEncoder
