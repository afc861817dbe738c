"""The paper's method: the time branch hides time columns, the freq branch frequency bands."""

from __future__ import annotations

from torch import Tensor

from train.pretrain.masks.base import Noise, visible_bands, visible_columns


def time_frequency(noise: Noise, grid: tuple[int, int], ratio: float, branch: str) -> Tensor:
    """Choose the visible tokens; see `MaskLayout`."""
    return (visible_columns if branch == "time" else visible_bands)(noise, grid, ratio)


MASK_LAYOUT = time_frequency
