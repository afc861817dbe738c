"""Whisper's encoder (Radford et al. 2022), from any `openai/whisper-*` checkpoint, through `transformers`.

Axis letters: B batch, S samples, F frames, M mels, T time steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from encoders.hf import TransformersConfig, TransformersEncoder
from encoders.stft import StftMel

# WhisperFeatureExtractor; the two convolutions halve the frame rate once.
HOP_SAMPLES, _N_FFT, _FRAMES_PER_STEP = 160, 400, 2
TINY = {
    "d_model": 32, "encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 64, "num_mel_bins": 16,
    "max_source_positions": 50, "dropout": 0.1,
}  # fmt: skip


def log_mel(mel: StftMel, waveform: Tensor, n_samples: int) -> Tensor:
    """Whisper's log-mel (B, M, F) of windows (B, S), silence added up to `n_samples`."""
    waveform = torch.nn.functional.pad(waveform, (0, n_samples - waveform.shape[1]))
    power = mel(waveform)[:, :-1]  # without the last frame: (B, F, M)
    logs = power.clamp(min=1e-10).log10()
    logs = torch.maximum(logs, logs.amax(dim=(1, 2), keepdim=True) - 8.0)
    return ((logs + 4.0) / 4.0).transpose(1, 2)


def slaney_mel(n_mels: int, sample_rate: int) -> StftMel:
    """The mel filters of WhisperFeatureExtractor."""
    return StftMel(
        _N_FFT,
        HOP_SAMPLES,
        num_mel_filters=n_mels,
        min_frequency=0.0,
        max_frequency=8000.0,
        sampling_rate=sample_rate,
        norm="slaney",
        mel_scale="slaney",
    )


@dataclass(frozen=True)
class MelWindowConfig(TransformersConfig):
    """Windows of Whisper's log-mel, `max_source_positions` steps of 20 ms."""

    front_end: ClassVar[dict[str, str]] = {"sampling_rate": "sample_rate"}

    agreeing: ClassVar[dict[str, str]] = {"feature_size": "num_mel_bins"}

    def check(self) -> None:
        """Refuse any other sample rate: the mel filters are made for 16 kHz."""
        if self.sample_rate != 16000:
            raise ConfigError(f"sample_rate is {self.sample_rate}; expected 16000")

    @property
    def window_samples(self) -> int:
        """Samples of a window (30 s)."""
        return int(self.hf.max_source_positions * _FRAMES_PER_STEP * HOP_SAMPLES)

    @property
    def hop_samples(self) -> int:
        """Windows do not overlap."""
        return self.window_samples


@dataclass(frozen=True)
class WhisperEncoderConfig(MelWindowConfig):
    """Defaults are the tiny size."""

    model_class: str = "WhisperEncoder"

    model_types: ClassVar[tuple[str, ...]] = ("whisper",)
    config_name: ClassVar[str] = "WhisperConfig"
    fixed: ClassVar[dict[str, Any]] = {"encoder_layerdrop": 0.0, "decoder_layers": 0}

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window (1500)."""
        return int(self.hf.max_source_positions)

    def steps_in(self, n_samples: int) -> int:
        """Steps that cover the piece, the last perhaps partly; silence behind it is not counted."""
        return -(-n_samples // (_FRAMES_PER_STEP * HOP_SAMPLES)) if n_samples >= _N_FFT else 0


class WhisperEncoder(TransformersEncoder):
    """The encoder's output, one token every 20 ms.

    As in training, every window is filled up with silence to 30 s and attention sees the silence; only the
    tokens that cover the clip come out.
    """

    config: WhisperEncoderConfig
    config_class = WhisperEncoderConfig
    model_name = "WhisperEncoder"
    lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    heads = ("*decoder.*", "proj_out.*", "projector.*", "classifier.*", "layer_weights")
    renamed = {r"^(model\.)?encoder\.": ""}
    max_windows_per_pass = 8
    licence = "Apache-2.0"
    n_parameters = 8_208_384

    def __init__(self, config: WhisperEncoderConfig | None = None, model: Any = None) -> None:
        super().__init__(config, model)
        self.mel = slaney_mel(self.config.hf.num_mel_bins, self.config.sample_rate)

    @classmethod
    def _model_class(cls) -> Any:
        from transformers.models.whisper.modeling_whisper import WhisperEncoder

        return WhisperEncoder

    def read_windows(
        self, waveform: Tensor, lengths: list[int], *, layers: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Tokens (B, T, 1, D) of windows (B, S)."""
        features = log_mel(self.mel, waveform, self.config.window_samples)  # (B, M, F)
        most = max(map(self.config.steps_in, lengths))
        return [(made[:, :most, None], None) for made in self.states(layers, features.to(self.dtype))]

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance with windows of one second."""
        return cls._tiny(WhisperEncoderConfig(transformers=TINY), seed)


ENCODER = WhisperEncoder
