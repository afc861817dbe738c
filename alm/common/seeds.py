"""Seeds: their range, and seeds of independent random streams."""

from __future__ import annotations

import hashlib

SEEDS = 2**32
"""Seeds are 0 to this number, less one: the range of numpy's, and so of transformers', generators."""


def seed_from(*parts: object, n_bytes: int = 8) -> int:
    """A seed from names and numbers, for example `("data", seed, epoch)`; the same on every machine.

    Args:
        *parts: What the stream depends on; joined by `/`.
        n_bytes: Size of the seed.
    """
    scope = "/".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(scope.encode()).digest()[:n_bytes])
