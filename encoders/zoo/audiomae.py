"""AudioMAE (Huang et al. 2022), from the official `pretrained.pth` and `finetuned.pth`.

Key names, sizes and the front end follow facebookresearch/AudioMAE (models_mae.py, models_vit.py, dataset.py). The
numbers were compared with that code on random weights; see docs/encoders.md.
Axis letters: B batch, S samples, T time steps, F frequency steps, D width.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from alm.common.errors import ConfigError
from encoders.mel import KaldiFbank
from encoders.published import (
    FbankPatchConfig,
    PublishedEncoder,
    filled_log_mel,
    require_stated,
    vit_block,
    vit_sizes,
)
from encoders.vit import NORM_EPS, PatchEmbed, sincos_positions

# (mean, standard deviation) by the training script's `--dataset` (main_finetune_as.py, main_finetune_esc.py).
_STATISTICS = {
    "audioset": (-4.2677393, 4.5689974),
    "esc50": (-6.6268077, 5.358466),
    "speechcommands": (-6.845978, 5.5654526),
}
# Arguments of the training scripts that change what a patch is.
_REQUIRED = {"use_custom_patch": False}


@dataclass(frozen=True)
class AudioMaeConfig(FbankPatchConfig):
    """Defaults are the published ViT-B."""

    model_class: str = "AudioMaeEncoder"
    final_norm: bool = True
    """Normalise the tokens; fine-tuned checkpoints normalise their mean instead (`pooling: published`)."""
    norm_mean: float = _STATISTICS["audioset"][0]
    """Log-mel mean of the training data."""
    norm_std: float = _STATISTICS["audioset"][1]
    """Log-mel standard deviation of the training data; the log-mel is divided by twice this."""
    pooling: str = "mean"
    """Clip feature: `mean` of the tokens that cover audio, or `published`, what fine-tuned checkpoints classify: the
    mean of all of a window's tokens (silence included), then the checkpoint's fc_norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pooling not in ("mean", "published"):
            raise ConfigError(f"pooling is {self.pooling!r}; expected mean or published")
        if self.pooling == "published" and self.final_norm:
            raise ConfigError(
                "pooling is 'published', which needs a fine-tuned checkpoint (its fc_norm); use mean, or attentive "
                "and linear probes on the tokens"
            )
        if self.norm_std <= 0:
            raise ConfigError(f"norm_std is {self.norm_std}; expected more than 0")


class AudioMaeEncoder(PublishedEncoder):
    """The encoder's tokens, 6.25 time steps of 8 bands a second; CLS as prefix."""

    config: AudioMaeConfig
    config_class = AudioMaeConfig
    lora_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    skipped = ("decoder_*", "mask_token", "fc_norm.*", "head.*")
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
        self.fc_norm = nn.LayerNorm(dim, eps=NORM_EPS) if own.pooling == "published" else None

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, F, D) and prefix (B, 1, D) of windows (B, S)."""
        own = self.config
        mel = (filled_log_mel(self.fbank, waveform, lengths, own.n_frames) - own.norm_mean) / (
            2 * own.norm_std
        )
        x = self.patch_embed(mel.to(self.cls_token.dtype))  # (B, T * F, D)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 1:].unflatten(1, (own.steps_per_window, own.n_freq)), x[:, :1]

    def window_features(self, tokens: Tensor, prefix: Tensor | None) -> Tensor | None:
        """`fc_norm` of the mean of all of a window's patches (models_vit.py, global_pool); None for `mean`."""
        return None if self.fc_norm is None else self.fc_norm(tokens.flatten(1, 2).mean(dim=1))

    @classmethod
    def translate(
        cls, weights: dict[str, Tensor], beside: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Sizes from the weights; a window is as long as the positions say; statistics by the data set."""
        arguments = beside.get("args")
        stated = vars(arguments) if isinstance(arguments, Namespace) else {}
        require_stated(stated, _REQUIRED, "args")
        dataset = stated.get("dataset", "audioset")
        if dataset not in _STATISTICS:
            raise ConfigError(
                f"args: dataset is {dataset!r}, whose log-mel statistics are not known; expected one of "
                f"{', '.join(_STATISTICS)}, or save the state dict alone and give norm_mean and norm_std"
            )
        mean, std = _STATISTICS[dataset]
        patch = weights["patch_embed.proj.weight"].shape[-1]
        config = vit_sizes(weights) | {"patch_size": patch, "final_norm": "norm.weight" in weights}
        config |= {"norm_mean": mean, "norm_std": std}
        n_freq = AudioMaeConfig.n_mels // patch
        return weights, config | {"n_frames": (weights["pos_embed"].shape[1] - 1) // n_freq * patch}

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 32 mels, windows of 0.64 s, width 32."""
        config = AudioMaeConfig(embed_dim=32, depth=2, num_heads=2, n_frames=64, n_mels=32, patch_size=8)
        return cls._tiny(config, seed)


ENCODER = AudioMaeEncoder
