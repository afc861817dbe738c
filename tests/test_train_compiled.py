"""`run.compile` of the LLM's blocks: losses, gradients and resumed runs of eager mode, few variants, clear refusals.

Traced and differentiated by the real compiler; only its C++ code generation, minutes on a busy machine, is left out.
"""

import os
import signal

import pytest
import torch
from safetensors.torch import load_file
from survival import assert_bit_equal, of_stage, weights_of
from test_alm_families import family_llm
from torch._dynamo.utils import counters

import train.engine.trainer as trainer
from alm.common.errors import ConfigError, Preempted
from alm.common.settings import parse_settings
from alm.head import causal_lm_loss
from train.engine.compiled import check_compiler, compile_blocks, compiler_errors
from train.pipeline.runner import run_stage
from train.settings import TrainSettings


@pytest.fixture
def traced(monkeypatch):
    compiler, options_given = torch.compile, []

    def compile_without_code_generation(function, *, dynamic, options):
        options_given.append(options)
        return compiler(function, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", compile_without_code_generation)
    counters.clear()
    return options_given


def step(llm, rows, length):
    torch.manual_seed(length)
    ids, mask = torch.randint(0, 90, (rows, length)), torch.ones(rows, length, dtype=torch.long)
    mask[-1, length // 2 :] = 0
    llm.zero_grad()
    loss = causal_lm_loss(llm, ids.masked_fill(mask == 0, -100), input_ids=ids, attention_mask=mask).loss
    loss.backward()
    return loss.detach(), {name: p.grad.clone() for name, p in llm.named_parameters()}


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_losses_and_gradients_are_those_of_eager_mode_whatever_the_lengths(family, traced):
    llm = family_llm(family, 90).train()
    names = list(llm.state_dict())
    sizes = [(2, 20), (3, 31), (2, 9), (4, 14)]
    wanted = [step(llm, *size) for size in sizes]
    compile_blocks(llm)
    for size, (loss, gradients) in zip(sizes, wanted, strict=True):
        found_loss, found = step(llm, *size)
        torch.testing.assert_close(found_loss, loss, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found, gradients, atol=1e-5, rtol=1e-5)
    assert counters["stats"]["unique_graphs"] == 1  # for all blocks and all lengths
    assert list(llm.state_dict()) == names and traced == [{"fallback_random": True}] * 2


def test_a_compiled_run_has_eager_weights_and_resumes_bit_equal(data, parts, tmp_path, traced, monkeypatch):
    def run(name, **more):
        values = {"optim": {"steps": 2, "accumulation": 1}, "run": more}
        return of_stage("align", data, tmp_path / name, parts, **values)

    eager, whole, stopped = run("eager"), run("whole", compile=True), run("stopped", compile=True)
    run_stage(eager)
    assert not traced
    torch.compiler.reset()
    monkeypatch.setattr(
        torch.compiler, "reset", lambda: None
    )  # the runs share their graphs, to save a minute
    run_stage(whole)
    assert traced
    for name, value in weights_of(eager).items():
        torch.testing.assert_close(weights_of(whole)[name], value, atol=1e-5, rtol=1e-5)
    inner, seen = trainer.StageTrainer.training_step, []

    def signalled(*args, **kwargs):
        seen.append(True)
        if len(seen) == 1:
            os.kill(os.getpid(), signal.SIGUSR1)
        return inner(*args, **kwargs)

    monkeypatch.setattr(trainer.StageTrainer, "training_step", signalled)
    with pytest.raises(Preempted):
        run_stage(stopped)
    saved = load_file(next((tmp_path / "stopped" / "checkpoints").glob("*/weights.safetensors")))
    assert saved and not any("_orig_mod" in name for name in saved)
    run_stage(stopped)
    assert_bit_equal(stopped, whole)


def test_a_missing_compiler_is_one_line():
    import torch._inductor.config as inductor

    said = r"run\.compile: .*C\+\+ compiler, and none was found; install g\+\+"
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}), pytest.raises(ConfigError, match=said):
        check_compiler()


def test_what_the_compiler_raises_is_one_line():
    from torch._dynamo.exc import TorchDynamoException

    with pytest.raises(
        ConfigError, match="run.compile: the compiler failed: no luck today; set run.compile=false"
    ):
        with compiler_errors(True):
            raise TorchDynamoException("no\nluck today")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": {"compile": True, "fsdp": {}}}, "run.compile: .* remove run.fsdp"),
        ({"run": {"compile": True, "deepspeed": "configs/deepspeed/zero2.json"}}, "remove run.deepspeed"),
        ({"run": {"compile": True}, "llm_bits": 4}, "run.compile: .* quantised"),
    ],
)
def test_what_does_not_go_with_it_is_refused(values, said):
    base = {"stage": "align", "out": "x", "encoder": "e", "llm": "l", "data": {"train": ["a.jsonl"]}}
    with pytest.raises(ConfigError, match=said):
        parse_settings(TrainSettings, {**base, **values})
