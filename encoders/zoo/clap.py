"""CLAP's audio tower, an HTSAT (Wu et al. 2023), from any `laion/clap-*` checkpoint, through `transformers`.

Axis letters: B batch, S samples, F frequency steps, T time steps, D width, M mels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from alm.common.errors import ConfigError
from encoders.hf import TransformersConfig, TransformersEncoder
from encoders.stft import StftMel

_FUSION_VIEWS = 4  # one global and three local mels; for a window that fits, four times the same


@dataclass(frozen=True)
class ClapEncoderConfig(TransformersConfig):
    """Defaults are `laion/clap-htsat-unfused`: 10 s at 48 kHz."""

    model_class: str = "ClapEncoder"
    sample_rate: int = 48000
    n_fft: int = 1024
    frame_shift_samples: int = 480
    window_s: int = 10
    min_hz: float = 50.0
    max_hz: float = 14000.0
    truncation: str = "rand_trunc"
    """Which mel filters: `fusion` torchaudio's (htk), `rand_trunc` librosa's (slaney). Nothing is truncated."""
    padding: str = "repeatpad"
    """How a short window is filled: `repeatpad` whole repetitions, then silence; `repeat`; `pad` silence."""

    model_types: ClassVar[tuple[str, ...]] = ("clap",)
    config_name: ClassVar[str] = "ClapAudioConfig"
    section: ClassVar[str | None] = "audio_config"
    front_end: ClassVar[dict[str, str]] = {
        "sampling_rate": "sample_rate",
        "fft_window_size": "n_fft",
        "hop_length": "frame_shift_samples",
        "max_length_s": "window_s",
        "frequency_min": "min_hz",
        "frequency_max": "max_hz",
        "truncation": "truncation",
        "padding": "padding",
    }

    agreeing: ClassVar[dict[str, str]] = {"feature_size": "num_mel_bins"}

    def check(self) -> None:
        """Refuse unknown ways to fill a window, and windows that the model cannot hold."""
        for key, choices in (
            ("truncation", ("fusion", "rand_trunc")),
            ("padding", ("repeatpad", "repeat", "pad")),
        ):
            if getattr(self, key) not in choices:
                raise ConfigError(f"{key} is {getattr(self, key)!r}; expected {' or '.join(choices)}")
        for key in ("n_fft", "frame_shift_samples", "window_s"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key} is {getattr(self, key)}; expected at least 1")
        if not self.n_fft // 2 < self.window_samples:
            raise ConfigError(
                f"n_fft is {self.n_fft}; expected less than two windows ({self.window_samples} samples)"
            )
        if not 0 <= self.min_hz < self.max_hz:
            raise ConfigError(f"min_hz is {self.min_hz}, max_hz {self.max_hz}; expected 0 <= min_hz < max_hz")
        if self.hf.num_mel_bins < 1 or self.hf.spec_size < self.hf.num_mel_bins or not self.hf.depths:
            raise ConfigError(
                f"transformers: num_mel_bins is {self.hf.num_mel_bins}, spec_size {self.hf.spec_size}, depths "
                f"{self.hf.depths}; expected at least one mel and stage, and no more mels than spec_size"
            )
        n_frames = 1 + self.window_samples // self.frame_shift_samples
        most = self._grid[0] * self.hf.spec_size
        if n_frames > most:
            raise ConfigError(
                f"window_s is {self.window_s}, {n_frames} frames of {self.frame_shift_samples} samples; expected at "
                f"most {most}, what the model's image of spec_size {self.hf.spec_size} holds"
            )

    @property
    def dim(self) -> int:
        """Width D of a token (768): it doubles at every stage."""
        return int(self.hf.patch_embeds_hidden_size * 2 ** (len(self.hf.depths) - 1))

    @property
    def _grid(self) -> tuple[int, int]:
        """(chunks of time stacked in the square image, patches along its side after the last stage)."""
        chunks = self.hf.spec_size // self.hf.num_mel_bins
        stride = self.hf.patch_stride if isinstance(self.hf.patch_stride, int) else self.hf.patch_stride[0]
        return chunks, self.hf.spec_size // stride // 2 ** (len(self.hf.depths) - 1)

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step (2)."""
        chunks, side = self._grid
        return side // chunks

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window (32)."""
        chunks, side = self._grid
        return side * chunks

    @property
    def window_samples(self) -> int:
        """Samples of a window."""
        return self.window_s * self.sample_rate

    @property
    def hop_samples(self) -> int:
        """Windows do not overlap."""
        return self.window_samples

    def steps_in(self, n_samples: int) -> int:
        """Steps that cover the piece, the last perhaps partly; padding is not counted."""
        enough = n_samples >= self.frame_shift_samples
        return -(-n_samples * self.steps_per_window // self.window_samples) if enough else 0


class ClapEncoder(TransformersEncoder):
    """HTSAT's last feature map, 3.2 time steps a second.

    ClapFeatureExtractor takes random parts of clips that are longer than a window. Here such clips are cut into
    windows, and all of them are encoded. So with fusion checkpoints, every window counts as a clip that fits. (If no
    clip of a batch is longer than a window, ClapFeatureExtractor marks a random one as longer. So there, a single short
    clip is always encoded as a long one.)
    """

    config: ClapEncoderConfig
    config_class = ClapEncoderConfig
    model_name = "ClapAudioModel"
    lora_targets = ("query", "key", "value", "dense")
    heads = ("text_model.*", "text_projection.*", "audio_projection.*", "logit_scale_*")
    renamed = {r"^audio_model\.": ""}
    licence = "Apache-2.0"
    n_parameters = 27_534_488

    def __init__(self, config: ClapEncoderConfig | None = None, model: Any = None) -> None:
        super().__init__(config, model)
        own = self.config
        slaney = own.truncation != "fusion"
        self.mel = StftMel(
            own.n_fft,
            own.frame_shift_samples,
            num_mel_filters=own.hf.num_mel_bins,
            min_frequency=own.min_hz,
            max_frequency=own.max_hz,
            sampling_rate=own.sample_rate,
            norm="slaney" if slaney else None,
            mel_scale="slaney" if slaney else "htk",
        )

    @property
    def n_layers(self) -> None:
        """None: the stages of a Swin transformer have grids and widths of their own."""
        return None

    def read_windows(
        self, waveform: Tensor, lengths: list[int], *, layers: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Tokens (B, T, F, D) of windows (B, S)."""
        filled = torch.stack([self._fill(row[:n]) for row, n in zip(waveform, lengths, strict=True)])
        features = 10 * self.mel(filled).clamp(min=1e-10).log10()  # (B, frames, M) in dB
        views = _FUSION_VIEWS if self.config.hf.enable_fusion else 1
        features = features[:, None].expand(-1, views, -1, -1).to(self.dtype)
        longer = torch.zeros(len(lengths), 1, dtype=torch.bool, device=waveform.device)
        made = self.model(features, is_longer=longer).last_hidden_state  # (B, D, F, T)
        return [(made.permute(0, 3, 2, 1), None)]

    def _fill(self, piece: Tensor) -> Tensor:
        """A piece (S,) as a whole window."""
        wanted = self.config.window_samples
        if self.config.padding == "repeatpad":
            piece = piece.repeat(wanted // len(piece))
        elif self.config.padding == "repeat":
            piece = piece.repeat(wanted // len(piece) + 1)[:wanted]
        return torch.nn.functional.pad(piece, (0, wanted - len(piece)))

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 16 mels, windows of 2 s at 16 kHz."""
        values = {"spec_size": 64, "num_mel_bins": 16, "patch_embeds_hidden_size": 16, "depths": [2, 2],
                  "num_attention_heads": [2, 2], "window_size": 4, "drop_path_rate": 0.1,
                  "num_hidden_layers": 2, "hidden_size": 32}  # fmt: skip
        config = ClapEncoderConfig(
            transformers=values,
            sample_rate=16000,
            n_fft=512,
            frame_shift_samples=160,
            window_s=2,
            max_hz=8000.0,
        )
        return cls._tiny(config, seed)


ENCODER = ClapEncoder
