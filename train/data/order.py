"""Orders of samples: functions of (seed, epoch), for `train.data.sampling`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from train.data.clip_random import generator_of

Lengths = Callable[[int], np.ndarray]
"""From an epoch to the length of every sample, (n,)."""

_PICKED = 1 << 20  # elements that `_picked` copies at a time
MEGABATCHES = 50  # batches sorted together when grouping by length, as in transformers


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of 0..n-1, a function of (seed, epoch)."""
    return generator_of(f"order/{seed}", epoch).permutation(n)


def mixture_order(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """Order samples of several sources in the shares of a mixture.

    Each source has an order of its own and is repeated as often as needed. The next epoch continues where the last one
    stopped, so that a source with a small weight is visited completely before any of its samples is repeated.

    Args:
        sizes: Records of each source; they are numbered one source after the other.
        weights: Share of each source, not necessarily adding up to 1.
        seed: The seed.
        epoch: The epoch.

    Returns:
        (n,) int64 record numbers, as many as there are records.
    """
    order = _in_shares(sizes, weights, seed, epoch)
    return _picked(order, np.random.default_rng((seed, epoch)).permutation(len(order)))


def _in_shares(sizes: Sequence[int], weights: Sequence[float], seed: int, epoch: int) -> np.ndarray:
    """The record numbers of a mixture, one source after the other."""
    order = np.empty(sum(sizes), np.int64)
    start = filled = 0
    for source, (size, count) in enumerate(zip(sizes, apportion(weights, len(order)).tolist(), strict=True)):
        for part in _repeated(size, count, seed, source, epoch):
            np.add(part, start, out=order[filled : filled + len(part)])
            filled += len(part)
        start += size
    return order


def one_source_order(sizes: Sequence[int], batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Order all samples once, in batches of one source each, the batches of all sources shuffled.

    Args:
        sizes: Records of each source; they are numbered one source after the other.
        batch_size: Samples of a batch of all processes together.
        seed: The seed.
        epoch: The epoch.

    Returns:
        (n,) int64 record numbers. Samples that do not fill a whole batch of their source come last, mixed.
    """
    batches, rest = [], []
    start = 0
    for source, size in enumerate(sizes):
        order = start + np.random.default_rng((seed, 1 + source, epoch)).permutation(size)
        whole = size // batch_size * batch_size
        batches.append(order[:whole].reshape(-1, batch_size))
        rest.append(order[whole:])
        start += size
    whole_batches, last = np.concatenate(batches), np.concatenate(rest)
    rng = np.random.default_rng((seed, epoch))
    shuffled = whole_batches[rng.permutation(len(whole_batches))].ravel()
    return np.concatenate([shuffled, last[rng.permutation(len(last))]])


def _repeated(size: int, count: int, seed: int, source: int, epoch: int) -> Iterator[np.ndarray]:
    """Yield items `epoch * count` to `(epoch + 1) * count` of an endless sequence of permutations of a source."""
    first, last = epoch * count, (epoch + 1) * count
    for number in range(first // size, (last - 1) // size + 1) if count else ():
        order = np.random.default_rng((seed, 1 + source, number)).permutation(size)
        yield order[max(first - number * size, 0) : last - number * size]


def _picked(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return `values[places]`, written over `places`: a third array of millions of records would cost memory."""
    for start in range(0, len(places), _PICKED):
        places[start : start + _PICKED] = values[places[start : start + _PICKED]]
    return places


def apportion(weights: Sequence[float], n_samples: int) -> np.ndarray:
    """Return integers in the proportions of the weights that add up to `n_samples` (largest remainders)."""
    exact = np.asarray(weights, float) / np.sum(weights) * n_samples
    counts: np.ndarray = np.floor(exact).astype(np.int64)
    left = n_samples - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[:left]] += 1
    return counts


def tempered(weights: Sequence[float], temperature: float) -> list[float]:
    """Return shares proportional to `weight ** (1 / temperature)`: 1 gives the weights, more evens them out."""
    logs = np.log(np.asarray(weights, float)) / temperature
    shares = np.exp(logs - logs.max())
    return [float(share) for share in shares / shares.sum()]


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, batch_size: int, seed: int, epoch: int
) -> np.ndarray:
    """Put samples of similar length into the same batch; the batches stay in random order.

    Args:
        order: (n,) the samples in random order.
        lengths: Length of every sample, by number.
        batch_size: Samples of a batch of all processes together.
        seed: The seed.
        epoch: The epoch.

    Returns:
        (n,) the same samples. The batch with the longest one comes first, so that a run which does not fit into memory
        fails at its first step.
    """
    window = batch_size * MEGABATCHES
    ordered = np.empty_like(order)
    for start in range(0, len(order), window):
        part = order[start : start + window]
        ordered[start : start + window] = part[np.argsort(-lengths[part], kind="stable")]
    n_whole = len(ordered) // batch_size
    if not n_whole:
        return ordered
    batches = ordered[: n_whole * batch_size].reshape(n_whole, batch_size)
    longest = int(np.argmax(lengths[batches[:, 0]]))  # the first of a batch is its longest
    shuffled = np.random.default_rng((seed, epoch, 1)).permutation(n_whole)
    shuffled = np.concatenate([[longest], shuffled[shuffled != longest]])
    return np.concatenate([batches[shuffled].ravel(), ordered[n_whole * batch_size :]])


@dataclass(frozen=True, eq=False)
class SampleOrder:
    """The order of a data set's samples in any epoch.

    Attributes:
        sizes: Records of each source.
        weights: Shares of the sources; None visits every record once an epoch.
        lengths: Gives the length of every record in an epoch, to group by; None does not group.
        batch_size: Samples of a forward pass of all processes together, for grouping.
    """

    sizes: Sequence[int]
    weights: Sequence[float] | None = None
    lengths: Lengths | None = None
    batch_size: int = 1

    def __call__(self, seed: int, epoch: int) -> np.ndarray:
        """Return the record numbers of an epoch, as many as there are records."""
        if self.weights is None:
            order = epoch_order(sum(self.sizes), seed, epoch)
        else:
            order = mixture_order(self.sizes, self.weights, seed, epoch)
        if self.lengths is None:
            return order
        return group_by_length(order, self.lengths(epoch), self.batch_size, seed, epoch)
