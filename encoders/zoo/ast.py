"""Audio Spectrogram Transformer (Gong et al. 2021), from any `MIT/ast-*` checkpoint, through `transformers`.

Axis letters: B batch, S samples, F frequency steps, T time steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from encoders.hf import TransformersConfig, TransformersEncoder
from encoders.mel import KaldiFbank, n_frames_for

_N_PREFIX = 2  # CLS and distillation token
_FRAME_SAMPLES, _SHIFT_SAMPLES = 400, 160  # 25 ms frames every 10 ms at 16 kHz


@dataclass(frozen=True)
class ASTEncoderConfig(TransformersConfig):
    """Defaults are the size fine-tuned on AudioSet: overlapping 16 x 16 patches, every 10 frames and 10 mels."""

    model_class: str = "ASTEncoder"
    do_normalize: bool = True
    norm_mean: float = -4.2677393
    """AudioSet's log-mel mean (ASTFeatureExtractor)."""
    norm_std: float = 4.5689974

    model_types: ClassVar[tuple[str, ...]] = ("audio-spectrogram-transformer",)
    config_name: ClassVar[str] = "ASTConfig"
    front_end: ClassVar[dict[str, str]] = {
        "sampling_rate": "sample_rate",
        "do_normalize": "do_normalize",
        "mean": "norm_mean",
        "std": "norm_std",
    }

    agreeing: ClassVar[dict[str, str]] = {"num_mel_bins": "num_mel_bins", "max_length": "max_length"}

    def check(self) -> None:
        """Refuse any other sample rate: frame sizes are for 16 kHz."""
        if self.sample_rate != 16000:
            raise ConfigError(f"sample_rate is {self.sample_rate}; expected 16000")

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step (12)."""
        return int((self.hf.num_mel_bins - self.hf.patch_size) // self.hf.frequency_stride + 1)

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window (101)."""
        return int((self.hf.max_length - self.hf.patch_size) // self.hf.time_stride + 1)

    @property
    def hop_samples(self) -> int:
        """A window's steps in samples (10.1 s), so that the next window's first step follows its last."""
        return int(self.steps_per_window * self.hf.time_stride * _SHIFT_SAMPLES)

    @property
    def window_samples(self) -> int:
        """Samples of the frames a window holds (1024)."""
        return int((self.hf.max_length - 1) * _SHIFT_SAMPLES + _FRAME_SAMPLES)

    def steps_in(self, n_samples: int) -> int:
        """Patches until all frames are covered, the last perhaps partly filled."""
        frames = n_frames_for(n_samples, self.sample_rate)
        if not frames:
            return 0
        further = -(-max(0, frames - self.hf.patch_size) // self.hf.time_stride)
        return int(min(self.steps_per_window, 1 + further))


class ASTEncoder(TransformersEncoder):
    """`ASTModel`'s patch tokens in time order, 10 time steps a second; CLS and distillation tokens as prefix."""

    config: ASTEncoderConfig
    config_class = ASTEncoderConfig
    model_name = "ASTModel"
    lora_targets = ("q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2")
    heads = ("classifier.*",)
    licence = "BSD-3-Clause"
    n_parameters = 86_187_264

    def __init__(self, config: ASTEncoderConfig | None = None, model: Any = None) -> None:
        super().__init__(config, model)
        self.fbank = KaldiFbank(self.config.sample_rate, self.config.hf.num_mel_bins)

    def read_windows(
        self, waveform: Tensor, lengths: list[int], *, layers: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Tokens (B, T, F, D) and prefix (B, 2, D) of windows (B, S)."""
        config = self.config
        mel, _ = self.fbank(waveform, torch.tensor(lengths))  # (B, frames, mels), zeros behind a clip
        mel = torch.nn.functional.pad(mel, (0, 0, 0, config.hf.max_length - mel.shape[1]))
        if config.do_normalize:  # after padding, as ASTFeatureExtractor does
            mel = (mel - config.norm_mean) / (2 * config.norm_std)
        grid = (config.n_freq, config.steps_per_window)
        return [  # (B, 2 + F * T, D), frequency-major
            (made[:, _N_PREFIX:].unflatten(1, grid).transpose(1, 2), made[:, :_N_PREFIX])
            for made in self.states(layers, mel.to(self.dtype))
        ]

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 36 mels, windows of 0.9 s."""
        values = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
                  "num_mel_bins": 36, "max_length": 104, "hidden_dropout_prob": 0.1}  # fmt: skip
        return cls._tiny(ASTEncoderConfig(transformers=values), seed)


ENCODER = ASTEncoder
