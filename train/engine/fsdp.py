"""FSDP2 of the Trainer and accelerate: its options, the blocks that it shards, and gathering of sharded tensors.

Checkpoints hold gathered tensors, as without FSDP.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from alm.common.errors import ConfigError, UserError
from alm.common.processes import is_main_process, world_size
from encoders.devices import accelerator, has_collectives
from train.engine.groups import HasComponents, repeated_blocks

_SWITCH = "ACCELERATE_USE_FSDP"  # set by `accelerate launch`, and by an Accelerator that uses FSDP


def check_launcher() -> None:
    """Refuse FSDP options of `accelerate launch`: they would override the config's.

    Raises:
        ConfigError: The launcher has set them.
    """
    if os.environ.get(_SWITCH, "false").lower() == "true":
        raise ConfigError(
            f"{_SWITCH}: FSDP was chosen in the config of accelerate launch; remove it there and set run.fsdp={{}}"
        )


def check_processes() -> None:
    """Refuse FSDP with a single process, except for one that torchrun started on a GPU, XPU or NPU.

    Raises:
        ConfigError: There is one process.
    """
    device = accelerator()
    launched = "RANK" in os.environ and device is not None and has_collectives(device)
    if world_size() == 1 and not launched:
        raise ConfigError(
            "run.fsdp: splits weights over processes, and there is one; start with torchrun --nproc-per-node N -m alm "
            "train, or set run.fsdp=null"
        )


@contextmanager
def fsdp_switch_restored() -> Iterator[None]:
    """Restore accelerate's FSDP variable after the block, so that later stages in this process do not use FSDP."""
    before = os.environ.get(_SWITCH)
    try:
        yield
    finally:
        os.environ.pop(_SWITCH, None)
        if before is not None:
            os.environ[_SWITCH] = before


def use_on_cpu(accelerator: Any, plugin_arguments: dict[str, Any]) -> None:
    """Enable FSDP2 in an accelerator of CPU processes; by itself it uses FSDP2 only on GPUs, NPUs and the like.

    Args:
        accelerator: An `accelerate.Accelerator` of several CPU processes.
        plugin_arguments: Arguments of its `FullyShardedDataParallelPlugin`.
    """
    from accelerate.state import DistributedType, PartialState
    from accelerate.utils import FullyShardedDataParallelPlugin

    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(**plugin_arguments)
    accelerator.state.distributed_type = DistributedType.FSDP
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP


def block_classes(model: nn.Module) -> list[str]:
    """Class names of the blocks that are sharded one by one: those of the LLM and of the encoder.

    Raises:
        UserError: The LLM is quantised.
    """
    parts = model.components if isinstance(model, HasComponents) else {"": model}
    names: set[str] = set()
    for part in parts.values():
        if getattr(part, "hf_quantizer", None) is not None:
            raise UserError(
                "run.fsdp: the LLM is quantised, and its packed weights cannot be split; remove run.fsdp"
            )
        names |= set(getattr(part, "_no_split_modules", None) or [])
        for one in getattr(part, "named_parts", dict)().values() or [part]:
            names |= {type(block).__name__ for block in repeated_blocks(one)[1]}
    present = {type(module).__name__ for module in model.modules()}
    return sorted(names & present)


def finish_sharding(model: nn.Module) -> None:
    """Make a sharded model load state dicts of whole tensors; also let gloo average gradients.

    Args:
        model: As `Accelerator.prepare` returns it.
    """
    from torch.distributed.fsdp import FSDPModule

    for module in model.modules():
        if isinstance(module, FSDPModule) and dist.get_backend() == "gloo":  # gloo has sums, but no average
            module.set_force_sum_reduction_for_comms(True)
    model.register_load_state_dict_pre_hook(_split)


def _split(module: nn.Module, state_dict: dict[str, Any], *_: Any) -> None:
    own = module.state_dict()
    for key, value in state_dict.items():
        state_dict[key] = sharded_like(value, own.get(key))


def value_of(norm: Any) -> Any:
    """A norm of sharded gradients as a plain tensor; every process must call this."""
    return norm.full_tensor() if isinstance(norm, DTensor) else norm


def whole(values: Any) -> Any:
    """Gather the sharded tensors of a nested structure on the CPU of the main process; the others get empty ones.

    Every process must call this. Other values stay what they are.
    """
    main = is_main_process()

    def gather(value: Any) -> Any:
        if not isinstance(value, DTensor):
            return value
        full = value.full_tensor()
        return full.cpu() if main else full.new_empty(0, device="cpu")

    return tree_map(gather, values)


def sharded_like(value: Tensor, target: Any) -> Tensor:
    """This process's share of a whole tensor; the tensor itself if `target` is not sharded or has another shape.

    Args:
        value: A whole tensor, the same on every process.
        target: The tensor whose sharding is copied, for example a parameter.
    """
    if not isinstance(target, DTensor) or value.shape != target.shape:
        return value
    value = value.to(target.device_mesh.device_type)
    return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)


def sharded_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state dict of an optimiser, each tensor split as its parameter is."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if not any(isinstance(parameter, DTensor) for parameter in parameters):
        return state
    split = {
        index: {
            key: sharded_like(value, parameters[index]) if isinstance(value, Tensor) else value
            for key, value in own.items()
        }
        for index, own in state["state"].items()
    }
    return {**state, "state": split}
