"""Which tokens a pretraining view keeps.

AudioMosaic contrasts a view that hides whole stretches of time with one that hides whole frequency bands.
Tokens are time-major, n = t * n_freq + f. Axis letters: B batch, K kept tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

LAYOUTS = ("time_frequency", "official", "unstructured", "time", "freq")
BRANCHES = ("time", "freq")


def sample_keep(
    layout: str,
    grid: tuple[int, int],
    batch: int,
    ratio: float,
    branch: str,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw, for every clip by itself, the tokens to keep.

    Layouts:
        time_frequency: The paper's method. The time branch hides time columns, the freq branch frequency bands.
        official: What the released code does: it uses (n_freq, n_time) for (n_time, n_freq) on time-major
            tokens. Its "time" branch keeps whole blocks of n_time consecutive tokens (192 of 512 tokens at
            ratio 0.6), its "freq" branch one random subset of n_time cells tiled n_freq times (304 at 0.4).
        unstructured: Any tokens, both branches alike.
        time, freq: Both branches hide time columns, or frequency bands.

    Args:
        layout: One of `LAYOUTS`.
        grid: (n_time, n_freq).
        batch: Number of clips B.
        ratio: Part hidden, in [0, 1); what is kept is rounded down, but never to nothing.
        branch: "time" (view 0) or "freq" (view 1).
        generator: Source of randomness; the result lies on its device.

    Returns:
        (B, K) long, each row sorted, so tokens stay in time order.

    Raises:
        ValueError: Unknown layout or branch, or a ratio outside [0, 1).
    """
    if layout not in LAYOUTS or branch not in BRANCHES or not 0.0 <= ratio < 1.0:
        raise ValueError(
            f"layout {layout!r} (one of {', '.join(LAYOUTS)}), branch {branch!r} (one of {', '.join(BRANCHES)}), "
            f"ratio {ratio} (in [0, 1))"
        )
    n_time, n_freq = grid
    if layout == "unstructured":
        return _subset(n_time * n_freq, batch, ratio, generator)
    if layout == "official":
        n_time, n_freq = n_freq, n_time  # the released code's mistake, on purpose
    if layout in BRANCHES:
        branch = layout
    if branch == "time":
        kept = _subset(n_time, batch, ratio, generator)  # (B, kept columns)
        return (kept[:, :, None] * n_freq + torch.arange(n_freq, device=kept.device)).flatten(1)
    kept = _subset(n_freq, batch, ratio, generator)  # (B, kept bands)
    columns = torch.arange(n_time, device=kept.device)[None, :, None] * n_freq
    return (columns + kept[:, None, :]).flatten(1)


def n_kept(total: int, ratio: float) -> int:
    """How many of `total` things are kept: int(total * (1 - ratio)) as in the official code, and at least one."""
    # The small constant keeps 20 * (1 - 0.9) from becoming 1 through rounding error.
    return max(1, int(total * (1.0 - ratio) + 1e-9))


def _subset(total: int, batch: int, ratio: float, generator: torch.Generator | None) -> Tensor:
    """Sorted random subsets of range(total), one per clip: (B, kept)."""
    device = generator.device if generator is not None else torch.device("cpu")
    order = torch.rand(batch, total, generator=generator, device=device).argsort(dim=1)
    return order[:, : n_kept(total, ratio)].sort(dim=1).values
