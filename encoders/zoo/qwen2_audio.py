"""Qwen2-Audio's encoder (Chu et al. 2024), from `Qwen/Qwen2-Audio-7B*`, through `transformers`.

The audio tower alone is loaded; its checkpoint's other files are still downloaded where a hub id is given.
Axis letters: B batch, S samples, F frames, M mels, T time steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from encoders.hf import TransformersEncoder
from encoders.zoo.whisper import HOP_SAMPLES, TINY, MelWindowConfig, log_mel, slaney_mel


@dataclass(frozen=True)
class Qwen2AudioEncoderConfig(MelWindowConfig):
    """Defaults are the published size."""

    model_class: str = "Qwen2AudioEncoder"

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_audio",)
    config_name: ClassVar[str] = "Qwen2AudioEncoderConfig"
    section: ClassVar[str | None] = "audio_config"
    fixed: ClassVar[dict[str, Any]] = {"encoder_layerdrop": 0.0}

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window (750)."""
        return int(self.hf.max_source_positions // 2)

    def steps_in(self, n_samples: int) -> int:
        """Whole pairs of Whisper's steps, as `_get_feat_extract_output_lengths` counts them."""
        return positions(n_samples) // 2


def positions(n_samples: int) -> int:
    """Positions that attention may see: frames of the piece, two to a position."""
    n_frames = -(-n_samples // HOP_SAMPLES)
    return (n_frames - 1) // 2 + 1 if n_frames > 0 else 0


class Qwen2AudioEncoder(TransformersEncoder):
    """The audio tower's output, one token every 40 ms; attention does not see the silence behind a clip."""

    config: Qwen2AudioEncoderConfig
    config_class = Qwen2AudioEncoderConfig
    model_name = "Qwen2AudioEncoder"
    lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    heads = ("*language_model.*", "*multi_modal_projector.*", "*lm_head.*")
    renamed = {r"^(model\.)?audio_tower\.": ""}
    max_windows_per_pass = 8
    licence = "Apache-2.0"
    n_parameters = 636_968_960

    def __init__(self, config: Qwen2AudioEncoderConfig | None = None, model: Any = None) -> None:
        super().__init__(config, model)
        self.mel = slaney_mel(self.config.hf.num_mel_bins, self.config.sample_rate)

    def read_windows(
        self, waveform: Tensor, lengths: list[int], *, layers: bool
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Tokens (B, T, 1, D) of windows (B, S)."""
        features = log_mel(self.mel, waveform, self.config.window_samples).to(self.dtype)  # (B, M, F)
        seen = torch.tensor([positions(n) for n in lengths], device=waveform.device)
        places = torch.arange(self.config.hf.max_source_positions, device=waveform.device)
        mask = torch.zeros(len(lengths), 1, 1, len(places), dtype=self.dtype, device=waveform.device)
        mask.masked_fill_((places[None] >= seen[:, None])[:, None, None], torch.finfo(self.dtype).min)
        mask = mask.expand(-1, -1, len(places), -1)  # (B, 1, positions, positions)
        made = self.model(features, attention_mask=mask).last_hidden_state  # (B, T, D), behind a pooling
        return [(made[:, : max(map(self.config.steps_in, lengths)), None], None)]

    @property
    def n_layers(self) -> None:
        """None: only the output is pooled to the token rate, the layers before it are not."""
        return None

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance with windows of one second."""
        return cls._tiny(Qwen2AudioEncoderConfig(transformers=TINY), seed)


ENCODER = Qwen2AudioEncoder
