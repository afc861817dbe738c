"""Collectives of a run's processes: barrier, agreement, printing once, and sums and gathers with gradients.

Without a launcher there is one process, and all of this costs nothing. `alm.common.processes` reads rank and world size
from the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from alm.common.errors import UserError
from alm.common.processes import is_main_process, world_size
from encoders.devices import accelerator

_TIMEOUT_S = 1800.0  # the Trainer's default

Result = TypeVar("Result")


def rank_and_world() -> tuple[int, int]:
    """This process's rank and the world size; (0, 1) before the process group is initialised."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def join(timeout_s: float = _TIMEOUT_S) -> None:
    """Initialise the process group, as the Trainer would later; without a launcher there is none.

    `cpu=True` is needed on machines without an accelerator: otherwise accelerate treats each process as the only one.

    Args:
        timeout_s: Seconds that processes wait for each other; only the first call sets it.
    """
    if world_size() > 1:
        from accelerate import PartialState

        PartialState(cpu=accelerator() is None, timeout=timedelta(seconds=timeout_s))


def barrier() -> None:
    """Wait for all processes; the first call joins them."""
    if world_size() > 1:
        from accelerate import PartialState

        join()
        PartialState().wait_for_everyone()


def say(text: str) -> None:
    """Print once, whatever the number of processes."""
    if is_main_process():
        print(text, flush=True)


def on_main(work: Callable[[], Result]) -> Result:
    """Call `work` on the main process only; every process must call this, and gets the result.

    Raises:
        UserError: `work` raised it; every process raises the same error, so that none waits for the others.
    """
    result: Result | None = None
    problem: UserError | None = None
    if is_main_process():
        try:
            result = work()
        except UserError as error:
            problem = error
    barrier()
    problem, result = gather_objects((problem, result))[0]
    if problem is not None:
        raise problem
    shared: Result = result
    return shared


def lost_process(error: Exception) -> bool:
    """Whether an error says that another process of the run has ended, or cannot be reached."""
    if rank_and_world()[1] == 1:
        return False
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and "gloo/transport" in str(error)
    )


def any_process(flags: Sequence[bool], device: torch.device) -> list[bool]:
    """For each flag, whether it is set on any process; every process must call this with as many flags."""
    if rank_and_world()[1] == 1:
        return list(flags)
    together = torch.tensor(list(flags), dtype=torch.int32, device=device)
    dist.all_reduce(together, dist.ReduceOp.MAX)
    return [bool(flag) for flag in together.tolist()]


def gather_objects(value: Any) -> list[Any]:
    """A picklable value of every process, in the order of ranks; every process must call this."""
    world = rank_and_world()[1]
    if world == 1:
        return [value]
    values: list[Any] = [None] * world
    dist.all_gather_object(values, value)
    return values


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Stack a tensor of every process: (...) -> (world, ...); each process gets the gradient of its own part.

    Every process must pass the same shape.
    """
    return _Gather.apply(tensor) if rank_and_world()[1] > 1 else tensor[None]  # type: ignore[no-untyped-call]


class _Gather(torch.autograd.Function):
    """All-gather whose backward sums the gradient of this process's part over all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])[dist.get_rank()]


def sum_with_gradient(tensor: Tensor) -> Tensor:
    """Sum a tensor over all processes; its gradient is the sum of the gradients on all processes."""
    return _Sum.apply(tensor) if rank_and_world()[1] > 1 else tensor  # type: ignore[no-untyped-call]


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _summed(tensor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return _summed(grads[0])


def _summed(tensor: Tensor) -> Tensor:
    total = tensor.contiguous().clone()
    dist.all_reduce(total)
    return total
