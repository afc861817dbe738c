"""AudioMosaic (ICML 2026): a ViT over log-mel patches, trained by contrasting masked views.

Parameter names follow timm's VisionTransformer, as the published weights do.
Axis letters: B batch, S samples, N tokens, K kept tokens, D width, W windows.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from alm.common.errors import ConfigError
from encoders.base import read_config, resolve_encoder
from encoders.checkpoint import load_strict, read_weights
from encoders.vit import (
    NORM_EPS,
    Attention,
    Block,
    Mlp,
    PatchEmbed,
    interpolate_positions,
    norm_layer,
    sincos_positions,
)
from encoders.windows import WindowedEncoder
from encoders.zoo.audiomosaic.config import CLASSIFIER, NORMALISATIONS, PRETRAIN, PROBES, AudioMosaicConfig
from encoders.zoo.audiomosaic.heads import HEAD_KEYS, add_head, initialise_head, probe_feature

__all__ = ["NORMALISATIONS", "AudioMosaicConfig", "AudioMosaicEncoder"]

_INIT_STD = 0.02
# Trainer checkpoints of our pretraining stage name the encoder's weights as a part of their model.
_PART = "encoder."


class AudioMosaicEncoder(WindowedEncoder):
    """AudioMosaic's encoder with the head that its `model_class` names."""

    config: AudioMosaicConfig
    projector: nn.Sequential  # a model class has only some of these heads
    head: nn.Linear
    head_drop_out: nn.Dropout
    config_class = AudioMosaicConfig
    lora_targets = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    learned_statistics = ("projector",)
    n_parameters = 86_111_232

    def __init__(self, config: AudioMosaicConfig | None = None) -> None:
        config = config or AudioMosaicConfig()
        super().__init__(config)
        dim, kind = config.embed_dim, config.norm_layer_type
        self.checkpoint_fraction = config.checkpointing_fraction if config.use_checkpoint else 0.0
        """Share of the blocks, from the first on, whose activations are recomputed in the backward pass."""
        self.fbank = config.fbank()
        self.patch_embed = PatchEmbed(config.patch_size, dim, norm_layer(kind, dim))
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = nn.Parameter(sincos_positions(dim, config.grid), requires_grad=config.pos_trainable)
        self.norm_pre = norm_layer(kind, dim) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        pooled_dim = 2 * dim if config.pooling == "fusion" else dim
        self.norm: nn.Module = nn.Identity()
        self.fc_norm: nn.Module = nn.Identity()
        if config.model_class in (CLASSIFIER, *PROBES):
            self.fc_norm = nn.LayerNorm(pooled_dim, eps=NORM_EPS)  # whatever norm_layer_type says
        elif config.use_fc_norm:
            self.fc_norm = norm_layer(kind, pooled_dim)
        else:
            self.norm = norm_layer(kind, dim)
        add_head(self, config, pooled_dim)
        self._initialise()

    def encode_windows(self, waveform: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, F, D) and CLS (B, 1, D) of windows (B, S)."""
        return self._split_cls(self.forward_mel(self._normalised_log_mel(waveform, lengths)))

    def encode_window_layers(
        self, waveform: Tensor, lengths: list[int]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Like `encode_windows`, for the input of the first block and every block's output (none normalised)."""
        layers: list[Tensor] = []
        self._run_blocks(self._embed(self._normalised_log_mel(waveform, lengths), None), layers)
        return [self._split_cls(layer) for layer in layers]

    def window_features(self, tokens: Tensor, prefix: Tensor | None) -> Tensor:
        """`pool` over each window's CLS and tokens: (B, D'), D' twice D where the config pools by fusion."""
        assert prefix is not None
        return self.pool(torch.cat([prefix, tokens.flatten(1, 2)], dim=1))

    def _normalised_log_mel(self, waveform: Tensor, lengths: list[int]) -> Tensor:
        """Log-mel (B, n_frames, n_mels) of windows (B, S), zeros after each one's end before normalisation."""
        mel, _ = self.fbank(waveform, torch.tensor(lengths))
        return self.normalise(nn.functional.pad(mel, (0, 0, 0, self.config.spec_size[0] - mel.shape[1])))

    def _split_cls(self, encoded: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1 + N, D) as tokens (B, T, F, D) and CLS (B, 1, D)."""
        tokens: Tensor = encoded[:, 1:].unflatten(1, self.config.grid)
        return tokens, encoded[:, :1]

    @property
    def n_layers(self) -> int:
        """The number of blocks, and one for the input of the first."""
        return len(self.blocks) + 1

    def log_mel_windows(self, waveform: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The log-mel of a padded batch, cut into the encoder's windows and not normalised yet.

        Args:
            waveform: (B, S) float32 in [-1, 1].
            lengths: (B,) samples of each clip.

        Returns:
            windows (B, W, n_frames, n_mels), zeros after each clip's end; frames (B, W) long, those of each window
            that hold audio, 0 for windows that a shorter clip lacks.

        Raises:
            AudioError: A clip is shorter than one 25 ms frame.
        """
        self.check_lengths(lengths)
        mel, n_frames = self.fbank(waveform, lengths)  # (B, frames, n_mels)
        self.check_finite(mel)
        per_window = self.config.spec_size[0]
        most = -(-mel.shape[1] // per_window)
        mel = nn.functional.pad(mel, (0, 0, 0, most * per_window - mel.shape[1]))
        windows = mel.unflatten(1, (most, per_window))  # (B, W, n_frames, n_mels)
        starts = per_window * torch.arange(most, device=mel.device)
        return windows, (n_frames.to(mel.device)[:, None] - starts).clamp(0, per_window)

    def pool_windows(self, encoded: Tensor, frames: Tensor) -> Tensor:
        """One feature per clip: `pool` over each window's tokens, then the mean over a clip's windows.

        A window's weight is its share of the clip's audio. With equal weights, the last frame of a clip that is one
        frame longer than a window would count as much as all the others.

        Args:
            encoded: (existing windows, 1 + K, D), as `forward_mel` gives them for `windows[frames > 0]`.
            frames: (B, W) long, frames of each window that hold audio.

        Returns:
            (B, D'), D' twice D where the config pools by fusion.
        """
        pooled = self.pool(encoded)  # (existing windows, D')
        spread = pooled.new_zeros((*frames.shape, pooled.shape[-1]))
        spread[frames > 0] = pooled
        share = frames / frames.sum(dim=1, keepdim=True)  # (B, W)
        return (spread * share.to(spread.dtype)[..., None]).sum(dim=1)  # (B, W, D') -> (B, D')

    def normalise(self, mel: Tensor) -> Tensor:
        """Normalise a zero-padded log-mel with the config's constants (padding first, as in training)."""
        return (mel - self.config.norm.mean) / self.config.norm.divisor

    def forward_mel(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        """Encode windows of normalised log-mel.

        Args:
            mel: (B, n_frames, n_mels), n_frames and n_mels those of `config.spec_size`.
            keep: (B, K) long, tokens n = t * n_freq + f to keep; the others are never computed.

        Returns:
            (B, 1 + N, D), or (B, 1 + K, D) in the order of `keep`; CLS first. Not normalised unless
            `use_fc_norm` is off.
        """
        return self._run_blocks(self._embed(mel, keep))

    def layer_tokens(self, mel: Tensor, keep: Tensor | None = None) -> list[Tensor]:
        """Like `forward_mel`, but the tokens after every block, and last those after the final norm.

        Returns:
            depth + 1 tensors (B, 1 + N, D).
        """
        layers: list[Tensor] = []
        last = self._run_blocks(self._embed(mel, keep), layers)
        return [*layers[1:], last]

    def logits(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        """Class logits of windows of normalised log-mel, by the classifier or the probe.

        Args:
            mel: (B, n_frames, n_mels).
            keep: (B, K) long, tokens to keep, as in `forward_mel`.

        Returns:
            (B, num_classes).

        Raises:
            ConfigError: The model class has no classes.
        """
        if self.config.model_class in PROBES:
            return self.classify(probe_feature(self, self.config, self.layer_tokens(mel, keep)))
        return self.classify(self.pool(self.forward_mel(mel, keep)))

    def _embed(self, mel: Tensor, keep: Tensor | None) -> Tensor:
        """Input of the first block: CLS and the kept patches, with positions, normalised."""
        if mel.shape[1:] != self.config.spec_size:
            raise ValueError(f"log-mel of shape {tuple(mel.shape)}; expected (B, *{self.config.spec_size})")
        patches = self.patch_embed(mel.to(self.patch_embed.proj.weight.dtype), keep)  # (B, N or K, D)
        cls, places = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if keep is not None:
            places = nn.functional.embedding(keep, places[0])  # (B, K, D)
        first = (self.cls_token + cls).expand(len(mel), -1, -1)
        out: Tensor = self.norm_pre(torch.cat([first, patches + places], dim=1))  # (B, 1 + N or K, D)
        return out

    def _run_blocks(self, x: Tensor, layers: list[Tensor] | None = None) -> Tensor:
        """All blocks and the final norm; where given, `layers` gets what enters the first block and each output."""
        recomputed = 0
        if self.training and torch.is_grad_enabled():
            recomputed = int(len(self.blocks) * self.checkpoint_fraction)
        if layers is not None:
            layers.append(x)
        for index, block in enumerate(self.blocks):
            x = checkpoint(block, x, use_reentrant=False) if index < recomputed else block(x)
            if layers is not None:
                layers.append(x)
        out: Tensor = self.norm(x)
        return out

    def pool(self, tokens: Tensor) -> Tensor:
        """Pool `forward_mel`'s tokens (B, 1 + N, D) to one feature per window (B, D), not normalised yet."""
        if self.config.pooling == "cls":
            return tokens[:, 0]
        if self.config.pooling == "fusion":
            return torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1)  # (B, 2 D)
        return tokens.mean(dim=1)  # CLS is part of the mean in the official code

    def embed_head(self, pooled: Tensor) -> Tensor:
        """Contrastive embedding of a pooled feature: (B, D) -> (B, E), not of unit length."""
        if self.config.model_class != PRETRAIN:
            raise ConfigError(
                f"encoder config: {self.config.model_class} has no contrastive head; use {PRETRAIN}"
            )
        out: Tensor = self.projector(self.fc_norm(pooled))
        return out

    def classify(self, pooled: Tensor) -> Tensor:
        """Class logits of a pooled feature (a probe's own feature): (B, D) -> (B, num_classes)."""
        if not self.config.has_classes:
            raise ConfigError(
                f"encoder config: {self.config.model_class} has no classifier; use {CLASSIFIER}"
            )
        out: Tensor = self.head(self.head_drop_out(self.fc_norm(pooled)))
        return out

    @property
    def clip_norm(self) -> nn.Module | None:
        """`fc_norm`, where the config has it."""
        return None if isinstance(self.fc_norm, nn.Identity) else self.fc_norm

    def as_classifier(self, norm: nn.Module, linear: nn.Linear) -> AudioMosaicEncoder:
        """This encoder as an AudioMosaicClassifier, the published layout of fine-tuned weights.

        Args:
            norm: Normalisation of the pooled feature, like `fc_norm`.
            linear: (D', classes).

        Raises:
            ConfigError: The encoder normalises tokens, which a classifier of the release does not.
        """
        if self.clip_norm is None:
            raise ConfigError(
                "encoder config: use_fc_norm is off; a release classifier normalises the pooled feature"
            )
        config = self.config.replace(model_class=CLASSIFIER, num_classes=linear.out_features)
        classifier = type(self)(config)
        own = {key for key in classifier.state_dict() if not key.startswith(("fc_norm.", "head."))}
        weights = {key: value for key, value in self.state_dict().items() if key in own}
        weights |= {f"fc_norm.{key}": value for key, value in norm.state_dict().items()}
        weights |= {f"head.{key}": value for key, value in linear.state_dict().items()}
        load_strict(classifier, weights, source="the fine-tuned encoder")
        return classifier.eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        config: AudioMosaicConfig | Mapping[str, Any] | str | os.PathLike[str] | None = None,
        **config_overrides: Any,
    ) -> Self:
        """Load a release directory, a run directory, a hub id or a training script's weights file, strictly.

        A changed `spec_size` interpolates the positions from the grid they were trained on. A changed
        `model_class` or `num_classes` drops the old head and starts a fresh one. A normalisation other than the
        weights were trained with is warned about.

        Args:
            source: Directory, `organisation/name`, or a `.pt`/`.bin`/`.safetensors` file.
            revision: Hub branch, tag or commit.
            config: Config of the weights where no config.json is beside them: a config, its dict or a path.
            **config_overrides: Config values that replace those of the weights' config.

        Raises:
            CheckpointError: Missing, unreadable, or weights that do not fit, naming every such key.
            ConfigError: The config or the overrides are not valid.
        """
        path = resolve_encoder(source, revision)
        trained = _config_of(path, config)
        encoder = cls(trained.replace(**config_overrides))
        wanted = encoder.config
        if wanted.norm != trained.norm:
            warnings.warn(
                f"{path}: trained with normalisation {_describe(trained)}, used with {_describe(wanted)}; "
                "its tokens change, so keep the first unless the encoder is trained further",
                stacklevel=2,
            )
        weights = read_weights(path)
        if weights and all(key.startswith(_PART) for key in weights):
            weights = {key.removeprefix(_PART): value for key, value in weights.items()}
        if "pos_embed" in weights and weights["pos_embed"].shape[1] == math.prod(trained.grid) + 1:
            weights["pos_embed"] = interpolate_positions(weights["pos_embed"], trained.grid, wanted.grid)
        heads = [(c.model_class, c.num_classes if c.has_classes else 0) for c in (trained, wanted)]
        changed = heads[0] != heads[1]
        encoder.load_report = load_strict(
            encoder,
            weights,
            source=path,
            allow_missing=HEAD_KEYS[wanted.model_class] if changed else (),
            leave_out=HEAD_KEYS[trained.model_class] if changed else (),
        )
        return encoder.eval()

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance: 32 mels, windows of 0.64 s, width 32."""
        config = AudioMosaicConfig(
            spec_size=(64, 32),
            patch_size=(8, 16),
            embed_dim=32,
            depth=2,
            num_heads=2,
            project_embedding_dim=16,
            drop_path_rate=0.1,
            attn_drop_rate=0.1,
        )
        return cls._tiny(config, seed)

    def _initialise(self) -> None:
        """Official initialisation: truncated normal weights, zero biases, a CLS close to zero."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.cls_token, std=1e-6)
        initialise_head(self, self.config)
        if self.config.freeze_patch_embed:
            self.patch_embed.requires_grad_(False)


def _describe(config: AudioMosaicConfig) -> str:
    return f"{config.normalisation} ((x - {config.norm.mean:g}) / {config.norm.divisor:g})"


def _block(config: AudioMosaicConfig, index: int) -> Block:
    dim, kind = config.embed_dim, config.norm_layer_type
    attention = Attention(
        dim,
        config.num_heads,
        qkv_bias=config.qkv_bias,
        proj_bias=config.proj_bias,
        qk_norm=config.qk_norm,
        norm_kind=kind,
        drop=config.attn_drop_rate,
    )
    mlp = Mlp(dim, int(dim * config.mlp_ratio), config.proj_bias, config.act_type)
    drop_path = config.drop_path_rate * index / max(1, config.depth - 1)  # deeper blocks drop more (timm)
    return Block(attention, mlp, [norm_layer(kind, dim), norm_layer(kind, dim)], drop_path)


def _config_of(
    path: Path, config: AudioMosaicConfig | Mapping[str, Any] | str | os.PathLike[str] | None
) -> AudioMosaicConfig:
    if isinstance(config, AudioMosaicConfig):
        return config
    if isinstance(config, Mapping):
        return AudioMosaicConfig.from_dict(dict(config))
    place = Path(config) if config is not None else path if path.is_dir() else path.parent
    if config is None and not path.is_dir() and not (place / "config.json").is_file():
        raise ConfigError(
            f"{path}: no config.json beside it; give config=<config.json, its directory or a dict>"
        )
    return AudioMosaicConfig.from_release(read_config(place), where=str(place))
