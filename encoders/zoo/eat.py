"""EAT (Chen et al. 2024), and SSLAM (Alex et al. 2025) where it keeps EAT's format.

Reads the hub release (`worstchan/EAT-*`: config.json with model_type `eat`, keys `model.*`) and the weights of a
fairseq checkpoint (`modality_encoders.IMAGE.*`). Key names and computation follow cwx-worst-one/EAT and the hub's
eat_model.py. The numbers of EAT were compared with that code on random weights (see docs/encoders.md), those of SSLAM
were not.
Axis letters: B batch, S samples, T time steps, F frequency steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alm.common.errors import ConfigError
from encoders.mel import KaldiFbank
from encoders.published import (
    FbankPatchConfig,
    PublishedEncoder,
    filled_log_mel,
    require_stated,
    vit_attention,
    vit_sizes,
)
from encoders.vit import NORM_EPS, Mlp, PatchEmbed, sincos_positions

_MEAN, _DIVISOR = -4.268, 2 * 4.569  # feature_extract.py
# Arguments of EATConfig and of fairseq's data2vec_multi that change the tokens, and the only value we compute with.
_REQUIRED = {
    "in_chans": 1, "qkv_bias": True, "layer_norm_first": False, "norm_eps": NORM_EPS, "norm_affine": True,
    "fixed_positions": True,
}  # fmt: skip
_FAIRSEQ = "modality_encoders.IMAGE."
_HUB = "model."


@dataclass(frozen=True)
class EatConfig(FbankPatchConfig):
    """Defaults are the published base size, with windows of pretraining's length."""

    model_class: str = "EatEncoder"
    max_steps: int = 768
    """Time steps that have a position (768 in the hub's files, 64 in fairseq's)."""
    pooling: str = "mean"
    """Clip feature: `mean` of the tokens that cover audio, or `cls`, what the published evaluation classifies."""

    model_types: ClassVar[tuple[str, ...]] = ("eat",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in ("mean", "cls"):
            raise ConfigError(f"pooling is {self.pooling!r}; expected mean or cls")
        if self.steps_per_window > self.max_steps:
            raise ConfigError(
                f"n_frames is {self.n_frames}, {self.steps_per_window} time steps; expected at most "
                f"{self.max_steps * self.patch_size}, the weights have {self.max_steps} positions"
            )


class PostNormBlock(nn.Module):
    """data2vec 2.0's block with the norms behind the residuals (`AltBlock`, layer_norm_first off)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = vit_attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), True, "gelu")

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = self.norm1(x + self.attn(x))
        out: Tensor = self.norm2(x + self.mlp(x))
        return out


class EatEncoder(PublishedEncoder):
    """The last block's tokens, 6.25 time steps of 8 bands a second; CLS as prefix."""

    config: EatConfig
    config_class = EatConfig
    lora_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    skipped = ("fc_norm.*", "head.*", "decoder.*", "recon_proj.*", "shared_decoder.*", "cls_proj.*", "center")
    licence = "MIT"
    n_parameters = 89_972_736

    def __init__(self, config: EatConfig | None = None) -> None:
        super().__init__(config or EatConfig())
        own, dim = self.config, self.config.embed_dim
        self.fbank = KaldiFbank(own.sample_rate, own.n_mels)
        self.patch_embed = PatchEmbed((own.patch_size, own.patch_size), dim, nn.Identity())
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        positions = sincos_positions(dim, (own.max_steps, own.n_freq))[:, 1:]
        self.positions = nn.Parameter(positions, requires_grad=False)
        self.pre_norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.blocks = nn.ModuleList(
            PostNormBlock(dim, own.num_heads, own.mlp_ratio) for _ in range(own.depth)
        )

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, F, D) and prefix (B, 1, D) of windows (B, S)."""
        own = self.config
        mel = (filled_log_mel(self.fbank, waveform, lengths, own.n_frames) - _MEAN) / _DIVISOR
        x = self.patch_embed(mel.to(self.cls_token.dtype))  # (B, T * F, D)
        x = x + self.positions[:, : x.shape[1]]
        x = self.pre_norm(torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1))
        for block in self.blocks:
            x = block(x)
        return x[:, 1:].unflatten(1, (own.steps_per_window, own.n_freq)), x[:, :1]

    def window_features(self, tokens: Tensor, prefix: Tensor | None) -> Tensor | None:
        """Each window's CLS (B, D) for `cls`; None for `mean`."""
        return None if prefix is None or self.config.pooling == "mean" else prefix[:, 0]

    @classmethod
    def translate(
        cls, weights: dict[str, Tensor], beside: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Rename the weights of either layout; sizes come from the weights, heads and window from a config if given."""
        cfg = beside.get("cfg")
        stated = values or (cfg.get("model") if isinstance(cfg, dict) else None) or {}
        require_stated(stated, _REQUIRED, "config.json" if values else "cfg.model")
        n_mels = stated.get("mel_bins", EatConfig.n_mels)
        named = {}
        for key, value in weights.items():
            for old, new in (
                (_HUB, ""),
                (_FAIRSEQ, ""),
                ("local_encoder.", "patch_embed."),
                ("extra_tokens", "cls_token"),
                ("fixed_positional_encoder.positions", "positions"),
                ("context_encoder.norm.", "pre_norm."),
            ):
                key = new + key[len(old) :] if key.startswith(old) else key
            named[key] = value
        patch = named["patch_embed.proj.weight"].shape[-1]
        steps = named["positions"].shape[1] // (n_mels // patch)
        config = vit_sizes(named) | {"patch_size": patch, "max_steps": steps, "n_mels": n_mels}
        sizes = {key: config[key] for key in ("embed_dim", "depth", "patch_size", "mlp_ratio")} | {
            "stride": patch
        }
        require_stated(stated, sizes, "config.json" if values else "cfg.model")
        if "num_heads" in stated:
            config["num_heads"] = stated["num_heads"]
        frames, mels = stated.get("img_size", (min(EatConfig.n_frames, steps * patch), n_mels))
        require_stated({"img_size": (frames, mels)}, {"img_size": (frames, n_mels)}, "config.json")
        return named, config | {"n_frames": frames}

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 32 mels, windows of 0.64 s, width 32."""
        config = EatConfig(
            embed_dim=32, depth=2, num_heads=2, n_frames=64, n_mels=32, patch_size=8, max_steps=16
        )
        return cls._tiny(config, seed)


ENCODER = EatEncoder
