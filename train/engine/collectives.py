"""Sums and stacks over all processes, with gradients; in a single process they cost nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_world() -> tuple[int, int]:
    """This process's number and how many there are."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set on any process; every process must call this with as many flags."""
    if rank_and_world()[1] == 1:
        return list(flags)
    together = torch.tensor(list(flags), dtype=torch.int32, device=device)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return [bool(flag) for flag in together.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """A picklable value of every process, in the order of ranks; every process must call this."""
    rank, world = rank_and_world()
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Stack a tensor of every process: (...) -> (world, ...); gradients flow back to where each part came from.

    Every process must bring the same shape.
    """
    return _Gather.apply(tensor) if rank_and_world()[1] > 1 else tensor[None]


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums, over processes, the gradient of this process's part."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed[dist.get_rank()]


def sum_with_gradient(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes; the gradient is the sum of theirs, as it reaches every one of them."""
    return _Sum.apply(tensor) if rank_and_world()[1] > 1 else tensor


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].contiguous().clone()
        dist.all_reduce(total)
        return total
