"""Randomness without state: numbers that belong to a clip in an epoch, not to a generator's history.

Whatever is drawn here is a function of what it is drawn for. So neither batch size, nor loader worker, nor the
number of processes, nor resuming changes it. Axis letters: B batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from torch import Tensor

ClipKeys = Sequence[int | str] | Tensor


def uniform(scope: str, keys: ClipKeys, n: int) -> np.ndarray:
    """Uniform numbers in [0, 1), a function of the scope and of each clip's key alone.

    Args:
        scope: What is drawn, for example ``seed/epoch/view``.
        keys: B clip ids, integers or strings.
        n: Numbers per clip.

    Returns:
        (B, n) float32, multiples of 2**-24 (they fit a float32 without rounding up to 1).
    """
    rows = [
        np.frombuffer(hashlib.shake_128(f"{scope}/{key}".encode()).digest(4 * n), dtype="<u4")
        for key in names(keys)
    ]
    return ((np.stack(rows) >> 8) / (1 << 24)).astype(np.float32)


def names(keys: ClipKeys) -> list[int | str]:
    """Clip ids as a list."""
    return keys.tolist() if isinstance(keys, Tensor) else list(keys)


def clip_key(name: str) -> int:
    """A clip's name as a number that fits an int64 tensor; 56 bits, so a million clips hardly ever share one."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])


def generator_of(scope: str, key: int | str) -> np.random.Generator:
    """A generator that starts anew for every scope and clip, for draws whose number is not known beforehand."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{scope}/{key}".encode()).digest()[:16]))
