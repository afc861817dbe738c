"""The vision-transformer parts of AudioMosaic, under timm's parameter names.

Axis letters: B batch, N tokens, D width, H heads.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# The official code sets this on every normalisation layer of the backbone.
NORM_EPS = 1e-6


def norm_layer(kind: str, dim: int) -> nn.Module:
    """LayerNorm or RMSNorm with AudioMosaic's epsilon."""
    return nn.RMSNorm(dim, eps=NORM_EPS) if kind == "rmsnorm" else nn.LayerNorm(dim, eps=NORM_EPS)


class PatchEmbed(nn.Module):
    """Cut a log-mel into patches and embed each; tokens come out time-major."""

    def __init__(self, patch_size: tuple[int, int], dim: int, norm: nn.Module) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(1, dim, kernel_size=patch_size, stride=patch_size)
        self.norm = norm

    def forward(self, mel: Tensor, keep: Tensor | None = None) -> Tensor:
        """Embed a log-mel: (B, n_frames, n_mels) -> (B, N, D), or (B, K, D) for the kept tokens (B, K) alone."""
        if keep is not None:  # masked patches are dropped first: embedding them would waste time and memory
            mel = self._only(mel, keep)
        patches = self.proj(mel[:, None])  # (B, D, n_time, n_freq)
        out: Tensor = self.norm(patches.flatten(2).transpose(1, 2))
        return out

    def _only(self, mel: Tensor, keep: Tensor) -> Tensor:
        """A log-mel of the kept patches, one below the other: (B, K * frames of a patch, mels of a patch)."""
        n_frames, n_mels = self.patch_size
        grid = mel.unflatten(2, (-1, n_mels)).unflatten(1, (-1, n_frames)).transpose(2, 3)
        patches = grid.flatten(3).flatten(1, 2)  # (B, N, n_frames * n_mels)
        kept = patches.gather(1, keep[..., None].expand(-1, -1, patches.shape[2]))
        out: Tensor = kept.unflatten(2, (n_frames, n_mels)).flatten(1, 2)
        return out


class Attention(nn.Module):
    """Multi-head self-attention (PyTorch's fused kernel)."""

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        qkv_bias: bool,
        proj_bias: bool,
        qk_norm: bool,
        norm_kind: str,
        drop: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.drop = drop
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = norm_layer(norm_kind, dim // heads) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(norm_kind, dim // heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim, bias=proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        batch, n, dim = x.shape
        q, k, v = self.qkv(x).view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)  # 3 x (B, H, N, D / H)
        attended = functional.scaled_dot_product_attention(
            self.q_norm(q), self.k_norm(k), v, dropout_p=self.drop if self.training else 0.0
        )
        out: Tensor = self.proj(attended.transpose(1, 2).reshape(batch, n, dim))
        return out


class Mlp(nn.Module):
    """Two linear layers with an activation between."""

    def __init__(self, dim: int, hidden: int, bias: bool, act: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden, bias=bias)
        self.act = nn.SiLU() if act == "silu" else nn.GELU()
        self.fc2 = nn.Linear(hidden, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Stochastic depth: skip a residual branch for some samples in training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D), whole samples zeroed and the rest scaled up."""
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        return x * x.new_empty((x.shape[0], 1, 1)).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, attn: Attention, mlp: Mlp, norms: list[nn.Module], drop_path: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = norms
        self.attn = attn
        self.mlp = mlp
        self.drop_path1 = DropPath(drop_path)
        self.drop_path2 = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path2(self.mlp(self.norm2(x)))
        return out


def sincos_positions(dim: int, grid: tuple[int, int]) -> Tensor:
    """Two-dimensional sin-cos positions on a time-major grid, a zero row for CLS before them.

    Args:
        dim: Width D, a multiple of 4; the first half encodes frequency, the second time (the fast axis first,
            as in MAE).
        grid: (n_time, n_freq).

    Returns:
        (1, 1 + n_time * n_freq, D) float32.
    """
    n_time, n_freq = grid
    quarter = dim // 4
    omega = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def encode(places: Tensor) -> Tensor:
        angles = places.double()[:, None] * omega
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # (places, D / 2)

    time = torch.arange(n_time).repeat_interleave(n_freq)
    freq = torch.arange(n_freq).repeat(n_time)
    table = torch.cat([encode(freq), encode(time)], dim=1)  # (N, D)
    return torch.cat([torch.zeros(1, dim, dtype=torch.float64), table]).float()[None]


def interpolate_positions(positions: Tensor, grid: tuple[int, int], wanted: tuple[int, int]) -> Tensor:
    """Interpolate position embeddings to another grid (bicubic, in float32); that of CLS is kept.

    Args:
        positions: (1, 1 + n_time * n_freq, D).
        grid: The (n_time, n_freq) they were trained on.
        wanted: The new grid.

    Returns:
        (1, 1 + N', D) in the dtype they came in.
    """
    if grid == wanted:
        return positions
    cls, table = positions[:, :1], positions[:, 1:].float()
    image = table.reshape(1, *grid, -1).permute(0, 3, 1, 2)  # (1, D, n_time, n_freq)
    image = functional.interpolate(image, size=wanted, mode="bicubic", align_corners=False)
    table = image.permute(0, 2, 3, 1).flatten(1, 2)  # (1, N', D)
    return torch.cat([cls, table.to(positions.dtype)], dim=1)
