"""Generates answers batch by batch, with smaller batches when memory runs out."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from encoders.devices import empty_cache

logger = logging.getLogger(__name__)

Answered = tuple[Any, ...]
"""(index, answer) as a generator of answers yields it."""


def with_smaller_batches(
    answer: Callable[[Sequence[int], int], Iterator[Answered]], n_samples: int, batch_size: int
) -> Iterator[tuple[Answered, int]]:
    """Answer all samples; when memory runs out, continue with the unanswered ones in batches of half the size.

    Args:
        answer: Given the indices of samples and a batch size, yields (position among these, …) in any order.
        n_samples: Samples 0 … n_samples - 1 are answered.
        batch_size: The first batch size.

    Yields:
        ((index, …), the batch size in use), every sample exactly once.

    Raises:
        torch.OutOfMemoryError: Memory does not suffice for one sample.
    """
    left = list(range(n_samples))
    while left:
        done = set()
        try:
            for position, *rest in answer(left, batch_size):
                index = left[position]
                done.add(index)
                yield (index, *rest), batch_size
            return
        except RuntimeError as error:
            if not _is_out_of_memory(error) or batch_size == 1:
                raise
        batch_size = max(1, batch_size // 2)
        logger.warning("out of memory: continuing with batches of %d", batch_size)
        empty_cache()
        left = [index for index in left if index not in done]


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the CPU the allocator raises a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
