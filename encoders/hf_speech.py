"""Shared parts of wav2vec 2.0, HuBERT, WavLM and data2vec-audio: convolutions over the waveform, then a transformer.

Axis letters: B batch, S samples, T time steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Self

from torch import Tensor

from alm.common.errors import ConfigError
from encoders.hf import TransformersConfig, TransformersEncoder, sample_mask
from encoders.windows import equal_groups

# A 7-layer convolution stack as published, narrow; one group so that tiny widths divide.
TINY: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": [16] * 7,
    "num_conv_pos_embedding_groups": 2,
    "hidden_dropout": 0.1,
}
_VARIANCE_FLOOR = 1e-7  # Wav2Vec2FeatureExtractor.zero_mean_unit_var_norm


@dataclass(frozen=True)
class SpeechConfig(TransformersConfig):
    """A waveform model; longer clips than `window_s` are cut (attention costs the square of the length)."""

    window_s: float = 30.0
    """Seconds from one window to the next."""
    do_normalize: bool = True
    """Zero mean and unit variance per window, over its own samples."""

    # Regularisers of pretraining: masking and dropping layers would make the encoder part of the noise in an
    # audio-language model, and leave parameters without gradients.
    fixed: ClassVar[dict[str, Any]] = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0, "layerdrop": 0.0}
    front_end: ClassVar[dict[str, str]] = {"sampling_rate": "sample_rate", "do_normalize": "do_normalize"}

    def check(self) -> None:
        """Refuse an adapter and a window without a time step."""
        if self.transformers.get("add_adapter"):
            raise ConfigError(
                "transformers: add_adapter is true; expected false (it changes the token rate, and projectors do "
                "that here)"
            )
        if self.window_s <= 0:
            raise ConfigError(f"window_s is {self.window_s}; expected seconds > 0")

    @property
    def stride_samples(self) -> int:
        """Samples from one time step to the next (320)."""
        return prod(self.hf.conv_stride)

    @property
    def step_samples(self) -> int:
        """Samples that the convolutions of one time step cover (400)."""
        covered, stride = 1, 1
        for kernel, step in zip(self.hf.conv_kernel, self.hf.conv_stride, strict=True):
            covered += (kernel - 1) * stride
            stride *= step
        return covered

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window."""
        return max(1, round(self.window_s * self.sample_rate / self.stride_samples))

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.steps_per_window * self.stride_samples

    @property
    def window_samples(self) -> int:
        """A window includes the first samples of the next one, which its last time step covers too."""
        return self.hop_samples + self.step_samples - self.stride_samples

    def steps_in(self, n_samples: int) -> int:
        """Output length of the unpadded convolutions."""
        for kernel, stride in zip(self.hf.conv_kernel, self.hf.conv_stride, strict=True):
            n_samples = (n_samples - kernel) // stride + 1 if n_samples >= kernel else 0
        return n_samples


class SpeechEncoder(TransformersEncoder):
    """A waveform model under the contract.

    Checkpoints with a group norm over time ("base" sizes) see padding whatever the attention mask says, and so
    does data2vec's stack of position convolutions: their windows run in groups of equal length, unpadded. The
    others run padded, with an attention mask, as their authors run them.
    """

    config: SpeechConfig
    lora_targets: ClassVar[tuple[str, ...]] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
        "intermediate_dense",
        "output_dense",
    )
    tiny_values: ClassVar[dict[str, Any]] = {}
    """Values of the `transformers` config in which `tiny` differs from those of the other speech encoders."""
    heads = ("*masked_spec_embed", "lm_head.*", "quantizer.*", "project_hid.*", "project_q.*", "projector.*",
             "classifier.*", "layer_weights")  # fmt: skip

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance in the base size's layout, with windows of half a second."""
        values: Any = {"transformers": {**TINY, **cls.tiny_values}, "window_s": 0.5}
        return cls._tiny(cls.config_class(**values), seed)

    @property
    def pads(self) -> bool:
        """Whether windows of different length may share a pass."""
        return bool(self.config.hf.feat_extract_norm == "layer")

    def read_windows(
        self, waveform: Tensor, lengths: list[int], *, layers: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Tokens (B, T, 1, D) of windows (B, S); zeros past a window's end."""
        config = self.config
        real = sample_mask(lengths, waveform)  # (B, S)
        if config.do_normalize:
            waveform = _zero_mean_unit_variance(waveform, real)
        waveform = waveform.to(self.dtype)
        if self.pads:
            mask = None if len(set(lengths)) == 1 else real.long()
            return [(made[:, :, None], None) for made in self.states(layers, waveform, attention_mask=mask)]
        most = config.steps_in(max(lengths))
        out: list[Tensor] = []
        for size, rows in equal_groups(lengths, waveform.device):
            states = self.states(layers, waveform[rows, :size])  # each (rows, T, D)
            out = out or [waveform.new_zeros(len(lengths), most, config.dim) for _ in states]
            for tokens, made in zip(out, states, strict=True):
                tokens[rows, : made.shape[1]] = made.to(tokens.dtype)
        return [(tokens[:, :, None], None) for tokens in out]


def _zero_mean_unit_variance(waveform: Tensor, real: Tensor) -> Tensor:
    count = real.sum(dim=1, keepdim=True)
    mean = (waveform * real).sum(dim=1, keepdim=True) / count
    centred = (waveform - mean) * real
    return centred / (centred.square().sum(dim=1, keepdim=True) / count + _VARIANCE_FLOOR).sqrt()
