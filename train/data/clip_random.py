"""Random-number streams keyed by clip: no number depends on how many were drawn before.

Every number is a function of its scope (seed, epoch, view) and of the clip's key. So batch size, loader worker, number
of processes and resuming do not change it. Axis letters: B batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from alm.common.seeds import seed_from
from encoders.mel import hz_to_mel, mel_to_hz

ClipKeys = Sequence[int | str] | Tensor


def uniform(scope: str, keys: ClipKeys, n: int) -> np.ndarray:
    """Draw uniform numbers in [0, 1), a function of the scope and of each clip's key alone.

    Args:
        scope: Names the stream, for example `seed/epoch/view`.
        keys: B clip ids, integers or strings.
        n: Numbers per clip.

    Returns:
        (B, n) float32, multiples of 2**-24 (they fit a float32 without rounding up to 1).
    """
    rows = [
        np.frombuffer(hashlib.shake_128(f"{scope}/{key}".encode()).digest(4 * n), dtype="<u4")
        for key in key_list(keys)
    ]
    return ((np.stack(rows) >> 8) / (1 << 24)).astype(np.float32)


def key_list(keys: ClipKeys) -> list[int | str]:
    """Clip ids as a list."""
    return keys.tolist() if isinstance(keys, Tensor) else list(keys)


def clip_key(name: str) -> int:
    """Hash a clip's name to a number that fits an int64 tensor.

    It has 56 bits: two of a million clips share one with a probability of 1 in 140,000.
    """
    return seed_from(name, n_bytes=7)


def generator_of(scope: str, key: int | str) -> np.random.Generator:
    """A new generator for a scope and a clip, where the number of draws is not known beforehand."""
    return np.random.default_rng(seed_from(scope, key, n_bytes=16))


class ClipRandom:
    """Random numbers of a batch of clips; every call uses the next column.

    The order of the calls is part of the recipe: changing it changes the views of a seed.

    Args:
        numbers: (B, n) uniform in [0, 1), n the largest number of calls.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self._columns = iter(np.ascontiguousarray(numbers.T))

    def unit(self) -> Tensor:
        """(B,) uniform in [0, 1)."""
        return torch.from_numpy(next(self._columns))

    def between(self, low: float, high: float) -> Tensor:
        """(B,) uniform in [low, high)."""
        return low + (high - low) * self.unit()

    def normal(self) -> Tensor:
        """(B,) standard normal."""
        out: Tensor = torch.special.ndtri(self.unit().clamp(min=1e-6))
        return out

    def between_hz(self, low: float, high: float) -> Tensor:
        """(B,) frequencies in Hz, uniform on the mel scale, as audiomentations draws its filters' corners."""
        low_mel, high_mel = hz_to_mel(torch.tensor([low, high])).tolist()
        return mel_to_hz(self.between(low_mel, high_mel))

    def bernoulli(self, probability: float) -> Tensor:
        """(B,) bool, True with the probability."""
        return self.unit() < probability

    def roll_gain(self, beta: float) -> Tensor:
        """(B,) natural log of the power gain of an amplitude Beta(beta, beta) + 0.5."""
        uniform = self.unit()
        if beta <= 0:
            return torch.zeros_like(uniform)
        return 2 * torch.from_numpy(betaincinv(beta, beta, uniform.numpy()) + 0.5).log()
