"""The device of a process: one of each kind, as PyTorch reports it. None of the devices is needed.

`torch.accelerator.current_accelerator` is the seam: it returns the type of a device that is not there.
"""

import dataclasses
import logging
import random
import re
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from alm.common.errors import ConfigError, UserError
from encoders import AudioTokens, devices
from encoders.zoo.fusion import _at_rate
from eval.runner import batching
from eval.runner.process_shards import Shards
from train.engine import fsdp
from train.engine.arguments import check_arguments
from train.engine.throughput import peak_memory_bytes
from train.engine.trainer import StageTrainer
from train.pipeline.rundir import environment
from train.settings import LoopSettings, RunSettings
from train.settings.optim import OptimSettings

ROOT = Path(__file__).parents[1]
KINDS = ("cuda", "xpu", "npu", "mps")


class _Functions:
    """The functions of a device's module in torch, of those that the kind of device has; they note their calls."""

    def __init__(self, kind):
        self.called = []
        self.empty_cache = lambda: self.called.append("empty_cache")
        self.synchronize = lambda: self.called.append("synchronize")
        if kind != "mps":  # torch.mps has neither
            self.max_memory_allocated = lambda: 7_000
            self.get_device_name = lambda index: f"{kind.upper()} {index}"


@pytest.fixture
def one_of(monkeypatch):
    """Make PyTorch report two devices of a kind; returns the module of that device."""
    devices._warn_of_cpu.cache_clear()
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)

    def report(kind):
        device = None if kind is None else types.SimpleNamespace(type=kind)
        if kind in ("cuda", "xpu", "mps"):
            device = torch.device(kind)
        functions = _Functions(kind)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: device)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1 if kind == "mps" else 2)
        monkeypatch.setattr(torch, "get_device_module", lambda found: functions)
        monkeypatch.setattr(torch.backends.mps, "get_name", lambda: "Apple M3")
        return functions

    return report


def launched(monkeypatch, rank, world):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, str(rank))
    monkeypatch.setenv("WORLD_SIZE", str(world))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_accelerator_is_used(kind, one_of):
    functions = one_of(kind)
    assert devices.accelerator().type == devices.pick_device().type == devices.process_device().type == kind
    devices.synchronise()
    devices.empty_cache()
    assert functions.called == ["synchronize", "empty_cache"]
    peak = None if kind == "mps" else 7_000
    assert devices.peak_memory_bytes() == peak
    assert (
        peak_memory_bytes() == 7_000 if peak else peak_memory_bytes() > 1e6
    )  # of the process, where nothing counts
    assert devices.device_names() == (
        ["Apple M3"] if kind == "mps" else [f"{kind.upper()} {i}" for i in (0, 1)]
    )
    assert devices.pins_memory() == (kind != "mps")
    facts = environment()
    assert (facts["accelerator"], facts["devices"]) == (kind, devices.device_names())
    assert facts["cuda"] == (torch.version.cuda if kind == "cuda" else None)


@pytest.mark.parametrize("kind", [None, "mtia"])
def test_without_one_everything_is_on_the_cpu(kind, one_of):
    functions = one_of(kind)
    assert devices.accelerator() is None and devices.pick_device() == torch.device("cpu")
    devices.synchronise()
    devices.empty_cache()
    assert functions.called == [] and devices.peak_memory_bytes() is None and devices.device_names() == []
    assert not devices.pins_memory() and Shards.device() is None
    facts = environment()
    assert (facts["accelerator"], facts["cuda"], facts["devices"]) == (None, None, [])


@pytest.mark.parametrize(("value", "used"), [("1", False), ("True", False), ("false", True), ("", True)])
def test_a_variable_keeps_everything_on_the_cpu(value, used, one_of, monkeypatch):
    one_of("mps")
    monkeypatch.setenv("ACCELERATE_USE_CPU", value)
    assert (devices.accelerator() is not None) == used


@pytest.mark.parametrize("kind", ["cuda", "npu"])
def test_each_process_of_a_launch_has_its_own_device(kind, one_of, monkeypatch):
    one_of(kind)
    made = []
    monkeypatch.setattr(devices.torch, "device", lambda kind, index=None: made.append((kind, index)) or kind)
    for rank in range(3):
        launched(monkeypatch, rank, 3)
        devices.process_device()
    assert made == [(kind, 0), (kind, 1), (kind, 0)]  # the third process shares the first device


def test_shards_put_their_models_on_their_own_devices(one_of, monkeypatch):
    one_of("cuda")
    assert Shards.device() is None  # the loader decides
    launched(monkeypatch, 1, 2)
    assert Shards.device() == "cuda:1"


def test_several_processes_use_the_cpu_where_their_accelerator_cannot_join_them(one_of, monkeypatch, caplog):
    launched(monkeypatch, 0, 2)
    one_of("mps")
    launched(monkeypatch, 0, 2)
    with caplog.at_level(logging.WARNING):
        assert devices.accelerator() is None and devices.process_device() == torch.device("cpu")
        devices.accelerator()
    assert [record.getMessage() for record in caplog.records] == [
        "mps serves a single process here; the 2 processes use the CPU"
    ]
    one_of("xpu")
    launched(monkeypatch, 0, 2)
    for known in ([], ["xccl"]):
        monkeypatch.setattr(torch.distributed, "is_backend_available", known.__contains__)
        assert (devices.accelerator() is not None) == bool(known)


def test_features_that_a_device_does_not_have_are_refused_by_name(one_of, monkeypatch):
    settings = LoopSettings(OptimSettings(), RunSettings(deepspeed="configs/deepspeed/zero1.json"))
    one_of("mps")
    with pytest.raises(
        ConfigError, match=r"^run\.deepspeed: needs CUDA, XPU, NPU or the CPU, and this .* has mps; "
    ):
        check_arguments(settings)
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(ConfigError, match=r"^run\.fsdp: splits weights over processes, and there is one"):
        fsdp.check_processes()
    one_of("xpu")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda name: name == "xccl")
    fsdp.check_processes()


def test_tf32_says_which_device_it_needs():
    settings = LoopSettings(OptimSettings(), RunSettings(trainer={"tf32": True}))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"^run\.trainer: --tf32 requires Ampere .*cuda"):
            check_arguments(settings)


def test_bits_are_refused_on_a_device_without_code_for_them(one_of, monkeypatch, llm_dir):
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from alm.llm import load_llm

    one_of("xpu")
    monkeypatch.setattr(bitsandbytes, "supported_torch_devices", {"cpu", "cuda"})
    with pytest.raises(
        UserError, match=r"^llm bits: bitsandbytes .* has no code for xpu, only for cpu, cuda; "
    ):
        load_llm(str(llm_dir), bits=4)


def test_memory_is_given_back_on_any_device_before_a_smaller_batch(one_of):
    functions = one_of("xpu")

    def answer(left, batch_size):
        if batch_size > 1:
            raise torch.OutOfMemoryError("out of memory")
        yield from ((position,) for position in range(len(left)))

    assert [row for row, _ in batching.with_smaller_batches(answer, 3, 2)] == [(0,), (1,), (2,)]
    assert functions.called == ["empty_cache"]


def test_every_step_seeds_the_generators_of_all_devices(monkeypatch):
    """So a checkpoint needs no generator's state: it is a function of seed, step, micro-batch and process."""
    seeds = {}
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: seeds.setdefault("cuda", seed))
    monkeypatch.setattr(torch.xpu, "manual_seed_all", lambda seed: seeds.setdefault("xpu", seed))
    monkeypatch.setattr(torch.mps, "manual_seed", lambda seed: seeds.setdefault("mps", seed))
    # torch_npu registers `torch.npu` so
    npu = types.SimpleNamespace(
        manual_seed_all=lambda seed: seeds.setdefault("npu", seed), _is_in_bad_fork=lambda: False
    )
    monkeypatch.setattr(torch, torch._C._get_privateuse1_backend_name(), npu, raising=False)
    trainer = types.SimpleNamespace(
        args=types.SimpleNamespace(seed=3, process_index=1),
        state=types.SimpleNamespace(global_step=5),
        _micro=2,
    )
    state = (torch.get_rng_state(), random.getstate(), np.random.get_state())
    try:
        StageTrainer._seed(trainer, "step")
        assert seeds == dict.fromkeys(KINDS, torch.initial_seed())
    finally:
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])


def test_a_fork_notices_an_initialised_accelerator(monkeypatch):
    for kind in ("cuda", "xpu", "mps"):
        monkeypatch.setattr(getattr(torch, kind), "_is_in_bad_fork", lambda: False)
    assert not devices.lost_in_fork()
    monkeypatch.setattr(torch, "npu", types.SimpleNamespace(_is_in_bad_fork=lambda: True), raising=False)
    assert devices.lost_in_fork()


# `torch.cuda`, and why it stands there; everything else asks `encoders.devices`.
CUDA_ONLY = {
    "train/pipeline/rundir.py": "torch.version.cuda: the version of the libraries, for the record",
    "eval/ablation/warm_start.py": "a comment about PyTorch's own variable",
}


def test_nothing_asks_for_cuda_where_another_accelerator_would_do():
    asks = re.compile(r"torch\.(cuda|version\.cuda|mps|xpu|npu)\b|torch\.accelerator\b|['\"]cuda['\"]")
    found = {}
    for package in ("alm", "encoders", "projectors", "train", "eval"):
        for file in sorted((ROOT / package).rglob("*.py")):
            name = file.relative_to(ROOT).as_posix()
            lines = [
                line.strip() for line in file.read_text(encoding="utf-8").splitlines() if asks.search(line)
            ]
            if lines and name not in ("encoders/devices.py", *CUDA_ONLY):
                found[name] = lines
    assert found == {
        "alm/llm.py": [  # releases of bitsandbytes that do not say which devices they know
            'known = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})  # older releases: CUDA'
        ],
        "alm/serving/proxy.py": [  # vLLM chooses its device itself
            "if not torch.accelerator.is_available() and _CPU_CACHE_GIB not in os.environ:"
        ],
        "train/engine/throughput.py": [  # peaks from data sheets of NVIDIA's GPUs
            'if device.type == "cuda" and precision != "fp32":',
            "name = device_names()[torch.accelerator.current_device_index()]",
        ],
    }


def test_nothing_asks_a_device_for_float64():
    """MPS has no float64: a tensor goes to the CPU first."""
    wrong = re.compile(
        r"\.double\(\)[^#\n]*\.cpu\(\)|float64[^#\n]*device=|device=[^#\n]*float64|\.double\(\)\.sum"
    )
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for package in ("alm", "encoders", "projectors", "train", "eval")
        for file in sorted((ROOT / package).rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if wrong.search(line) and ".cpu().double()" not in line
    ]
    assert found == []


class _NoFloat64(TorchDispatchMode):
    """Fails where a float64 tensor is made that is not on the CPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if (
                isinstance(value, torch.Tensor)
                and value.dtype == torch.float64
                and value.device.type != "cpu"
            ):
                raise TypeError(f"{function} makes a float64 tensor on {value.device}")
        return made


def test_a_fusion_brings_tokens_to_its_frame_rate_without_float64_on_the_device():
    """The meta device stands for MPS: tensors on it have a type and no values."""
    tokens = AudioTokens(torch.ones(2, 30, 8), torch.ones(2, 30, dtype=torch.bool), (30, 1))
    out = dataclasses.replace(tokens, tokens=tokens.tokens.to("meta"), mask=tokens.mask.to("meta"))
    with _NoFloat64():
        assert _at_rate(out, 1.5, 20).shape == (2, 20, 8)
        with pytest.raises(TypeError, match="float64 tensor on meta"):
            torch.zeros(1, dtype=torch.float64, device="meta")
