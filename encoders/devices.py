"""The device of this process: an accelerator of PyTorch (CUDA, XPU, NPU, MPS) where there is one, else the CPU.

Memory functions of `torch.accelerator` fail on MPS in PyTorch 2.11, so those of the device's own module are called.
ACCELERATE_USE_CPU, which `accelerate launch --cpu` sets, keeps everything on the CPU.
"""

from __future__ import annotations

import logging
import os
from functools import cache
from typing import Any

import torch
import torch.distributed as dist

from alm.common.processes import is_main_process, local_rank, world_size

KINDS = ("cuda", "xpu", "npu", "mps")
"""Types of device that are used; each is also a module of torch with that device's functions."""

_USE_CPU = "ACCELERATE_USE_CPU"
_TRUE = ("1", "true", "t", "yes", "y", "on")  # as accelerate and transformers read the variable
# What accelerate lets the processes of a launch communicate by; there is nothing for MPS.
_COLLECTIVES = {"cuda": "nccl", "xpu": "xccl", "npu": "hccl"}

logger = logging.getLogger(__name__)


def accelerator() -> torch.device | None:
    """The accelerator that this process uses, without an index; None: the CPU.

    Several processes use the CPU if their accelerator cannot carry messages between them: MPS, or XPU without xccl.
    """
    if os.environ.get(_USE_CPU, "").lower() in _TRUE:
        return None
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is None or found.type not in KINDS:
        return None
    if world_size() > 1 and not has_collectives(found):
        _warn_of_cpu(found.type, world_size())
        return None
    return found


@cache
def _warn_of_cpu(kind: str, n_processes: int) -> None:
    if is_main_process():
        logger.warning("%s serves a single process here; the %d processes use the CPU", kind, n_processes)


def has_collectives(device: torch.device) -> bool:
    """Whether processes with such devices can exchange tensors that are on them."""
    kind = _COLLECTIVES.get(device.type)
    return kind is not None and (device.type != "xpu" or dist.is_backend_available(kind))


def pick_device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return accelerator() or torch.device("cpu")


def process_device() -> torch.device:
    """Like `pick_device`, but each process of a launch gets its own device, by LOCAL_RANK.

    Processes share devices if a machine has fewer devices than processes.
    """
    found = accelerator()
    if found is None or world_size() == 1:
        return pick_device()
    return torch.device(found.type, local_rank() % max(1, torch.accelerator.device_count()))


def pins_memory() -> bool:
    """Whether loaders should put batches into pinned memory, from which copies to the device are faster."""
    found = accelerator()
    return found is not None and found.type != "mps"


def synchronise() -> None:
    """Wait until the accelerator has finished what was started; nothing on the CPU."""
    if (module := _module()) is not None:
        module.synchronize()


def empty_cache() -> None:
    """Give memory back that the accelerator's allocator holds and no tensor uses; nothing on the CPU."""
    if (module := _module()) is not None:
        module.empty_cache()


def peak_memory_bytes() -> int | None:
    """Most bytes that this process' tensors had on the accelerator so far; None on the CPU, and on MPS.

    MPS does not count them.
    """
    peak = getattr(_module(), "max_memory_allocated", None)
    return None if peak is None else int(peak())


def device_names() -> list[str]:
    """Names of this machine's accelerators, for records; none on the CPU."""
    found = accelerator()
    if found is None:
        return []
    if found.type == "mps":
        return [torch.backends.mps.get_name()]
    return [str(_module().get_device_name(index)) for index in range(torch.accelerator.device_count())]


def lost_in_fork() -> bool:
    """Whether an accelerator was initialised before this process was forked, so that it cannot be used here."""
    checks = (getattr(getattr(torch, kind, None), "_is_in_bad_fork", None) for kind in KINDS)
    return any(check() for check in checks if callable(check))


def _module() -> Any:
    """The module of the accelerator, for example `torch.cuda`; None on the CPU."""
    found = accelerator()
    return None if found is None else torch.get_device_module(found)
