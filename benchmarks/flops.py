"""Floating point operations of AudioMosaic's masked forward and backward."""

from __future__ import annotations

from encoders.zoo.audiomosaic.config import AudioMosaicConfig


def forward_flops(config: AudioMosaicConfig, n_kept: int) -> int:
    """Operations of one clip's forward pass, products and sums counted apart (2 per multiply-add).

    Matrix products only: patches, attention with its four projections, the MLP. `n_kept` patches and CLS go
    through the blocks; hidden patches cost nothing, as they are left out before they are embedded.
    """
    dim, tokens = config.embed_dim, n_kept + 1
    hidden = int(dim * config.mlp_ratio)
    patches = 2 * n_kept * config.patch_size[0] * config.patch_size[1] * dim
    projections = 2 * tokens * (4 * dim * dim + 2 * dim * hidden)
    attention = 2 * 2 * tokens * tokens * dim
    return patches + config.depth * (projections + attention)


def step_flops(config: AudioMosaicConfig, kept: tuple[int, int]) -> int:
    """Operations of forward and backward of one clip's pair of views (the backward counts twice).

    The gradient of the patches with respect to the log-mel is not needed, so not counted.
    """
    patch = 2 * config.patch_size[0] * config.patch_size[1] * config.embed_dim
    return sum(3 * forward_flops(config, n) - patch * n for n in kept)
