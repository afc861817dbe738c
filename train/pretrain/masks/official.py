"""The masks of the released code, which swaps n_time and n_freq on time-major tokens.

Its "time" branch keeps whole blocks of n_time consecutive tokens (192 of 512 tokens at ratio 0.6), its "freq" branch
keeps one random subset of n_time cells, tiled n_freq times (304 at 0.4).
"""

from __future__ import annotations

from torch import Tensor

from train.pretrain.masks.base import Noise
from train.pretrain.masks.time_frequency import time_frequency


def official(noise: Noise, grid: tuple[int, int], ratio: float, branch: str) -> Tensor:
    """Choose the visible tokens; see `MaskLayout`."""
    n_time, n_freq = grid
    return time_frequency(noise, (n_freq, n_time), ratio, branch)  # the released code's mistake, on purpose


MASK_LAYOUT = official
