"""The trainer: what it takes from transformers, its arguments, and its messages."""

import dataclasses
import inspect
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from survival import of_stage, weights_of
from transformers import Trainer

from alm.common.seeds import seed_from
from train.engine.arguments import training_arguments
from train.engine.checkpointing import PRIVATE_ATTRIBUTES, PRIVATE_METHODS, CheckpointTrainer
from train.engine.runlog import RunLog, cut_log
from train.engine.throughput import FIGURES
from train.engine.trainer import StageTrainer, fit
from train.finetune.optim import FinetuneTrainer
from train.pipeline.rundir import facts_of
from train.pipeline.runner import run_stage
from train.settings.optim import OptimSettings

# What our overrides rely on: the arguments, in order.
SIGNATURES = {
    "_save_checkpoint": ["model", "trial"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_load_rng_state": ["checkpoint"],
    "_prepare_for_training": ["max_steps", "train_dataloader", "resume_from_checkpoint"],
    "_run_epoch": ["model", "epoch", "train_dataloader"],
    "_clip_grad_norm": ["model"],
}


def test_private_methods_of_the_trainer_are_where_they_were():
    assert set(SIGNATURES) == set(PRIVATE_METHODS)
    moved = [
        name
        for name, wanted in SIGNATURES.items()
        if not hasattr(Trainer, name)
        or list(inspect.signature(getattr(Trainer, name)).parameters)[1 : len(wanted) + 1] != wanted
    ]
    assert not moved, f"this release of transformers changed Trainer.{', Trainer.'.join(moved)}"
    source = inspect.getsource(Trainer)
    moved = [name for name in PRIVATE_ATTRIBUTES if f"self.{name} = " not in source]
    assert not moved, f"this release of transformers changed Trainer.{', Trainer.'.join(moved)}"


def test_every_process_step_and_micro_batch_has_random_numbers_of_its_own():
    """If all processes drew the same dropout, it would drop the same units for the whole batch."""

    def numbers(what="step", seed=0, step=0, micro=0, process=0):
        args = SimpleNamespace(seed=seed, process_index=process)
        trainer = SimpleNamespace(args=args, state=SimpleNamespace(global_step=step), _micro=micro)
        StageTrainer._seed(trainer, what)
        return float(torch.rand(())), random.random(), float(np.random.random())

    state = torch.random.get_rng_state(), random.getstate(), np.random.get_state()
    try:
        drawn = [numbers()]
        assert drawn == [numbers()]
        drawn += [numbers(**{key: 1}) for key in ("seed", "step", "micro", "process")] + [numbers("data")]
    finally:
        torch.random.set_rng_state(state[0])
        random.setstate(state[1])
        np.random.set_state(state[2])
    assert all(len(set(column)) == 6 for column in zip(*drawn, strict=True))


def test_no_other_private_method_is_overridden():
    ours = {
        name
        for kind in (CheckpointTrainer, StageTrainer, FinetuneTrainer)
        for name in vars(kind)
        if name.startswith("_") and not name.startswith("__") and hasattr(Trainer, name)
    }
    assert ours == set(PRIVATE_METHODS)


def test_every_setting_reaches_the_optimiser_and_the_schedule(data, parts, tmp_path):
    optim = {
        "lr": 0.002, "steps": 8, "batch_size": 2, "accumulation": 1, "warmup_steps": 4, "min_lr_ratio": 0.25,
        "weight_decay": 0.3, "beta2": 0.9, "max_grad_norm": 0.7,
    }  # fmt: skip
    run = of_stage("align", data, tmp_path / "run", parts, optim=optim)
    assert {key: getattr(run.optim, key) for key in optim} == optim
    arguments = training_arguments(run.loop, tmp_path / "run")
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    trainer = StageTrainer(model=model, args=arguments)
    trainer.create_optimizer_and_scheduler(optim["steps"])
    groups = trainer.optimizer.param_groups
    assert {(len(g["params"]), g["weight_decay"]) for g in groups} == {(1, 0.3), (3, 0.0)}
    assert all(g["betas"] == (0.9, 0.9) and g["eps"] == 1e-8 for g in groups)
    rates = []
    for _ in range(optim["steps"] + 1):
        rates.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    cosine = [0.25 + 0.75 * (1 + math.cos(math.pi * i / 4)) / 2 for i in range(5)]
    assert rates == pytest.approx([0.002 * x for x in (0, 0.25, 0.5, 0.75, *cosine)])
    assert arguments.max_grad_norm == 0.7 and arguments.gradient_accumulation_steps == 1
    assert arguments.per_device_train_batch_size == 2 and arguments.seed == run.run.seed


def test_every_setting_of_a_run_reaches_the_trainer(data, parts, tmp_path):
    """None of the values is a default, so that none can be missing."""

    class Reached(Exception):
        pass

    class Stops(StageTrainer):
        def train(self, *args, **kwargs):
            raise Reached(self)

    run = of_stage(
        "align", data, tmp_path / "run", parts, data={"workers": 1, "validation": [str(data / "train.jsonl")]},
        optim={"steps": 11, "batch_size": 3, "accumulation": 5},
        run={"seed": 7, "precision": "bf16", "log_every": 6, "save_every": 9, "keep_checkpoints": 4, "eval_every": 2,
             "patience": 8, "on_nan": "skip", "gradient_checkpointing": True, "report_to": ["tensorboard"]},
    )  # fmt: skip
    with pytest.raises(Reached) as stopped:
        fit(
            run.loop, torch.nn.Linear(2, 2), torch.utils.data.TensorDataset(torch.zeros(8, 2)), list, tmp_path, "title",
            trainer_class=Stops, validate=len, drop_last=True,
        )  # fmt: skip
    trainer = stopped.value.args[0]
    arguments = trainer.args
    assert (arguments.max_steps, arguments.per_device_train_batch_size) == (11, 3)
    assert (arguments.gradient_accumulation_steps, arguments.dataloader_num_workers) == (5, 1)
    assert (arguments.seed, arguments.data_seed, arguments.logging_steps, arguments.save_steps) == (
        7,
        7,
        6,
        9,
    )
    assert arguments.bf16 and arguments.gradient_checkpointing and arguments.dataloader_drop_last
    assert arguments.save_strategy == "steps" and arguments.report_to == ["tensorboard"]
    assert (trainer.on_nan, trainer.keep_checkpoints, trainer.eval_every) == ("skip", 4, 2)
    assert trainer.patience == 8 and trainer.validate is len


@pytest.mark.parametrize(("drop_last", "steps"), [(True, 4), (False, 6)])
def test_a_dropped_last_batch_is_no_step_of_an_epoch(data, parts, tmp_path, drop_last, steps):
    class Stops(StageTrainer):
        def train(self, *args, **kwargs):
            raise InterruptedError(str(self.args.max_steps))

    run = of_stage("align", data, tmp_path / "run", parts)
    optim = OptimSettings(epochs=2.0, batch_size=3)  # 8 samples: two whole batches, and one of two
    with pytest.raises(InterruptedError, match=f"^{steps}$"):
        fit(
            dataclasses.replace(run.loop, optim=optim), torch.nn.Linear(2, 2),
            torch.utils.data.TensorDataset(torch.zeros(8, 2)), list, tmp_path, "title", trainer_class=Stops,
            drop_last=drop_last,
        )  # fmt: skip


def test_a_warm_up_longer_than_the_run_is_said(data, parts, tmp_path, capsys):
    for name, warmup_steps, said in (("long", 8, True), ("fits", 2, False)):
        run = of_stage(
            "align", data, tmp_path / name, parts, optim={"steps": 2, "warmup_steps": warmup_steps}
        )
        run_stage(run)
        found = "optim.warmup_steps=8 is longer than the run of 2 steps; the learning rate only rises to 25%"
        assert (found in capsys.readouterr().out) is said


def test_a_warm_up_of_one_component_longer_than_the_run_is_said(data, parts, tmp_path, capsys):
    class Stops(StageTrainer):
        def train(self, *args, **kwargs):
            raise InterruptedError

    components = {"projector": {"warmup_steps": 8}, "llm_lora": {"warmup_steps": 2}}
    optim = {"steps": 2, "warmup_steps": 1, "components": components}
    run = of_stage("instruct", data, tmp_path / "run", parts, optim=optim)
    with pytest.raises(InterruptedError):
        fit(
            run.loop, torch.nn.Linear(2, 2), torch.utils.data.TensorDataset(torch.zeros(8, 2)), list, tmp_path, "title",
            trainer_class=Stops,
        )  # fmt: skip
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert "optim.components.projector.warmup_steps=8 is longer than the run of 2 steps" in line
    assert line.endswith("rises to 25% of optim.components.projector.lr")


@pytest.mark.parametrize(("reached", "epoch"), [(0.0, None), (0.5, 0), (1.0, 0), (1.25, 1), (2.0, 1)])
def test_a_resumed_run_is_in_the_epoch_of_its_last_step(reached, epoch, tmp_path):
    """The epoch is set also if no step is left and no epoch begins: what follows training may depend on it."""

    class Model:
        epoch = None

        def set_epoch(self, epoch):
            self.epoch = epoch

    class State:
        is_world_process_zero = False
        global_step = round(reached * 4)

    State.epoch, model = reached, Model()
    RunLog("title", tmp_path / "metrics.jsonl").on_train_begin(None, State, None, model=model)
    assert model.epoch == epoch


def test_a_resumed_log_keeps_the_lines_up_to_its_checkpoint(tmp_path):
    lines = [{"step": step, "loss": 1.0} for step in (3, 6, 9)] + [{"step": 6, "train_loss": 1.0}]
    log = tmp_path / "metrics.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo')
    cut_log(log, 6)
    assert [json.loads(line) for line in log.read_text().splitlines()] == lines[:2]


def test_a_run_killed_after_its_last_step_reports_what_it_would_have(data, parts, tmp_path):
    def lines(run):
        text = (tmp_path / run / "metrics.jsonl").read_text()
        drop = ("time_s", "train_runtime", *FIGURES)
        return [{k: v for k, v in json.loads(line).items() if k not in drop} for line in text.splitlines()]

    facts = []
    run = of_stage(
        "pretrain", data, tmp_path / "run", parts, data={"validation": [str(data / "train.jsonl")]}
    )
    for _ in range(2):
        run_stage(run)
        found = facts_of(tmp_path / "run")
        facts.append(({k: found[k] for k in ("clips", "silent_clips", "view_retrieval")}, lines("run")))
        weights = weights_of(run)
        (tmp_path / "run" / "finished.json").unlink()
    assert facts[0] == facts[1] and weights


HASH_OF_DATA_5_0 = (
    "fc3d0eff2d4b6f2e57cef9f79c8a0b4a17941b8a134bdb60f5b1d10eef385b6c"  # sha256sum of the text data/5/0
)


def test_seeds_are_functions_of_their_parts():
    assert seed_from("data", 5, 0) == seed_from("data/5/0") == int(HASH_OF_DATA_5_0[:16], 16)
    assert seed_from("data", 5, 0, n_bytes=4) == int(HASH_OF_DATA_5_0[:8], 16)
    assert len({seed_from(*parts) for parts in ((1, 2), (2, 1), (12,), ("1", 3))}) == 4
