"""The loss scale of fp16 training: accelerate's scaler, and the steps that it skips.

In float16 small gradients become 0, so the loss is multiplied before the backward pass. If a gradient is then not
finite, the scaler skips the optimiser's step and halves the scale; the schedule of the learning rate does not advance.
After 2,000 steps without an overflow the scale is doubled.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler

_SKIPPED = "skipped_steps"


class LossScale:
    """The scaler of an accelerator with fp16.

    accelerate makes one for accelerators alone, and on a CPU it trains in fp32 without saying so. There, PyTorch's
    scaler for CPUs is used.

    Args:
        accelerator: An `accelerate.Accelerator` with `mixed_precision="fp16"`, before it prepares anything.

    Attributes:
        skipped_steps: Steps that the scaler has skipped because of an overflow.
    """

    def __init__(self, accelerator: Any) -> None:
        if accelerator.scaler is None:
            accelerator.scaler = GradScaler("cpu")
            accelerator.native_amp = True
        self.skipped_steps = 0
        self._accelerator = accelerator
        self._kept: float | None = None

    @property
    def value(self) -> float:
        """The current scale; on an accelerator this waits for it."""
        return float(self._accelerator.scaler.get_scale())

    @staticmethod
    def take(optimizer: torch.optim.Optimizer) -> None:
        """Let the scaler, not a fused optimiser, skip steps: accelerate does not notice what a fused one skips.

        It would advance the schedule of the learning rate.

        Args:
            optimizer: The optimiser, or accelerate's wrapper around it.
        """
        inner: Any = getattr(optimizer, "optimizer", optimizer)
        if getattr(inner, "_step_supports_amp_scaling", False):
            inner._step_supports_amp_scaling = False

    def unscale(self) -> None:
        """Divide the gradients of a step by the scale, once."""
        self._accelerator.unscale_gradients()

    def skip(self, model: nn.Module) -> None:
        """Make the scaler skip this step, for another reason than an overflow: the scale stays as it is.

        Args:
            model: Its gradients are replaced by one that is not finite.
        """
        model.zero_grad()
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        first.grad = torch.full_like(first, torch.inf)
        self._accelerator.scaler.scale(
            torch.zeros((), device=first.device)
        )  # makes the scale, in a run's first step
        self.keep()

    def keep(self) -> None:
        """Keep the scale of this step, although the scaler will skip it."""
        self._kept = self.value

    def end_step(self) -> None:
        """Count a step that was skipped; call it after the optimiser."""
        if self._kept is not None:
            self._accelerator.scaler.update(self._kept)
            self._kept = None
        elif self._accelerator.optimizer_step_was_skipped:
            self.skipped_steps += 1

    def log_line(self) -> dict[str, float]:
        """Scale and number of skipped steps, for the log."""
        return {"loss_scale": self.value, _SKIPPED: self.skipped_steps}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold."""
        return {**self._accelerator.scaler.state_dict(), _SKIPPED: self.skipped_steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.skipped_steps = int(state[_SKIPPED])
        self._accelerator.scaler.load_state_dict(state)
