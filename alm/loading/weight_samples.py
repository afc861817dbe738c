"""Detects changes of an LLM's weights since it was loaded."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WeightSamples:
    """A few values of every tensor of an LLM, to detect later changes of its weights.

    Args:
        llm: The LLM, as it was loaded.
    """

    # Sampled values of a float tensor, and of a packed 4 or 8 bit tensor: a small change may leave most codes equal.
    _COUNT, _PACKED = 64, 4096

    def __init__(self, llm: nn.Module) -> None:
        self._values = self._taken(llm)

    def _taken(self, llm: nn.Module) -> dict[str, Tensor]:
        values = {}
        for key, value in llm.state_dict().items():
            packed = key.endswith(".weight") and value.dtype in (torch.uint8, torch.int8)
            # `.weight.` is inside the names of a packed weight's scales, which are not sampled.
            whole = packed or (value.is_floating_point() and ".weight." not in key)
            sharded = hasattr(value, "device_mesh")  # by FSDP2: reading its values waits for all processes
            if whole and ".lora_" not in key and not value.is_meta and not sharded and value.numel():
                step = -(-value.numel() // (self._PACKED if packed else self._COUNT))
                values[key.replace(".base_layer.", ".")] = value.reshape(-1)[::step].cpu().clone()
        return values

    def differ(self, llm: nn.Module) -> bool:
        """Whether a weight has changed; a cast of the whole LLM is no change, nor is a shard on another process."""
        for key, now in self._taken(llm).items():
            before = self._values.get(key, now)
            casts = (before, before.bfloat16(), before.half()) if before.is_floating_point() else (before,)
            if before.shape == now.shape and not any(torch.equal(now, one.to(now.dtype)) for one in casts):
                return True
        return False
