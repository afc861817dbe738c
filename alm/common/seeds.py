"""Seeds: their range, and seeds of independent random streams."""

from __future__ import annotations

import hashlib

SEEDS = 2**32
"""A seed is at least 0 and less than this number, as numpy's generators (which transformers seeds) require."""


def seed_from(*parts: object, n_bytes: int = 8) -> int:
    """A seed from names and numbers, for example `("data", seed, epoch)`; the same on every machine.

    Args:
        *parts: What the stream depends on; joined by `/`.
        n_bytes: Size of the seed.
    """
    scope = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(scope.encode()).digest()[:n_bytes])
