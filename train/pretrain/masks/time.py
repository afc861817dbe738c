"""Both branches hide time columns."""

from __future__ import annotations

from torch import Tensor

from train.pretrain.masks.base import Noise, visible_columns


def time(noise: Noise, grid: tuple[int, int], ratio: float, branch: str) -> Tensor:  # noqa: ARG001
    """Choose the visible tokens; see `MaskLayout`."""
    return visible_columns(noise, grid, ratio)


MASK_LAYOUT = time
