"""How fast a run trains: tokens and audio per second, share of the device's peak, memory, and waiting for data."""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from alm.head import IGNORE
from encoders import devices
from encoders.devices import device_names, pick_device, synchronise
from train.processes import gather_objects

AUDIO_S = "audio_s"  # a batch's seconds of audio; `train.engine.trainer` takes it out before the model sees the batch
# What a line of the log says besides the loss.
FIGURES = (
    "tokens_per_s",
    "supervised_tokens_per_s",
    "audio_hours_per_hour",
    "mfu",
    "memory_gb",
    "loader_wait",
)
_PRODUCT = 1024  # rows and columns of the matrices with which a peak is measured
# Dense matrix products of a GPU in bfloat16, in 1e12 operations per second, from the makers' data sheets.
_DATA_SHEETS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 150.0,
    "A10": 125.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}


def n_llm_tokens(batch: Mapping[str, Tensor]) -> Tensor | None:
    """Tokens of a batch without padding, audio included: a scalar; None for a model without an LLM."""
    if "input_ids" not in batch:
        return None
    mask = batch.get("attention_mask")
    if (
        mask is None or mask.dim() != 2
    ):  # packed and shared rows, and masks (B, 1, N, N) of rows that are nearly full
        return torch.tensor(batch["input_ids"].numel())
    return mask.sum()


@dataclasses.dataclass
class _Counts:
    """Counts since the last line of the log; tensors stay on their device until the line is written."""

    seconds: float = 0.0
    waited_s: float = 0.0
    tokens: Any = 0
    supervised: Any = 0
    audio_s: Any = 0.0

    def __add__(self, other: _Counts) -> _Counts:
        fields = [field.name for field in dataclasses.fields(self)]
        return _Counts(**{name: getattr(self, name) + getattr(other, name) for name in fields})


class Throughput:
    """Counts the batches of this process, and times the steps: waiting for data, forward, backward and optimiser.

    Validation and checkpoints are not part of the time.

    Args:
        precision: `fp32`, or the precision of mixed-precision training; the device's peak is that of this precision.
    """

    def __init__(self, precision: str) -> None:
        self.precision = precision
        self.flops_per_token: float | None = None
        self._line, self._run = _Counts(), _Counts()
        self._since = 0.0

    def start_step(self) -> None:
        """Start timing a step, before its batches have arrived."""
        self._since = time.perf_counter()

    def batches_are_here(self, batches: list[dict[str, Any]]) -> None:
        """Count the batches of a step, which have just arrived."""
        self._line.waited_s += time.perf_counter() - self._since
        for batch in batches:
            tokens, labels, audio_s = n_llm_tokens(batch), batch.get("labels"), batch.pop(AUDIO_S, None)
            if tokens is not None and labels is not None:
                self._line.tokens += tokens
                self._line.supervised += (labels[:, 1:] != IGNORE).sum()
            if audio_s is not None:
                self._line.audio_s += audio_s.sum()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the work inside the block from the step's time."""
        started = time.perf_counter()
        yield
        self._since += time.perf_counter() - started

    def end_step(self) -> None:
        """End the time of a step."""
        self._line.seconds += time.perf_counter() - self._since

    def take_line(self) -> dict[str, float]:
        """Figures of all processes since the last line; every process must call this."""
        line, self._line = self._line, _Counts()
        self._run += line
        return self._figures(line)

    def whole_run(self) -> dict[str, float]:
        """Figures of all processes since this run was started or resumed; every process must call this."""
        return self._figures(self._run + self._line)

    def _figures(self, counts: _Counts) -> dict[str, float]:
        mine = {name: float(value) for name, value in dataclasses.asdict(counts).items()} | {
            "memory_gb": peak_memory_bytes() / 1e9,
            "peak": self._peak(),
        }
        every = gather_objects(mine)
        seconds = max(float(one["seconds"]) for one in every)
        found = {"memory_gb": max(one["memory_gb"] for one in every)}
        if not seconds:
            return found
        tokens, supervised, audio_s = (
            sum(one[name] for one in every) for name in ("tokens", "supervised", "audio_s")
        )
        if audio_s:
            found["audio_hours_per_hour"] = audio_s / seconds
        if tokens:
            found |= {"tokens_per_s": tokens / seconds, "supervised_tokens_per_s": supervised / seconds}
        if tokens and self.flops_per_token is not None:
            found["mfu"] = tokens * self.flops_per_token / seconds / sum(one["peak"] for one in every)
        found["loader_wait"] = sum(one["waited_s"] for one in every) / sum(one["seconds"] for one in every)
        return {name: float(f"{value:.4g}") for name, value in found.items()}

    def _peak(self) -> float:
        return peak_flops(self.precision) if self.flops_per_token is not None else 0.0


def summary(figures: Mapping[str, float]) -> str:
    """Figures of a run in one line of words."""
    texts = (
        "{:,.0f} tokens/s",
        "{:,.0f} supervised tokens/s",
        "{:,.1f} hours of audio per hour",
        "{:.1%} of the peak (MFU)",
        "{:.2f} GB at most",
        "{:.0%} of the time waiting for data",
    )
    known = zip(FIGURES, texts, strict=True)
    return ", ".join(text.format(figures[name]) for name, text in known if name in figures)


class _Untracked:
    """Makes an operation counter believe that it is outside of any module."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def step_flops(model: nn.Module, batch: Mapping[str, Any], parts: Iterable[nn.Module]) -> float:
    """Floating-point operations of a forward and backward pass, without recomputation.

    The forward pass runs once, without gradients and dropout. For the backward pass, a module's operations are counted
    once more if its input needs a gradient, and once more if its own weights are trained.

    Args:
        model: The model.
        batch: Its inputs.
        parts: Parts of the model, in the order in which a clip passes them.

    Returns:
        Operations of matrix products, convolutions and attention, as PyTorch counts them.
    """
    from torch.utils.flop_counter import FlopCounterMode

    modes = {module: module.training for module in model.modules()}
    counter = FlopCounterMode(display=False)
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]  # the usual one cannot be used in the modules of FSDP2
    by_module: dict[nn.Module, float] = defaultdict(float)
    open_at: list[int] = []

    def enter(*_: Any) -> None:
        open_at.append(counter.get_total_flops())

    def leave(module: nn.Module, *_: Any) -> None:
        by_module[module] += counter.get_total_flops() - open_at.pop()

    hooks = [module.register_forward_pre_hook(enter) for module in modes]
    hooks += [module.register_forward_hook(leave) for module in modes]
    try:
        model.eval()
        # The counter does not see the products of compiled code.
        with torch.no_grad(), counter, torch.compiler.set_stance("force_eager"):
            model(**batch)
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes.items():
            module.training = mode

    total, flows = float(counter.get_total_flops()), False

    def add_backward(module: nn.Module) -> float:
        """Add a module's operations in the backward pass to the total; return those in the forward pass."""
        nonlocal total, flows
        needs_input, trains = flows, any(p.requires_grad for p in module.parameters(recurse=False))
        inner = sum(add_backward(child) for child in module.children())
        flows = flows or trains  # tokens and positions of an encoder come in behind its first layers
        own = max(by_module[module] - inner, 0.0)
        total += own * (needs_input + trains)
        return own + inner  # the LLM's body and head are called without the LLM around them

    for part in parts:
        add_backward(part)
    return total


@functools.lru_cache
def peak_flops(precision: str) -> float:
    """Peak operations per second of this process's device: from a GPU's data sheet, else measured with a large product.

    Args:
        precision: `fp32`, `bf16` or `fp16`.
    """
    device = pick_device()
    if device.type == "cuda" and precision != "fp32":
        name = device_names()[torch.accelerator.current_device_index()]
        for kind, tera in _DATA_SHEETS.items():
            if kind in name:
                return tera * 1e12
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    left = torch.ones(_PRODUCT, _PRODUCT, dtype=dtype, device=device)
    times = []
    for _ in range(4):
        started = time.perf_counter()
        left @ left
        synchronise()
        times.append(time.perf_counter() - started)
    return 2 * _PRODUCT**3 / min(times)


def peak_memory_bytes() -> int:
    """Largest memory of this process so far: on the accelerator where that counts it, else the process's own."""
    if (on_device := devices.peak_memory_bytes()) is not None:
        return on_device
    try:
        import resource
    except ImportError:  # Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
