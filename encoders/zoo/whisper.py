"""Whisper's encoder (Radford et al. 2022), from any `openai/whisper-*` checkpoint, through `transformers`.

Axis letters: B batch, S samples, F frames, M mels, T time steps, D width.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from encoders.hf import TransformersConfig, TransformersEncoder
from encoders.stft import StftMel

# WhisperFeatureExtractor; the two convolutions halve the frame rate once.
HOP_SAMPLES, _N_FFT = 160, 400
STEP_SAMPLES = 2 * HOP_SAMPLES
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
        return int(self.hf.max_source_positions * STEP_SAMPLES)

    @property
    def hop_samples(self) -> int:
        """Windows do not overlap."""
        return self.window_samples


@dataclass(frozen=True)
class WhisperEncoderConfig(MelWindowConfig):
    """Defaults are the tiny size.

    Attributes:
        window_s: Seconds of a window, in steps of 0.02; None is the model's own 30 s. A shorter one costs less, but the
            model was trained with the silence of 30 s windows.
        min_clip_s: A clip shorter than this many seconds also keeps tokens of the silence behind it, up to this length.
            A very short clip has few tokens of its own, and attention stores some of its content in those of the
            silence. 0 keeps only the tokens of the clip.
    """

    model_class: str = "WhisperEncoder"
    window_s: float | None = None
    min_clip_s: float = 0.0

    model_types: ClassVar[tuple[str, ...]] = ("whisper",)
    config_name: ClassVar[str] = "WhisperConfig"
    fixed: ClassVar[dict[str, Any]] = {"encoder_layerdrop": 0.0, "decoder_layers": 0}

    def check(self) -> None:
        """Refuse a window that is longer than the model's, and a shortest clip that is longer than the window."""
        super().check()
        if self.window_s is not None:
            steps, most = self.steps_of(self.window_s), self.hf.max_source_positions
            if not 1 <= steps <= most or abs(self.window_s - steps * self.step_s) > 1e-6:
                raise ConfigError(
                    f"window_s is {self.window_s}; expected a multiple of {self.step_s} s up to {most * self.step_s:g}"
                )
        if self.min_clip_s and not 0 < self.min_clip_s <= self.window_samples / self.sample_rate:
            longest = self.window_samples / self.sample_rate
            raise ConfigError(
                f"min_clip_s is {self.min_clip_s}; expected seconds from 0 to the window's {longest:g}"
            )

    @property
    def step_s(self) -> float:
        """Seconds of a time step (0.02)."""
        return STEP_SAMPLES / self.sample_rate

    def steps_of(self, seconds: float) -> int:
        """Number of time steps in a duration in seconds, rounded."""
        return round(seconds / self.step_s) if math.isfinite(seconds) else 0

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window (1500)."""
        return int(self.hf.max_source_positions) if self.window_s is None else self.steps_of(self.window_s)

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return self.steps_per_window * STEP_SAMPLES

    def steps_in(self, n_samples: int) -> int:
        """Steps that cover the piece, the last perhaps partly; at least those of `min_clip_s`."""
        return (
            max(-(-n_samples // STEP_SAMPLES), self.steps_of(self.min_clip_s)) if n_samples >= _N_FFT else 0
        )


class WhisperEncoder(TransformersEncoder):
    """The encoder's output, one token every 20 ms.

    As in training, every window is filled up with silence to 30 s and attention sees the silence. Only the
    tokens that cover the clip, or at least `min_clip_s`, are returned.
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
        if (steps := self.config.steps_per_window) < self.model.config.max_source_positions:
            self.model.config = copy.deepcopy(self.model.config)
            self.model.config.max_source_positions = steps  # the model refuses inputs of any other length
            positions = self.model.embed_positions.weight[:steps].detach().clone()
            self.model.embed_positions = torch.nn.Embedding.from_pretrained(positions)  # fixed sinusoids

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
