"""One layer of another encoder, or a learned weighted sum of all its layers, under the encoder contract.

`load_encoder(source, layer=...)` and `encoder_options: {layer: 6}` wrap any encoder that offers its layers.
Axis letters: B batch, S samples, L layers, N tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor, nn

from alm.common.errors import ConfigError
from encoders.base import LAST_LAYER, AudioEncoder, AudioTokens, EncoderConfig
from encoders.registry import config_from_dict, encoder_class
from encoders.zoo.audiomosaic.config import BACKBONE

SUM = "sum"


@dataclass(frozen=True)
class LayersConfig(EncoderConfig):
    """The wrapped encoder, and which of its layers to use."""

    model_class: str = "LayersEncoder"
    encoder: dict[str, Any] = field(default_factory=lambda: {"model_class": BACKBONE})
    """Config of the wrapped encoder."""
    layer: str = SUM
    """A number (0: the input of the first block, 1: the output of the first block), or `sum`."""

    def __post_init__(self) -> None:
        if self.layer != SUM and not self.layer.isdigit():
            raise ConfigError(f"layer is {self.layer!r}; expected {LAST_LAYER}, a number from 0, or {SUM}")
        if self.sample_rate != self.inner.sample_rate:
            raise ConfigError(
                f"sample_rate is {self.sample_rate}; expected the encoder's, {self.inner.sample_rate}"
            )

    @cached_property
    def inner(self) -> EncoderConfig:
        """The wrapped encoder's config."""
        return config_from_dict(self.encoder)

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.inner.dim

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step."""
        return self.inner.n_freq

    @property
    def frame_rate_hz(self) -> float:
        """Time steps per second."""
        return self.inner.frame_rate_hz

    @property
    def clip_s(self) -> float:
        """Length in seconds of the encoder's window."""
        return self.inner.clip_s

    def n_time_for(self, n_samples: int) -> int:
        """Valid time steps of a clip."""
        return self.inner.n_time_for(n_samples)


class LayersEncoder(AudioEncoder):
    """One layer of an encoder, or the softmax-weighted sum of all (SUPERB, Yang et al. 2021, section 3).

    The weights start equal. They are the only parameters of this class. They train together with the projector or
    head that reads the tokens, even where the encoder is frozen.
    """

    config: LayersConfig
    config_class = LayersConfig
    licence = "-"

    def __init__(self, config: LayersConfig | None = None, encoder: AudioEncoder | None = None) -> None:
        config = config or LayersConfig()
        super().__init__(config)
        self.encoder = encoder or encoder_class(config.inner.model_class)(config.inner)
        n_layers = self.encoder.n_layers
        if n_layers is None:
            raise ConfigError(
                f"layer is {config.layer!r}, but {type(self.encoder).__name__} does not offer the outputs of its "
                f"layers; remove it or set it to {LAST_LAYER}"
            )
        if config.layer != SUM and int(config.layer) >= n_layers:
            raise ConfigError(f"layer is {config.layer!r}; the encoder has 0 to {n_layers - 1}, or {SUM}")
        self.weights = nn.Parameter(torch.zeros(n_layers)) if config.layer == SUM else None
        self.lora_targets = self.encoder.lora_targets  # type: ignore[misc]
        self.uses_audio = self.encoder.uses_audio  # type: ignore[misc]

    @classmethod
    def around(cls, encoder: AudioEncoder, layer: str) -> AudioEncoder:
        """Wrap a loaded encoder so that it returns one of its layers; the encoder itself for `last`.

        Args:
            encoder: The encoder to wrap.
            layer: `last`, a number, or `sum`.

        Raises:
            ConfigError: No such layer, or the encoder does not offer its layers.
        """
        if layer == LAST_LAYER:
            return encoder
        config = LayersConfig(
            sample_rate=encoder.config.sample_rate, encoder=encoder.config.to_dict(), layer=layer
        )
        wrapped = cls(config, encoder)
        wrapped.load_report = encoder.load_report
        return wrapped.train(encoder.training)

    @property
    def n_layers(self) -> int | None:
        """None: the wrapped encoder has the layers, this class has none of its own."""
        return None

    @property
    def readout(self) -> list[nn.Parameter]:
        """The weights of the sum."""
        return [] if self.weights is None else [self.weights]

    def forward(self, waveform: Tensor, lengths: Tensor) -> AudioTokens:
        """Encode a padded batch; see `AudioEncoder.forward`."""
        layers = self.encoder.forward_layers(waveform, lengths)
        if self.weights is None:
            return layers[int(self.config.layer)]
        share = self.weights.softmax(dim=0)

        def summed(parts: list[Tensor | None]) -> Tensor | None:
            there = [part for part in parts if part is not None]
            if not there:
                return None
            return sum(
                (w * part for w, part in zip(share.to(there[0]), there, strict=True)),
                torch.zeros_like(there[0]),
            )

        tokens = summed([layer.tokens for layer in layers])
        assert tokens is not None
        return AudioTokens(
            tokens,
            layers[0].mask,
            layers[0].grid,
            prefix=summed([layer.prefix for layer in layers]),
            pooled=summed([layer.pooled for layer in layers]),
        )

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """The sum of the layers of a tiny AudioMosaic."""
        from encoders.zoo.audiomosaic.model import AudioMosaicEncoder

        encoder = AudioMosaicEncoder.tiny(seed)
        return cls(LayersConfig(encoder=encoder.config.to_dict()), encoder).eval()


ENCODER = LayersEncoder
