"""Encoders of our own making that read what other projects published: strict loading from their files.

Axis letters: B batch, S samples, F frames, M mels.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from alm.common.errors import CheckpointError, ConfigError
from encoders.base import read_config
from encoders.checkpoint import load_strict, read_training_file, resolve_source
from encoders.mel import KaldiFbank, n_frames_for
from encoders.vit import NORM_EPS, Attention, Block, Mlp
from encoders.windows import WindowedConfig, WindowedEncoder

FRAME_SAMPLES, SHIFT_SAMPLES = 400, 160  # 25 ms frames every 10 ms at 16 kHz
_HEAD_DIM = 64  # of every ViT these projects published


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
        if self.sample_rate != 16000:
            raise ConfigError(f"sample_rate is {self.sample_rate}; expected 16000")
        if self.embed_dim % self.num_heads:
            raise ConfigError(
                f"num_heads is {self.num_heads}; expected a divisor of embed_dim ({self.embed_dim})"
            )
        for key in ("n_frames", "n_mels"):
            if getattr(self, key) % self.patch_size:
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
        """Samples that the frames of a window hear."""
        return (self.n_frames - 1) * SHIFT_SAMPLES + FRAME_SAMPLES

    def steps_in(self, n_samples: int) -> int:
        """Patches that hold a frame of the piece, the last perhaps partly filled."""
        return -(-n_frames_for(n_samples, self.sample_rate) // self.patch_size)


class PublishedEncoder(WindowedEncoder):
    """Loads a publisher's directory, hub id or weights file; each class says how to read it."""

    others: ClassVar[tuple[str, ...]] = ()
    """Patterns of the weights that publishers' files hold beside the encoder's; they are left out."""

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
        """

    @classmethod
    def from_pretrained(
        cls, source: str | os.PathLike[str], *, revision: str | None = None, **config_overrides: Any
    ) -> Self:
        """Load a publisher's directory, hub id or weights file, or what `save_pretrained` wrote, strictly.

        Raises:
            CheckpointError: Not there, unreadable, or weights that do not fit, naming every such key.
            ConfigError: A config file or the overrides are not valid.
        """
        path = resolve_source(source, revision, ("config.json", "*.safetensors", "*.bin", "*.pt", "*.pth"))
        config_overrides.pop("config", None)
        file = (path if path.is_dir() else path.parent) / "config.json"
        values = read_config(file) if path.is_dir() and file.is_file() else {}
        if "model_class" in values:
            return super().from_pretrained(path, **config_overrides)
        weights, beside = read_training_file(path)
        try:
            weights, own = cls.translate(weights, beside, values)
        except KeyError as error:
            raise CheckpointError(f"{path}: is not in {cls.__name__}'s format: no weight {error}") from error
        config = cls.config_class.from_dict(own, where=str(path)).replace(**config_overrides)
        encoder = cls(config)
        encoder.load_report = load_strict(encoder, weights, source=path, allow_unexpected=cls.others)
        return encoder.eval()

    @classmethod
    def _tiny(cls, config: WindowedConfig, seed: int) -> Self:
        """A seeded instance in evaluation mode; the global generator is left alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(config).eval()


def vit_sizes(weights: dict[str, Tensor]) -> dict[str, int]:
    """embed_dim, depth and num_heads of a state dict with `blocks.<i>`."""
    width = len(weights["blocks.0.norm1.weight"])
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    return {"embed_dim": width, "depth": depth, "num_heads": max(1, width // _HEAD_DIM)}


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
