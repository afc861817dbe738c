"""Which tokens a pretraining view keeps.

AudioMosaic contrasts a view that hides whole stretches of time with one that hides whole frequency bands.
Tokens are time-major, n = t * n_freq + f. Axis letters: B batch, K kept tokens.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from train.data.draws import ClipKeys, names, uniform

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
    """Draw, for every clip by itself, the tokens to keep; pretraining uses `keep_of`, whose draws belong to the clip.

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
    device = generator.device if generator is not None else torch.device("cpu")
    return _keep(
        layout, grid, ratio, branch, lambda n: torch.rand(batch, n, generator=generator, device=device)
    )


def keep_of(
    keys: ClipKeys,
    layout: str,
    grid: tuple[int, int],
    ratio: float,
    branch: str,
    *,
    seed: int = 0,
    epoch: int = 0,
    view: int = 0,
) -> Tensor:
    """As `sample_keep`, each clip's draw a function of (seed, epoch, view, its key) alone.

    Args:
        keys: B clip ids, integers or strings.
        layout: One of `LAYOUTS`.
        grid: (n_time, n_freq).
        ratio: Part hidden, in [0, 1).
        branch: "time" or "freq".
        seed: Seed of the run.
        epoch: Which pass over the data.
        view: Which of the clip's views.

    Returns:
        (B, K) long on the CPU, each row sorted.

    Raises:
        ValueError: Unknown layout or branch, or a ratio outside [0, 1).
    """
    listed = names(keys)  # once: a tensor of keys may lie on a device
    scope = f"mask/{seed}/{epoch}/{view}"
    return _keep(layout, grid, ratio, branch, lambda n: torch.from_numpy(uniform(scope, listed, n)))


def _keep(
    layout: str, grid: tuple[int, int], ratio: float, branch: str, noise: Callable[[int], Tensor]
) -> Tensor:
    """Tokens to keep (B, K); `noise(n)` gives (B, n) random numbers whose order decides."""
    if layout not in LAYOUTS or branch not in BRANCHES or not 0.0 <= ratio < 1.0:
        raise ValueError(
            f"layout {layout!r} (one of {', '.join(LAYOUTS)}), branch {branch!r} (one of {', '.join(BRANCHES)}), "
            f"ratio {ratio} (in [0, 1))"
        )
    n_time, n_freq = grid
    if layout == "unstructured":
        return _subset(noise(n_time * n_freq), ratio)
    if layout == "official":
        n_time, n_freq = n_freq, n_time  # the released code's mistake, on purpose
    if layout in BRANCHES:
        branch = layout
    if branch == "time":
        kept = _subset(noise(n_time), ratio)  # (B, kept columns)
        return (kept[:, :, None] * n_freq + torch.arange(n_freq, device=kept.device)).flatten(1)
    kept = _subset(noise(n_freq), ratio)  # (B, kept bands)
    columns = torch.arange(n_time, device=kept.device)[None, :, None] * n_freq
    return (columns + kept[:, None, :]).flatten(1)


def n_kept(total: int, ratio: float) -> int:
    """How many of `total` things are kept: int(total * (1 - ratio)) as in the official code, and at least one."""
    # The small constant keeps 20 * (1 - 0.9) from becoming 1 through rounding error.
    return max(1, int(total * (1.0 - ratio) + 1e-9))


def _subset(noise: Tensor, ratio: float) -> Tensor:
    """Sorted random subsets of range(n), one per clip: (B, n) random numbers -> (B, kept)."""
    order = noise.argsort(dim=1, stable=True)
    return order[:, : n_kept(noise.shape[1], ratio)].sort(dim=1).values
