"""Our own implementations of encoders that other projects published: strict loading of their files.

Axis letters: B batch, S samples, F frames, M mels.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alm.common.errors import CheckpointError, ConfigError, shown
from alm.common.fields import located
from encoders.base import config_file, read_config
from encoders.checkpoint import load_strict, read_training_file, resolve_source
from encoders.mel import KaldiFbank, n_frames_for
from encoders.vit import NORM_EPS, Attention, Block, Mlp
from encoders.windows import WindowedConfig, WindowedEncoder

FRAME_SAMPLES, SHIFT_SAMPLES = 400, 160  # 25 ms frames every 10 ms at 16 kHz
_HEAD_DIM = 64  # in every ViT that these projects published


@dataclass(frozen=True)
class FbankPatchConfig(WindowedConfig):
    """Square patches, side by side, of a kaldi log-mel: the sizes AudioMAE, EAT and BEATs share."""

    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    n_frames: int = 1024
    """Frames of a window."""
    n_mels: int = 128
    patch_size: int = 16

    def __post_init__(self) -> None:
        check_vit(self)
        if self.patch_size < 1:
            raise ConfigError(f"patch_size is {self.patch_size}; expected at least 1")
        for key in ("n_frames", "n_mels"):
            if getattr(self, key) < 1 or getattr(self, key) % self.patch_size:
                raise ConfigError(
                    f"{key} is {getattr(self, key)}; expected whole patches of {self.patch_size}"
                )

    @property
    def dim(self) -> int:
        """Width D of a token."""
        return self.embed_dim

    @property
    def n_freq(self) -> int:
        """Frequency steps per time step."""
        return self.n_mels // self.patch_size

    @property
    def steps_per_window(self) -> int:
        """Time steps of a full window."""
        return self.n_frames // self.patch_size

    @property
    def hop_samples(self) -> int:
        """Samples from one window to the next."""
        return self.n_frames * SHIFT_SAMPLES

    @property
    def window_samples(self) -> int:
        """Samples that the frames of a window cover."""
        return (self.n_frames - 1) * SHIFT_SAMPLES + FRAME_SAMPLES

    def steps_in(self, n_samples: int) -> int:
        """Patches that hold a frame of the piece, the last perhaps partly filled."""
        return -(-n_frames_for(n_samples, self.sample_rate) // self.patch_size)


def check_vit(config: Any) -> None:
    """Refuse sizes that no transformer over 16 kHz audio can have.

    Raises:
        ConfigError: Naming the key.
    """
    if config.sample_rate != 16000:
        raise ConfigError(f"sample_rate is {config.sample_rate}; expected 16000")
    if config.depth < 1:
        raise ConfigError(f"depth is {config.depth}; expected at least 1")
    if config.num_heads < 1 or config.embed_dim < 1 or config.embed_dim % config.num_heads:
        raise ConfigError(
            f"num_heads is {config.num_heads}; expected a divisor of embed_dim ({config.embed_dim})"
        )
    if int(config.embed_dim * config.mlp_ratio) < 1:
        raise ConfigError(f"mlp_ratio is {config.mlp_ratio}; expected more than 0")


class PublishedEncoder(WindowedEncoder):
    """Loads a publisher's directory, hub id or weights file; each class says how to read it."""

    config: WindowedConfig
    skipped: ClassVar[tuple[str, ...]] = ()
    """Patterns of the weights that publishers' files hold beside the encoder's; they are not loaded."""

    @classmethod
    @abstractmethod
    def translate(
        cls, weights: dict[str, Tensor], beside: dict[str, Any], values: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Read a publisher's files.

        Args:
            weights: Their state dict.
            beside: What the weights file holds beside it.
            values: Their config.json; empty where there is none.

        Returns:
            The weights under our names, and config values.

        Raises:
            KeyError: A weight that tells the sizes is missing.
            ConfigError: The publisher's config asks for a computation that this encoder does not do.
        """

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, **config_overrides: Any
    ) -> Self:
        """Load a publisher's directory, hub id or weights file, or what `save_pretrained` wrote, strictly.

        A config.json beside a weights file is read if it belongs to this encoder, and ignored if it belongs to another
        model.

        Raises:
            CheckpointError: Missing, unreadable, or weights that do not fit, naming every such key.
            ConfigError: A config file or the overrides are not valid.
        """
        path = resolve_source(source, revision, ("config.json", "*.safetensors", "*.bin", "*.pt", "*.pth"))
        config_overrides.pop("config", None)
        file = config_file(path)
        values = read_config(file) if file.is_file() else {}
        if values.get("model_class") in cls.config_class.model_classes:
            return super().from_pretrained(path, **config_overrides)
        if values and values.get("model_type") not in cls.config_class.model_types:
            if path.is_dir() and "model_class" in values:
                raise ConfigError(
                    f"{file}: model_class is {values['model_class']!r}; this is not a {cls.__name__}"
                )
            values = {}
        weights, beside = read_training_file(path)
        try:
            with located(str(path)):
                weights, own = cls.translate(weights, beside, values)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            detail = (
                f"no weight {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
            )
            raise CheckpointError(f"{path}: is not in {cls.__name__}'s format: {detail}") from error
        config = cls.config_class.from_dict(own | config_overrides, where=str(path))
        encoder = cls(config)
        encoder.load_report = load_strict(encoder, weights, source=path, allow_unexpected=cls.skipped)
        return encoder.eval()


def require_stated(stated: Mapping[str, Any], required: Mapping[str, Any], where: str) -> None:
    """Refuse a publisher's config that asks for another computation than this encoder's.

    Args:
        stated: The publisher's config.
        required: The only value we compute with, for every argument of the official constructor that changes tokens.
        where: Name of the config in messages.

    Raises:
        ConfigError: Naming the key, its value and the value that is supported.
    """
    for key, wanted in required.items():
        got = stated.get(key, wanted)
        same = (
            tuple(got) == tuple(wanted)
            if isinstance(got, list | tuple) and isinstance(wanted, list | tuple)
            else (got == wanted and isinstance(got, bool) == isinstance(wanted, bool))
        )
        if not same:
            raise ConfigError(
                f"{where}: {key} is {shown(got, 80)}; only {shown(wanted, 80)} is supported, and another value "
                "would change the tokens"
            )


def vit_sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """embed_dim, depth, num_heads and mlp_ratio of a state dict with `blocks.<i>`."""
    width = len(weights["blocks.0.norm1.weight"])
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    hidden = len(weights["blocks.0.mlp.fc1.weight"])
    heads = max(1, width // _HEAD_DIM)
    return {"embed_dim": width, "depth": depth, "num_heads": heads, "mlp_ratio": hidden / width}


def vit_attention(dim: int, heads: int) -> Attention:
    """Attention as in timm, with all biases."""
    return Attention(
        dim, heads, qkv_bias=True, proj_bias=True, qk_norm=False, norm_kind="layernorm", drop=0.0
    )


def vit_block(dim: int, heads: int, mlp_ratio: float) -> Block:
    """A pre-norm block as in timm, with all biases and GELU."""
    norms: list[nn.Module] = [nn.LayerNorm(dim, eps=NORM_EPS) for _ in range(2)]
    return Block(vit_attention(dim, heads), Mlp(dim, int(dim * mlp_ratio), True, "gelu"), norms, 0.0)


def filled_log_mel(fbank: KaldiFbank, waveform: Tensor, lengths: list[int], n_frames: int) -> Tensor:
    """Log-mel (B, F, M) of windows (B, S), zeros from each one's end up to `n_frames`."""
    mel, _ = fbank(waveform, torch.tensor(lengths))
    return nn.functional.pad(mel, (0, 0, 0, n_frames - mel.shape[1]))
