"""What a stage is going to cost, before it is run: `alm train CONFIG --dry-run`.

Counts come from the config and the data, time and FLOPs from a few real steps on the first batches. Nothing is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from alm.common.errors import ConfigError
from alm.data.sources import open_records
from alm.generation import pick_device
from train.data.sampling import EpochBatches
from train.engine.ranks import world_size
from train.settings import TrainSettings
from train.tune.conversations import ClipAudio

_TIMED_STEPS = 2
_ADAM_BYTES = 8  # two float32 moments per parameter


@dataclass(frozen=True)
class Plan:
    """A stage in numbers.

    Attributes:
        stage: Its name.
        samples: Training samples.
        global_batch: Samples per optimiser step, over all processes.
        steps: Optimiser steps.
        parameters: All parameters.
        trainable: Those that train.
        state_bytes: Weights, gradients and optimiser of one process without ZeRO; activations come on top.
        peak_bytes: Largest GPU memory of the calibration (with gradients, without optimiser); None on a CPU.
        tokens: LLM tokens of the whole run, prompts, audio and answers; None where no LLM is trained.
        flops: Floating-point operations of the whole run (matrix products, as PyTorch counts them).
        seconds: Expected time on this device with this many processes, all equally fast; data loading excluded.
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

    def __str__(self) -> str:
        epochs = self.steps * self.global_batch / self.samples
        lines = {
            "trainable parameters": f"{self.trainable:,} of {self.parameters:,}",
            "samples": f"{self.samples:,}",
            "steps": f"{self.steps:,} of {self.global_batch} samples ({epochs:.2f} epochs)",
            "tokens": "-" if self.tokens is None else f"about {self.tokens:,}",
            "memory": f"{_giga(self.state_bytes)} GB for weights, gradients and AdamW; activations on top"
            + ("" if self.peak_bytes is None else f" (calibration's peak: {_giga(self.peak_bytes)} GB)"),
            "FLOPs": f"{self.flops:.3g}",
            "expected time": f"{_duration(self.seconds)} ({self.seconds / self.steps:.3g} s a step), without loading",
        }
        width = max(len(name) for name in lines)
        return "\n".join([f"stage {self.stage}", *(f"  {name:<{width}}  {v}" for name, v in lines.items())])


def plan(settings: TrainSettings) -> Plan:
    """Build the stage's model and data, and try a few steps; no run directory is touched.

    Raises:
        ConfigError: A stage that cannot be planned.
        UserError: Whatever would end the run before its first step.
    """
    from transformers import set_seed

    set_seed(settings.run.seed)
    builders: dict[str, Callable[..., Any]] = {"pretrain": _pretrain, "align": _tune, "instruct": _tune}
    if settings.stage not in builders:
        raise ConfigError(f"stage: '{settings.stage}' has no dry run; it is for {', '.join(builders)}")
    model, dataset, collate = builders[settings.stage](settings)
    world, optim = world_size(), settings.optim
    batches = EpochBatches(dataset, optim.batch_size, settings.run.seed)
    first = [collate([dataset[i] for i in batches.batch(n)]) for n in range(min(_TIMED_STEPS, len(batches)))]
    seconds, flops, peak = _calibrate(model, first)
    passes = optim.steps * optim.accumulation
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    held = sum(p.numel() * p.element_size() for p in parameters)
    held += sum(p.numel() * (p.element_size() + _ADAM_BYTES) for p in trainable)
    # packed rows have no mask, and are nearly full
    per_pass = [
        int(batch["attention_mask"].sum()) if "attention_mask" in batch else batch["input_ids"].numel()
        for batch in first
        if "input_ids" in batch
    ]
    return Plan(
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
    )


def _tune(settings: TrainSettings) -> tuple[nn.Module, Any, Callable[..., dict[str, Tensor]]]:
    from train.tune.stage import starting_model, training_data

    records = open_records(settings.data.train)
    model, processor = starting_model(settings)
    model.set_policy(settings.policy)
    return model, *training_data(settings, records, processor, ClipAudio(processor.sample_rate))


def _pretrain(settings: TrainSettings) -> tuple[nn.Module, Any, Callable[..., dict[str, Tensor]]]:
    from train.pretrain.clips import collate_clips
    from train.pretrain.stage import starting_point

    return *starting_point(settings), collate_clips


def _calibrate(model: nn.Module, batches: list[dict[str, Tensor]]) -> tuple[float, float, int | None]:
    """Seconds and FLOPs of a forward and backward pass, and the GPU's peak in bytes."""
    from torch.utils.flop_counter import FlopCounterMode

    device = pick_device()
    model.to(device).train()
    cuda = device.type == "cuda"
    times = []
    counter = FlopCounterMode(display=False)
    for number in range(_TIMED_STEPS + 1):  # the first one counts and warms up
        batch = {key: value.to(device) for key, value in batches[number % len(batches)].items()}
        if cuda:
            torch.cuda.synchronize()
        started = time.perf_counter()
        if number == 0:
            with counter:
                model(**batch)["loss"].backward()
        else:
            model(**batch)["loss"].backward()
        if cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
        model.zero_grad()
    peak = torch.cuda.max_memory_allocated() if cuda else None
    return sum(times[1:]) / _TIMED_STEPS, float(counter.get_total_flops()), peak


def _giga(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.3g}"


def _duration(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60:02d} min" if hours else f"{rest // 60} min {rest % 60:02d} s"
