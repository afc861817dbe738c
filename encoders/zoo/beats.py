"""BEATs (Chen et al. 2023), from the official `BEATs_iter*.pt`.

Key names, sizes and computation follow microsoft/unilm (beats/BEATs.py, beats/backbone.py). The numbers were compared
with that code on random weights; see docs/encoders.md. That code encodes whole clips; this one, windows of `n_frames`.
Axis letters: B batch, S samples, T time steps, F frequency steps, N tokens, H heads, D width, E patch width.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from alm.common.errors import ConfigError
from encoders.mel import KaldiFbank, n_frames_for
from encoders.published import FbankPatchConfig, PublishedEncoder, require_stated

_MEAN, _DIVISOR = 15.41663, 2 * 6.55582  # BEATs.preprocess, for samples scaled to 16 bits
_FULL_SCALE = 2.0**15
_POVEY = 0.85  # kaldi's default window is a hann window to this power
# BEATsConfig: a checkpoint's cfg replaces some of these defaults.
_OFFICIAL = {
    "input_patch_size": -1, "embed_dim": 512, "conv_bias": False, "encoder_layers": 12, "encoder_embed_dim": 768,
    "encoder_ffn_embed_dim": 3072, "encoder_attention_heads": 12, "activation_fn": "gelu",
    "layer_norm_first": False, "deep_norm": False, "conv_pos": 128, "conv_pos_groups": 16,
    "relative_position_embedding": False, "num_buckets": 320, "max_distance": 1280, "gru_rel_pos": False,
}  # fmt: skip
_REQUIRED = {
    "layer_norm_first": False, "relative_position_embedding": True, "gru_rel_pos": True, "activation_fn": "gelu",
}  # fmt: skip
_SHARED_BIAS = "self_attn.relative_attention_bias.weight"


@dataclass(frozen=True)
class BeatsConfig(FbankPatchConfig):
    """Defaults are the published iter3 sizes."""

    model_class: str = "BeatsEncoder"
    patch_dim: int = 512
    """Width E of a patch before it is projected to embed_dim."""
    conv_bias: bool = False
    conv_pos: int = 128
    """Tokens that the position convolution covers."""
    conv_pos_groups: int = 16
    num_buckets: int = 320
    max_distance: int = 800
    deep_norm: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.conv_pos < 1 or self.conv_pos_groups < 1 or self.embed_dim % self.conv_pos_groups:
            raise ConfigError(
                f"conv_pos_groups is {self.conv_pos_groups}, conv_pos {self.conv_pos}; expected a divisor of "
                f"embed_dim ({self.embed_dim}) and at least 1"
            )
        if self.num_buckets < 4 or self.max_distance <= self.num_buckets // 4:
            raise ConfigError(
                f"num_buckets is {self.num_buckets}, max_distance {self.max_distance}; expected at least 4 buckets, "
                "and a distance above a quarter of them"
            )
        if self.patch_dim < 1:
            raise ConfigError(f"patch_dim is {self.patch_dim}; expected at least 1")

    def steps_in(self, n_samples: int) -> int:
        """Whole patches: a rest shorter than a patch is dropped, as officially."""
        return n_frames_for(n_samples, self.sample_rate) // self.patch_size


class BeatsAttention(nn.Module):
    """Attention with gated relative position bias."""

    def __init__(self, config: BeatsConfig, owns_bias: bool) -> None:
        super().__init__()
        dim, self.heads = config.embed_dim, config.num_heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))
        self.grep_linear = nn.Linear(dim // self.heads, 8)
        self.grep_a = nn.Parameter(torch.ones(1, self.heads, 1, 1))
        if owns_bias:
            self.relative_attention_bias = nn.Embedding(config.num_buckets, self.heads)

    def forward(self, x: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
        """Attend over x (B, N, D) with position bias (1, H, N, N) where seen (B, 1, 1, N)."""
        # (B, H, N, D / H)
        q, k, v = (
            proj(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        gate_a, gate_b = self.grep_linear(q).unflatten(-1, (2, 4)).sum(-1).sigmoid().chunk(2, dim=-1)
        gated = (gate_a * (gate_b * self.grep_a - 1.0) + 2.0) * bias  # (B, H, N, N)
        gated = gated.masked_fill(~seen, torch.finfo(gated.dtype).min)
        attended = functional.scaled_dot_product_attention(q, k, v, attn_mask=gated)
        out: Tensor = self.out_proj(attended.transpose(1, 2).flatten(2))
        return out


class BeatsLayer(nn.Module):
    """Post-norm layer; with deep_norm the residuals weigh more."""

    def __init__(self, config: BeatsConfig, owns_bias: bool) -> None:
        super().__init__()
        dim, hidden = config.embed_dim, int(config.embed_dim * config.mlp_ratio)
        self.self_attn = BeatsAttention(config, owns_bias)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.final_layer_norm = nn.LayerNorm(dim)
        self.alpha = (2 * config.depth) ** 0.25 if config.deep_norm else 1.0

    def forward(self, x: Tensor, bias: Tensor, seen: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.self_attn_layer_norm(x * self.alpha + self.self_attn(x, bias, seen))
        out: Tensor = self.final_layer_norm(x * self.alpha + self.fc2(functional.gelu(self.fc1(x))))
        return out


class BeatsTransformer(nn.Module):
    """Position convolution and layers, under the official names."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        convolution = nn.Conv1d(
            dim, dim, config.conv_pos, padding=config.conv_pos // 2, groups=config.conv_pos_groups
        )
        nn.init.normal_(convolution.weight, std=math.sqrt(4 / (config.conv_pos * dim)))
        self.pos_conv = nn.Sequential(nn.utils.parametrizations.weight_norm(convolution, dim=2))
        self.layer_norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList(BeatsLayer(config, owns_bias=i == 0) for i in range(config.depth))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        """Encode tokens (B, N, D), real (B, N)."""
        x = x * real[..., None]
        positions = self.pos_conv(x.transpose(1, 2))[..., : x.shape[1]]  # an even kernel makes one too many
        x = self.layer_norm(x + functional.gelu(positions).transpose(1, 2))
        bias = self._bias(x.shape[1], x.device)
        for layer in self.layers:
            x = layer(x, bias, real[:, None, None])
        return x

    def _bias(self, n: int, device: torch.device) -> Tensor:
        """Relative position bias (1, H, N, N), in T5's buckets: half for each direction, far ones shared."""
        half = self.config.num_buckets // 2
        exact = half // 2
        places = torch.arange(n, device=device)
        relative = places[None] - places[:, None]
        distance = relative.abs()
        far = (distance.clamp(min=1).float() / exact).log() / math.log(self.config.max_distance / exact)
        far = (exact + (far * (half - exact)).long()).clamp(max=half - 1)
        buckets = (relative > 0) * half + torch.where(distance < exact, distance, far)
        first: Any = self.layers[0]
        out: Tensor = first.self_attn.relative_attention_bias(buckets).permute(2, 0, 1)[None]
        return out


class BeatsEncoder(PublishedEncoder):
    """The last layer's tokens, 6.25 time steps of 8 bands a second; attention does not see padding."""

    config: BeatsConfig
    config_class = BeatsConfig
    lora_targets = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")
    skipped = ("predictor.*", f"encoder.layers.*.{_SHARED_BIAS}")  # all layers share the first layer's entry
    licence = "MIT"
    n_parameters = 90_311_792

    def __init__(self, config: BeatsConfig | None = None) -> None:
        super().__init__(config or BeatsConfig())
        own = self.config
        self.fbank = KaldiFbank(own.sample_rate, own.n_mels, window_exponent=_POVEY)
        self.patch_embedding = nn.Conv2d(
            1, own.patch_dim, own.patch_size, stride=own.patch_size, bias=own.conv_bias
        )
        self.layer_norm = nn.LayerNorm(own.patch_dim)
        same = own.patch_dim == own.embed_dim
        self.post_extract_proj = nn.Identity() if same else nn.Linear(own.patch_dim, own.embed_dim)
        self.encoder = BeatsTransformer(own)

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, None]:
        """Tokens (B, T, F, D) of windows (B, S)."""
        own = self.config
        steps = [own.steps_in(n) for n in lengths]
        mel, _ = self.fbank(waveform * _FULL_SCALE, torch.tensor(lengths))
        mel = ((mel - _MEAN) / _DIVISOR)[:, : max(steps) * own.patch_size].to(
            self.patch_embedding.weight.dtype
        )
        x = self.patch_embedding(mel[:, None]).flatten(2).transpose(1, 2)  # (B, T * F, E)
        valid = torch.tensor(steps, device=x.device) * own.n_freq
        real = torch.arange(x.shape[1], device=x.device)[None] < valid[:, None]
        x = self.encoder(self.post_extract_proj(self.layer_norm(x)), real)
        return x.unflatten(1, (max(steps), own.n_freq)), None

    @classmethod
    def translate(
        cls, weights: dict[str, Tensor], beside: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sizes from the checkpoint's own `cfg`; what it leaves out has BEATsConfig's defaults."""
        if not isinstance(beside.get("cfg"), dict):
            raise ConfigError(
                "the file holds no cfg beside the weights; give a BEATs checkpoint as published"
            )
        cfg: dict[str, Any] = _OFFICIAL | beside["cfg"]
        require_stated(cfg, _REQUIRED, "cfg")
        convolution = "encoder.pos_conv.0."
        renamed = {
            f"{convolution}weight_g": f"{convolution}parametrizations.weight.original0",
            f"{convolution}weight_v": f"{convolution}parametrizations.weight.original1",
        }
        named = {renamed.get(key, key): value for key, value in weights.items()}
        ours = {
            "embed_dim": cfg["encoder_embed_dim"],
            "depth": cfg["encoder_layers"],
            "num_heads": cfg["encoder_attention_heads"],
            "mlp_ratio": cfg["encoder_ffn_embed_dim"] / cfg["encoder_embed_dim"],
            "patch_size": cfg["input_patch_size"],
            "patch_dim": cfg["embed_dim"],
        }
        same = ("conv_bias", "conv_pos", "conv_pos_groups", "num_buckets", "max_distance", "deep_norm")
        return named, ours | {key: cfg[key] for key in same}

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 32 mels, windows of 0.64 s, width 32."""
        config = BeatsConfig(
            embed_dim=32, depth=2, num_heads=2, n_frames=64, n_mels=32, patch_size=8, patch_dim=16,
            conv_pos=8, conv_pos_groups=4, num_buckets=32, max_distance=64,
        )  # fmt: skip
        return cls._tiny(config, seed)


ENCODER = BeatsEncoder
