"""Dasheng (Dinkel et al. 2024), from the official `dasheng_*.pt` and the hub's `mispeech/dasheng-*`.

Key names, sizes and computation follow RicherMans/Dasheng (pretrained.py, models.py) and the hub's
modeling_dasheng.py (config.json with model_type `dasheng`, keys `encoder.*`). The numbers were compared with that code
on random weights; see docs/encoders.md. For clips longer than a window, the result
differs on purpose: this encoder computes the spectrogram and its decibel floor for each window. The official code
computes the spectrogram for the whole clip, and the floor for the whole batch.
Axis letters: B batch, S samples, F frames, M mels, T time steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alm.common.errors import ConfigError
from encoders.published import (
    SHIFT_SAMPLES,
    PublishedEncoder,
    check_vit,
    require_stated,
    vit_block,
    vit_sizes,
)
from encoders.stft import StftMel
from encoders.vit import NORM_EPS
from encoders.windows import WindowedConfig, equal_groups

_N_FFT = 512
_TOP_DB = 120.0
_HEADS = {768: 12, 1280: 16, 1536: 24}  # dasheng_base, 06B, 12B in pretrained.py
_HUB = "encoder."
# Arguments of AudioTransformerMAE_Encoder and of the hub's feature extractor that change the tokens, and the only
# value we compute with.
_REQUIRED = {
    "n_fft": _N_FFT, "win_size": _N_FFT, "win_length": _N_FFT, "hop_size": SHIFT_SAMPLES, "hop_length": SHIFT_SAMPLES,
    "f_min": 0, "f_max": 8000, "center": True, "top_db": _TOP_DB, "sample_rate": 16000, "sampling_rate": 16000,
    "input_channels": 1, "qkv_bias": True, "init_values": None, "norm_layer": None, "act_layer": None,
    "block_type": "Block", "attention_type": "Attention",
}  # fmt: skip


@dataclass(frozen=True)
class DashengConfig(WindowedConfig):
    """Defaults are the published base size: patches of all 64 mels and 4 frames."""

    model_class: str = "DashengEncoder"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    target_length: int = 1008
    """Frames of a window."""
    n_mels: int = 64
    patch_frames: int = 4

    model_types: ClassVar[tuple[str, ...]] = ("dasheng",)

    def __post_init__(self) -> None:
        check_vit(self)
        if self.n_mels < 1 or self.patch_frames < 1:
            raise ConfigError(
                f"n_mels is {self.n_mels}, patch_frames {self.patch_frames}; expected at least 1"
            )
        if self.target_length < self.patch_frames:
            raise ConfigError(
                f"target_length is {self.target_length}; expected at least one patch of {self.patch_frames} frames"
            )

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.embed_dim

    @property
    def n_freq(self) -> int:
        """A patch spans all mels."""
        return 1

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window (252)."""
        return self.target_length // self.patch_frames

    @property
    def hop_samples(self) -> int:
        """Samples of a window's steps (10.08 s)."""
        return self.steps_per_window * self.patch_frames * SHIFT_SAMPLES

    @property
    def window_samples(self) -> int:
        """Windows do not overlap."""
        return self.hop_samples

    def steps_in(self, n_samples: int) -> int:
        """Whole patches of the frames that a centred transform has."""
        frames = 1 + n_samples // SHIFT_SAMPLES
        return min(self.steps_per_window, frames // self.patch_frames)


class DashengEncoder(PublishedEncoder):
    """The encoder's tokens, 25 a second. Windows run in groups of equal length, unpadded, as officially."""

    config: DashengConfig
    config_class = DashengConfig
    lora_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    skipped = ("front_end.*", "outputlayer.*")
    licence = "Apache-2.0"
    n_parameters = 85_447_808

    def __init__(self, config: DashengConfig | None = None) -> None:
        super().__init__(config or DashengConfig())
        own, dim = self.config, self.config.embed_dim
        self.mel = StftMel(  # torchaudio's MelSpectrogram defaults
            _N_FFT, SHIFT_SAMPLES, num_mel_filters=own.n_mels, min_frequency=0.0, max_frequency=8000.0,
            sampling_rate=own.sample_rate, norm=None, mel_scale="htk",
        )  # fmt: skip
        self.init_bn = nn.Sequential(nn.Identity(), nn.BatchNorm2d(own.n_mels, momentum=0.01))
        patch = (own.n_mels, own.patch_frames)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(1, dim, kernel_size=patch, stride=patch)})
        self.time_pos_embed = nn.Parameter(torch.randn(1, dim, 1, own.steps_per_window) * 0.02)
        self.freq_pos_embed = nn.Parameter(torch.randn(1, dim, 1, 1) * 0.02)
        self.blocks = nn.ModuleList(vit_block(dim, own.num_heads, own.mlp_ratio) for _ in range(own.depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, None]:
        """Tokens (B, T, 1, D) of windows (B, S)."""
        dtype = self.time_pos_embed.dtype
        most = max(map(self.config.steps_in, lengths))
        tokens = waveform.new_zeros(len(lengths), most, self.config.embed_dim, dtype=dtype)
        for size, rows in equal_groups(lengths, waveform.device):
            made = self._encode_equal(waveform[rows, :size])
            tokens[rows, : made.shape[1]] = made.to(dtype)
        return tokens[:, :, None], None

    def _encode_equal(self, waveform: Tensor) -> Tensor:
        """Windows of one length: (B, S) -> (B, T, D)."""
        decibel = 10 * self.mel(waveform).clamp(min=1e-10).log10()  # (B, F, M)
        decibel = torch.maximum(decibel, decibel.amax(dim=(1, 2), keepdim=True) - _TOP_DB)
        decibel = decibel[:, : self.config.target_length].to(self.time_pos_embed.dtype)
        bands = self.init_bn(decibel.transpose(1, 2)[..., None])  # (B, M, F, 1): a band is a channel
        x = self.patch_embed["proj"](bands.permute(0, 3, 1, 2))  # (B, D, 1, T)
        x = x + self.time_pos_embed[..., : x.shape[-1]] + self.freq_pos_embed
        x = x.flatten(2).transpose(1, 2)  # (B, T, D)
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.norm(x)
        return out

    @classmethod
    def translate(
        cls, weights: dict[str, Tensor], beside: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Rename the weights of either layout; sizes come from the weights, heads from a config if given."""
        named = {key.removeprefix(_HUB): value for key, value in weights.items()}
        config: dict[str, Any] = vit_sizes(named)
        _, _, n_mels, frames = named["patch_embed.proj.weight"].shape
        config |= {"n_mels": n_mels, "patch_frames": frames}
        config["target_length"] = named["time_pos_embed"].shape[-1] * frames
        stated: dict[str, Any] = {}
        for part in (beside.get("config"), values, values.get("encoder_kwargs")):
            stated |= part if isinstance(part, dict) else {}
        sizes = {key: config[key] for key in ("embed_dim", "depth", "mlp_ratio", "n_mels", "target_length")}
        sizes |= {"patch_size": (n_mels, frames), "patch_stride": (n_mels, frames)}
        require_stated(stated, _REQUIRED | sizes, "config")
        heads = stated.get("num_heads", _HEADS.get(config["embed_dim"]))
        return named, config if heads is None else config | {"num_heads": heads}

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 16 mels, windows of 0.8 s, width 32."""
        config = DashengConfig(embed_dim=32, depth=2, num_heads=2, target_length=80, n_mels=16)
        return cls._tiny(config, seed)


ENCODER = DashengEncoder
