"""Sampling of the visible tokens of a view, and the contract of mask layouts.

AudioMosaic contrasts a view that hides whole stretches of time with one that hides whole frequency bands. Tokens are
time-major, n = t * n_freq + f. Axis letters: B batch, K visible tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from train.data.clip_random import ClipKeys, key_list, uniform

BRANCHES = ("time", "freq")

Noise = Callable[[int], Tensor]
"""Gives (B, n) random numbers in [0, 1) for n."""


class MaskLayout(Protocol):
    """A mask layout, the type of `MASK_LAYOUT`."""

    def __call__(self, noise: Noise, grid: tuple[int, int], ratio: float, branch: str) -> Tensor:
        """Choose the visible tokens of every clip.

        Args:
            noise: The only source of randomness; called with as many numbers per clip as are needed.
            grid: (n_time, n_freq).
            ratio: Share hidden, in [0, 1).
            branch: `time` (view 0) or `freq` (view 1).

        Returns:
            (B, K) long, each row sorted, so that tokens stay in time order.
        """
        ...


def sample_visible_tokens(
    layout: MaskLayout, grid: tuple[int, int], ratio: float, branch: str, noise: Noise
) -> Tensor:
    """Choose the visible tokens of every clip.

    Args:
        layout: The layout, for example `MASK_LAYOUTS.get("time_frequency")`.
        grid: (n_time, n_freq).
        ratio: Share hidden, in [0, 1); the number of visible columns or bands is rounded down, but never to zero.
        branch: `time` (view 0) or `freq` (view 1).
        noise: Source of randomness: `clip_noise` in pretraining, or `generator_noise`.

    Returns:
        (B, K) long on the noise's device, each row sorted.

    Raises:
        ValueError: Unknown branch, or a ratio outside [0, 1).
    """
    if branch not in BRANCHES or not 0.0 <= ratio < 1.0:
        raise ValueError(f"branch {branch!r} (one of {', '.join(BRANCHES)}), ratio {ratio} (in [0, 1))")
    return layout(noise, grid, ratio, branch)


def clip_noise(keys: ClipKeys, seed: int = 0, epoch: int = 0, view: int = 0) -> Noise:
    """Random numbers of each clip, on the CPU: a function of (seed, epoch, view, the clip's key) alone.

    Args:
        keys: B clip ids, integers or strings.
        seed: Seed of the run.
        epoch: Which pass over the data.
        view: Which of the clip's views.
    """
    listed = key_list(keys)  # once: a tensor of keys may lie on a device
    scope = f"mask/{seed}/{epoch}/{view}"
    return lambda n: torch.from_numpy(uniform(scope, listed, n))


def generator_noise(batch: int, generator: torch.Generator | None = None) -> Noise:
    """Random numbers of a generator, on its device.

    Args:
        batch: Number of clips B.
        generator: The generator; None is PyTorch's default one, on the CPU.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    return lambda n: torch.rand(batch, n, generator=generator, device=device)


def visible_columns(noise: Noise, grid: tuple[int, int], ratio: float) -> Tensor:
    """Tokens (B, K) of randomly chosen time columns."""
    n_time, n_freq = grid
    columns = random_subset(noise(n_time), ratio)  # (B, visible columns)
    return (columns[:, :, None] * n_freq + torch.arange(n_freq, device=columns.device)).flatten(1)


def visible_bands(noise: Noise, grid: tuple[int, int], ratio: float) -> Tensor:
    """Tokens (B, K) of randomly chosen frequency bands."""
    n_time, n_freq = grid
    bands = random_subset(noise(n_freq), ratio)  # (B, visible bands)
    columns = torch.arange(n_time, device=bands.device)[None, :, None] * n_freq
    return (columns + bands[:, None, :]).flatten(1)


def n_visible(total: int, ratio: float) -> int:
    """How many of `total` stay visible: int(total * (1 - ratio)) as in the official code, and at least one."""
    # The small constant keeps 20 * (1 - 0.9) from becoming 1 through rounding error.
    return max(1, int(total * (1.0 - ratio) + 1e-9))


def random_subset(noise: Tensor, ratio: float) -> Tensor:
    """Sorted random subsets of range(n), one per clip: (B, n) random numbers -> (B, visible)."""
    order = noise.argsort(dim=1, stable=True)
    return order[:, : n_visible(noise.shape[1], ratio)].sort(dim=1).values
