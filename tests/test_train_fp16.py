"""fp16 training on CPUs: the scaler of accelerate's wrappers, with PyTorch's autocast and scaler for CPUs."""

import json
import math

import pytest
import torch

from alm.common.errors import ConfigError, UserError
from train.data.protocols import TrainingDataset
from train.engine import checkpoints
from train.engine.arguments import check_arguments
from train.engine.trainer import fit
from train.settings import LoopSettings, RunSettings
from train.settings.optim import ComponentOptim, ComponentsOptim, OptimSettings

START = 2.0**16


class Rows(TrainingDataset):
    """Rows of random numbers; those of some samples are multiplied, so that their gradients do not fit into float16."""

    def __init__(self, factors):
        generator = torch.Generator().manual_seed(3)
        rows = 0.05 * torch.randn(32, 8, generator=generator)
        self.rows = rows[: len(factors)] * torch.tensor(factors)[:, None]

    def __len__(self):
        return len(self.rows)

    def name(self, index):
        return f"s{index}"

    def order(self, seed, epoch):
        return range(len(self))

    def __getitem__(self, index):
        return {"row": self.rows[index]}


class TwoLayers(torch.nn.Module):
    """Predicts the mean of a row; the loss is computed in float32, as the stages' losses are."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.projector, self.llm = torch.nn.Linear(8, 16), torch.nn.Linear(16, 1)
        self.dtypes = set()

    def forward(self, rows):
        hidden = self.projector(rows)
        self.dtypes.add(hidden.dtype)
        found = self.llm(torch.relu(hidden)).float()
        return {"loss": (found[:, 0] - rows.mean(dim=1)).square().mean()}


def collate(samples):
    return {"rows": torch.stack([sample["row"] for sample in samples])}


def train(folder, factors, precision="fp16", optim=None, model=None, **run):
    """The model, the trainer and the log of a run with a step per factor."""
    plain = {"lr": 0.01, "batch_size": 1, "accumulation": 1, "warmup_steps": 0, "steps": len(factors)}
    settings = LoopSettings(
        OptimSettings(**plain | {"lr_scheduler_type": "linear"} | (optim or {})),
        RunSettings(log_every=1, precision=precision, **run),
    )
    folder.mkdir(exist_ok=True)
    model = TwoLayers() if model is None else model
    dataset = Rows(factors)
    trainer = fit(settings, model, dataset, collate, folder, "toy")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model, trainer, [line for line in lines if "loss" in line]


def test_losses_are_those_of_fp32_within_half_precision(tmp_path):
    model, trainer, found = train(tmp_path / "fp16", [1.0] * 12)
    plain, _, wanted = train(tmp_path / "fp32", [1.0] * 12, precision="fp32")
    assert model.dtypes == {torch.float16} and plain.dtypes == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert type(trainer.accelerator.scaler) is torch.amp.GradScaler and trainer.throughput.precision == "fp16"
    losses, exact = ([line["loss"] for line in lines] for lines in (found, wanted))
    assert losses != exact and losses == pytest.approx(exact, rel=2e-2, abs=2e-3)
    norms, exact = ([line["grad_norm"] for line in lines] for lines in (found, wanted))
    assert norms == pytest.approx(exact, rel=2e-2, abs=5e-3)  # divided by the scale
    assert found[-1]["loss_scale"] == START and found[-1]["skipped_steps"] == 0
    assert "loss_scale" not in wanted[-1]


@pytest.mark.parametrize(
    ("optimizer", "max_grad_norm"), [("adamw_torch_fused", 1.0), ("adamw_torch_fused", 0.0), ("sgd", 1.0)]
)
def test_an_overflow_skips_the_step_and_nothing_else(optimizer, max_grad_norm, tmp_path):
    """The run goes on; scale and schedule show the skipped step, and the weights are those of a run without it."""
    optim = {"optimizer": optimizer, "max_grad_norm": max_grad_norm}
    model, trainer, lines = train(tmp_path / "run", [1.0, 1.0, 3000.0, 1.0], optim=optim)
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 1]
    assert [line["loss_scale"] for line in lines] == [START, START, START / 2, START / 2]
    assert ["grad_norm" in line for line in lines] == [True, True, False, True]
    assert trainer.state.global_step == 4 and trainer.lr_scheduler.last_epoch == 3
    assert not (tmp_path / "nonfinite.jsonl").exists()
    assert all(math.isfinite(line["loss"]) for line in lines)
    rates = [line["learning_rate"] for line in lines]
    assert rates == pytest.approx([0.01, 0.0075, 0.005, 0.005])  # the third step did not advance the schedule
    assert all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_a_step_that_overflows_leaves_weights_and_moments(tmp_path):
    before, first, _ = train(tmp_path / "two", [1.0, 1.0], optim={"lr_scheduler_type": "constant"})
    after, second, _ = train(tmp_path / "three", [1.0, 1.0, 3000.0], optim={"lr_scheduler_type": "constant"})
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)
    kept, found = (trainer.optimizer.state_dict()["state"] for trainer in (first, second))
    assert all(torch.equal(kept[i][key], found[i][key]) for i in kept for key in kept[i])


def test_groups_with_their_own_limits_are_divided_by_the_scale_once(tmp_path):
    class Parts(TwoLayers):
        @property
        def components(self):
            return {"projector": self.projector, "llm": self.llm}

    def norms(precision):
        optim = {
            "components": ComponentsOptim(projector=ComponentOptim(max_grad_norm=0.5)),
            "max_grad_norm": 1.0,
        }
        _, trainer, lines = train(
            tmp_path / precision, [1.0, 1.0], precision=precision, optim=optim, model=Parts()
        )
        assert len(trainer._clip_groups) == 2
        return [line["grad_norm"] for line in lines]

    assert norms("fp16") == pytest.approx(norms("fp32"), rel=2e-2)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_loss_that_is_not_a_number_is_no_overflow(accumulation, tmp_path):
    """The policy decides, as in other precisions; the scale stays, also if it is the first step."""
    factors = (
        [math.nan] * accumulation + [1.0] * accumulation + [math.nan] * accumulation + [1.0] * accumulation
    )
    optim = {"accumulation": accumulation, "steps": 4}
    _, trainer, lines = train(tmp_path / "skip", factors, optim=optim, on_nan="skip")
    assert trainer.state.global_step == 4
    assert (lines[-1]["loss_scale"], lines[-1]["skipped_steps"]) == (START, 0)
    assert len((tmp_path / "skip" / "nonfinite.jsonl").read_text().splitlines()) == 2
    with pytest.raises(UserError, match=r"^step 0: the loss is not a number .*, use run\.precision=bf16 or "):
        train(tmp_path / "stop", factors, optim=optim)


class Cusp(TwoLayers):
    """The gradient is infinite whatever the scale, and the loss is finite."""

    def forward(self, rows):
        return {"loss": super().forward(rows)["loss"] + (self.llm.bias - self.llm.bias.detach()).sqrt().sum()}


def test_gradients_that_are_infinite_at_a_scale_of_one_end_the_run(tmp_path):
    """17 steps halve the scale from 65,536 to 1 and below it; the next one is not the scale's fault."""
    with pytest.raises(UserError, match=r"^step 16: the gradients' norm is not a number .*=bf16 or "):
        train(tmp_path / "run", [1.0] * 30, model=Cusp())


def test_a_resumed_run_has_the_scale_and_the_weights_of_an_undisturbed_one(tmp_path):
    factors = [1.0, 3000.0, 1.0, 1.0, 3000.0, 1.0]
    whole, trainer, lines = train(tmp_path / "whole", factors, save_every=3)
    train(tmp_path / "part", factors, save_every=3)
    folder = tmp_path / "part" / "checkpoints"
    kept = [path for _, path in checkpoints.found(folder)]
    assert [path.name for path in kept] == ["checkpoint-3", "checkpoint-6"]
    state = checkpoints.load_state(kept[0] / checkpoints.LOSS_SCALE)
    assert (state["scale"], state["_growth_tracker"], state["skipped_steps"]) == (START / 2, 1, 1)
    for path in kept[1].iterdir():
        path.unlink()
    kept[1].rmdir()
    model = TwoLayers()
    torch.nn.init.zeros_(model.projector.weight)  # it comes from the checkpoint
    resumed, again, log = train(tmp_path / "part", factors, save_every=3, model=model)
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.accelerator.scaler.state_dict() == trainer.accelerator.scaler.state_dict()
    assert again.loss_scale.skipped_steps == 2
    names = ("step", "loss", "loss_scale", "skipped_steps", "learning_rate")
    assert [{k: line[k] for k in names} for line in log] == [{k: line[k] for k in names} for line in lines]


@pytest.mark.parametrize("other", [{"deepspeed": "configs/deepspeed/zero1.json"}, {"fsdp": {}}])
def test_what_shards_weights_is_refused(other):
    with pytest.raises(
        ConfigError, match=rf"^run\.precision: fp16 is not supported with run\.{next(iter(other))}; "
    ):
        RunSettings(precision="fp16", **other)


def test_a_launcher_does_not_change_the_precision(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ConfigError, match="^ACCELERATE_MIXED_PRECISION=fp16: .*run.precision"):
        check_arguments(LoopSettings(OptimSettings(), RunSettings()))
    check_arguments(LoopSettings(OptimSettings(), RunSettings(precision="fp16")))
