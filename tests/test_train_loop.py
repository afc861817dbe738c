"""The loop on a model of one weight, whose losses are written down: skipped steps, validation, the last batch."""

import json
import math
import re

import pytest
import torch
from safetensors.torch import save_file

from alm.common.errors import CheckpointError, UserError
from train.data.protocols import TrainingDataset
from train.engine import checkpoints
from train.engine.trainer import StageTrainer, fit
from train.settings import LoopSettings, RunSettings
from train.settings.optim import OptimSettings


class Written(TrainingDataset):
    """Samples with a loss each, in the order in which they are given."""

    def __init__(self, losses):
        self.losses = losses

    def __len__(self):
        return len(self.losses)

    def name(self, index):
        return f"s{index}"

    def order(self, seed, epoch):
        return range(len(self))

    def __getitem__(self, index):
        return {"loss": self.losses[index]}


class OneWeight(torch.nn.Module):
    """A model whose loss is given by the samples, with gradient 1."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def forward(self, losses):
        self.seen.append(losses.tolist())
        return {"loss": losses.mean() + self.weight.sum() - self.weight.sum().detach()}


def collate(samples):
    return {"losses": torch.tensor([sample["loss"] for sample in samples])}


def train(folder, losses, validate=None, drop_last=False, optim=None, **run):
    """The model, the trainer and the log of a run over the losses: each step takes 0.1 off the weight."""
    plain = {"lr": 0.1, "batch_size": 1, "accumulation": 1, "warmup_steps": 0, "steps": len(losses)}
    plain |= {"optimizer": "sgd", "lr_scheduler_type": "constant", "weight_decay": 0.0}
    settings = LoopSettings(OptimSettings(**plain | (optim or {})), RunSettings(log_every=1, **run))
    folder.mkdir()
    model = OneWeight()
    trainer = fit(
        settings, model, Written(losses), collate, folder, "toy", validate=validate, drop_last=drop_last
    )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return model, trainer, lines


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_skipped_steps_end_the_run_where_they_follow_each_other(bad, tmp_path):
    """Ten in a row are skipped, whatever came before them; the eleventh ends the run."""
    spread = [*[bad] * 10, 1.0, *[bad] * 10, 1.0]
    model, trainer, _ = train(tmp_path / "spread", spread, on_nan="skip")
    assert trainer.state.global_step == 22 and float(model.weight.detach()) == pytest.approx(-0.2)
    with pytest.raises(UserError, match=r"step 11: the loss is not a number .*\(11 steps in a row\)"):
        train(tmp_path / "row", [1.0, *[bad] * 11], on_nan="skip")
    with pytest.raises(UserError, match="step 1: the loss is not a number .*run.on_nan=skip"):
        train(tmp_path / "stop", [1.0, bad])


def test_a_skipped_step_counts_none_of_its_batches(tmp_path):
    """The batch before the bad one, in the same step, changes neither the log nor the gradient."""
    found = []
    for first in (2.0, 1000.0):
        losses = [1.0, 3.0, first, math.nan, 1.0, 3.0]
        model, _, lines = train(
            tmp_path / str(first), losses, on_nan="skip", optim={"steps": 3, "accumulation": 2}
        )
        found.append([line["loss"] for line in lines if "loss" in line])
        assert float(model.weight.detach()) == pytest.approx(-0.2)
    assert found[0] == found[1] and found[0][0] == 2.0


def test_validation_keeps_the_lowest_loss_and_stops_when_it_no_longer_falls(tmp_path):
    """An equal loss is no improvement; every step also has its training line."""
    told = iter([3.0, 2.0, 2.0, 2.0, 1.0])
    model, trainer, lines = train(tmp_path / "run", [1.0] * 8, lambda: next(told), eval_every=1, patience=2)
    assert trainer.best == {"step": 2, "loss": 2.0, "since": 2}
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["eval_loss"] for line in lines if "eval_loss" in line] == [3.0, 2.0, 2.0, 2.0]
    assert float(model.weight.detach()) == pytest.approx(-0.2)


@pytest.mark.parametrize(("drop_last", "sizes"), [(True, [2, 2, 2, 2]), (False, [2, 2, 1, 2, 2, 1])])
def test_the_last_batch_is_dropped_where_it_should_be(drop_last, sizes, tmp_path):
    optim = {"epochs": 2.0, "steps": OptimSettings().steps, "batch_size": 2}
    model, _, _ = train(tmp_path / "run", [1.0] * 5, drop_last=drop_last, optim=optim)
    assert [len(losses) for losses in model.seen] == sizes


def test_positions_and_queries_do_not_decay():
    model = torch.nn.Module()
    names = ("pos_embed", "cls_token", "queries", "weight", "bias")
    for name in names:
        setattr(model, name, torch.nn.Parameter(torch.zeros(3, 2) if name != "bias" else torch.zeros(3)))
    outer = torch.nn.ModuleDict({"part": model})
    assert StageTrainer.get_decay_parameter_names(None, outer) == ["part.weight"]


def test_a_checkpoint_holds_exactly_what_trains(tmp_path):
    """A frozen weight that two modules share is not saved; a checkpoint without a trained weight is refused."""
    model = torch.nn.Module()
    model.words, model.head = torch.nn.Embedding(5, 4), torch.nn.Linear(4, 5, bias=False)
    model.head.weight = model.words.weight
    model.words.weight.requires_grad_(False)
    model.adapter, model.norm = torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)
    own = checkpoints.trained_keys(model)
    assert {name.partition(".")[0] for name in own} == {"adapter", "norm"} and "norm.running_mean" in own
    kept, file = checkpoints.trained_weights(model), tmp_path / "weights.safetensors"
    save_file({**kept, "adapter.bias": torch.ones(4)}, file)
    checkpoints.load_trained(model, file)
    assert model.adapter.bias.tolist() == [1.0] * 4
    for name in ("adapter.bias", "norm.running_var"):
        save_file({key: value for key, value in kept.items() if key != name}, file)
        with pytest.raises(CheckpointError, match=name):
            checkpoints.load_trained(model, file)
    for missing, kept_keys in (("a", ["b"]), ("unexpected ['c']", ["a", "b", "c"])):
        with pytest.raises(CheckpointError, match=re.escape(missing)):
            checkpoints.check_keys(file, kept_keys, ["a", "b"])
