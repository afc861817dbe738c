"""AudioMAE (Huang et al. 2022), from the official `pretrained.pth` and `finetuned.pth`.

Key names, sizes and the front end follow facebookresearch/AudioMAE (models_mae.py, models_vit.py, dataset.py).
Not verified: numbers against the official code, which needs an old timm; the published files were not at hand.
Axis letters: B batch, S samples, T time steps, F frequency steps, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from encoders.mel import KaldiFbank
from encoders.published import FbankPatchConfig, PublishedEncoder, filled_log_mel, vit_block, vit_sizes
from encoders.vit import NORM_EPS, PatchEmbed, sincos_positions

_MEAN, _DIVISOR = -4.2677393, 2 * 4.5689974  # AudioSet's, as main_pretrain.py and dataset.py use them


@dataclass(frozen=True)
class AudioMaeConfig(FbankPatchConfig):
    """Defaults are the published ViT-B."""

    model_class: str = "AudioMaeEncoder"
    final_norm: bool = True
    """Normalise the tokens; fine-tuned checkpoints normalise their mean instead, and that norm is left out."""

    model_classes: ClassVar[tuple[str, ...]] = ("AudioMaeEncoder",)


class AudioMaeEncoder(PublishedEncoder):
    """The encoder's tokens, 6.25 time steps of 8 bands a second; CLS as prefix."""

    config: AudioMaeConfig
    config_class = AudioMaeConfig
    lora_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    others = ("decoder_*", "mask_token", "fc_norm.*", "head.*")
    licence = "CC-BY-NC-4.0"
    n_parameters = 85_648_128

    def __init__(self, config: AudioMaeConfig | None = None) -> None:
        super().__init__(config or AudioMaeConfig())
        own, dim = self.config, self.config.embed_dim
        self.fbank = KaldiFbank(own.sample_rate, own.n_mels)
        self.patch_embed = PatchEmbed((own.patch_size, own.patch_size), dim, nn.Identity())
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim).normal_(std=0.02))
        grid = (own.steps_per_window, own.n_freq)
        self.pos_embed = nn.Parameter(sincos_positions(dim, grid), requires_grad=False)
        self.blocks = nn.ModuleList(vit_block(dim, own.num_heads, own.mlp_ratio) for _ in range(own.depth))
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS) if own.final_norm else nn.Identity()

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, F, D) and prefix (B, 1, D) of windows (B, S)."""
        own = self.config
        mel = (filled_log_mel(self.fbank, waveform, lengths, own.n_frames) - _MEAN) / _DIVISOR
        x = self.patch_embed(mel.to(self.cls_token.dtype))  # (B, T * F, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 1:].unflatten(1, (own.steps_per_window, own.n_freq)), x[:, :1]

    @classmethod
    def translate(
        cls, weights: dict[str, Tensor], beside: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sizes from the weights; a window is as long as the positions say."""
        patch = weights["patch_embed.proj.weight"].shape[-1]
        config = vit_sizes(weights) | {"patch_size": patch, "final_norm": "norm.weight" in weights}
        n_freq = AudioMaeConfig.n_mels // patch
        return weights, config | {"n_frames": (weights["pos_embed"].shape[1] - 1) // n_freq * patch}

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 32 mels, windows of 0.64 s, width 32."""
        config = AudioMaeConfig(embed_dim=32, depth=2, num_heads=2, n_frames=64, n_mels=32, patch_size=8)
        return cls._tiny(config, seed)


ENCODER = AudioMaeEncoder
