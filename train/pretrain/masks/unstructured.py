"""Both branches hide tokens at random positions."""

from __future__ import annotations

from torch import Tensor

from train.pretrain.masks.base import Noise, random_subset


def unstructured(noise: Noise, grid: tuple[int, int], ratio: float, branch: str) -> Tensor:  # noqa: ARG001
    """Choose the visible tokens; see `MaskLayout`."""
    n_time, n_freq = grid
    return random_subset(noise(n_time * n_freq), ratio)


MASK_LAYOUT = unstructured
