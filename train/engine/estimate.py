"""Estimate the cost of a stage before it runs: `alm train CONFIG --dry-run`.

Counts come from the config and the data; time and FLOPs come from a few real steps on the first batches. Other work of
a stage (loading its parts, encoding clips, validation) is measured on a few clips and batches, and scaled to the whole
run. Nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from alm.common.processes import world_size
from encoders.devices import peak_memory_bytes, pick_device, synchronise
from train.data.sampling import EpochBatches
from train.engine.arguments import counted
from train.engine.throughput import n_llm_tokens
from train.settings import TrainSettings

_TIMED_STEPS = 2
_ADAM_BYTES = 8  # two float32 moments per parameter


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a stage.

    Attributes:
        stage: Its name.
        samples: Training samples.
        global_batch: Samples per optimiser step, over all processes.
        steps: Optimiser steps.
        parameters: All parameters.
        trainable: Trainable parameters.
        state_bytes: Weights, gradients and optimiser of one process without ZeRO; activations come on top.
        peak_bytes: Most memory of the calibration on the accelerator (with gradients, without optimiser); None on a CPU
            and on MPS.
        tokens: LLM tokens of the whole run, prompts, audio and answers; None for stages without an LLM.
        flops: Floating-point operations of the whole run (matrix products, as PyTorch counts them).
        seconds: Expected time on this device with this many processes, all equally fast.
        other_s: The part of `seconds` that is not spent in steps, by kind of work.
    """

    stage: str
    samples: int
    global_batch: int
    steps: int
    parameters: int
    trainable: int
    state_bytes: int
    peak_bytes: int | None
    tokens: int | None
    flops: float
    seconds: float
    other_s: dict[str, float] = field(default_factory=dict)

    def with_other(self, **seconds: float) -> CostEstimate:
        """A copy with more time besides the steps; underscores in the names are read as spaces."""
        more = {name.replace("_", " "): value for name, value in seconds.items() if value > 0}
        return replace(self, seconds=self.seconds + sum(more.values()), other_s={**self.other_s, **more})

    def __str__(self) -> str:
        epochs = self.steps * self.global_batch / self.samples
        step_s = (self.seconds - sum(self.other_s.values())) / self.steps
        spent = [
            f"{self.steps:,} steps of {step_s:.3g} s",
            *(f"{n} {_duration(t)}" for n, t in self.other_s.items()),
        ]
        lines = {
            "trainable parameters": f"{self.trainable:,} of {self.parameters:,}",
            "samples": f"{self.samples:,}",
            "steps": f"{self.steps:,} of {self.global_batch} samples ({epochs:.2f} epochs)",
            "tokens": "-" if self.tokens is None else f"about {self.tokens:,}",
            "memory": f"{_giga(self.state_bytes)} GB for weights, gradients and AdamW; activations on top"
            + ("" if self.peak_bytes is None else f" (calibration's peak: {_giga(self.peak_bytes)} GB)"),
            "FLOPs": f"{self.flops:.3g}",
            "expected time": f"{_duration(self.seconds)} ({', '.join(spent)})",
        }
        width = max(len(name) for name in lines)
        return "\n".join([f"stage {self.stage}", *(f"  {name:<{width}}  {v}" for name, v in lines.items())])


def estimate_cost(
    settings: TrainSettings,
    model: nn.Module,
    dataset: Any,
    collate: Callable[..., dict[str, Tensor]],
    drop_last: bool = False,
) -> CostEstimate:
    """Try a few steps of a stage; no run directory is touched.

    Args:
        settings: The stage's config.
        model: The model with its trainable parts.
        dataset: The samples.
        collate: Makes batches of samples.
        drop_last: Whether the run skips the last batch of an epoch if it is not full.

    Raises:
        UserError: Whatever would end the run before its first step.
    """
    world = world_size()
    optim = counted(settings.optim, len(dataset), world, drop_last)
    batches = EpochBatches(dataset, optim.batch_size, settings.run.seed)
    first = [collate([dataset[i] for i in batches.batch(n)]) for n in range(min(_TIMED_STEPS, len(batches)))]
    seconds, flops, peak, compiling = _calibrate(model, first, settings.run.compile)
    # Worker processes would load batches while steps run. This batch was made before, so its features are cached.
    if not settings.data.workers:
        started = time.perf_counter()
        collate([dataset[i] for i in batches.batch(0)])
        seconds += time.perf_counter() - started
    passes = optim.steps * optim.accumulation
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    held = sum(p.numel() * p.element_size() for p in parameters)
    held += sum(p.numel() * (p.element_size() + _ADAM_BYTES) for p in trainable)
    per_pass = [int(tokens) for batch in first if (tokens := n_llm_tokens(batch)) is not None]
    return CostEstimate(
        stage=settings.stage,
        samples=len(dataset),
        global_batch=optim.batch_size * optim.accumulation * world,
        steps=optim.steps,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        state_bytes=held,
        peak_bytes=peak,
        tokens=round(sum(per_pass) / len(per_pass) * passes * world) if per_pass else None,
        flops=flops * passes * world,
        seconds=seconds * passes,
    ).with_other(compiling=compiling)


def _calibrate(
    model: nn.Module, batches: list[dict[str, Tensor]], compiled: bool
) -> tuple[float, float, int | None, float]:
    """Seconds and FLOPs of a forward and backward pass, the device's peak in bytes, and seconds of the compiler."""
    from torch.utils.flop_counter import FlopCounterMode

    device = pick_device()
    model.to(device).train()

    def passed(number: int) -> float:
        batch = {key: value.to(device) for key, value in batches[number % len(batches)].items()}
        synchronise()
        started = time.perf_counter()
        model(**batch)["loss"].backward()
        synchronise()
        seconds = time.perf_counter() - started
        model.zero_grad()
        return seconds

    counter = FlopCounterMode(display=False)  # which does not see the products of compiled code
    with counter, torch.compiler.set_stance("force_eager") if compiled else nullcontext():
        passed(0)  # which warms up, too
    warm_up = sum(passed(number) for number in range(len(batches))) if compiled else 0.0
    seconds = sum(passed(number) for number in range(1, _TIMED_STEPS + 1)) / _TIMED_STEPS
    compiling = max(0.0, warm_up - len(batches) * seconds) if compiled else 0.0
    return seconds, float(counter.get_total_flops()), peak_memory_bytes(), compiling


def _giga(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
