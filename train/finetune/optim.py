"""The optimiser of fine-tuning: layer-wise learning rates, and the best epoch on the validation clips."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from alm.common.errors import CheckpointError
from alm.common.files import write_text_atomic
from alm.common.json_text import read_json_object
from alm.common.processes import is_main_process
from encoders.checkpoint import read_weights, write_weights
from train.engine.checkpoints import trained_weights
from train.engine.groups import layer_scales
from train.engine.runlog import drop_lines
from train.engine.trainer import StageTrainer


class FinetuneTrainer(StageTrainer):
    """Trainer with layer-wise learning rates: smaller for encoder blocks further below the head."""

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build an optimiser with one parameter group per learning rate and weight decay."""
        target: Any = self.model if model is None else model
        decay = target.settings.layer_decay
        if self.optimizer is not None or decay == 1 or target.encoder is None:
            return super().create_optimizer(model)
        scales = {f"encoder.{name}": s for name, s in layer_scales(target.encoder, decay).items()}
        decayed = set(self.get_decay_parameter_names(target))
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in target.named_parameters():
            if parameter.requires_grad:
                weight_decay = self.args.weight_decay if name in decayed else 0.0
                groups.setdefault((scales.get(name, 1.0), weight_decay), []).append(parameter)
        return self.optimizer_of(
            [
                {"params": parameters, "weight_decay": weight_decay, "lr": self.args.learning_rate * scale}
                for (scale, weight_decay), parameters in groups.items()
            ],
            target,
        )


class BestEpoch(TrainerCallback):
    """Scores the validation clips after every epoch and keeps the best weights.

    Args:
        model: The model in training.
        score: Returns the validation score (higher is better) and the loss that breaks ties.
        folder: Where the best weights are saved, so that an interrupted run can resume.
        log: File that gets one line of metrics per epoch.
        start_counts: Also score the weights before the first step, as epoch 0.
    """

    def __init__(
        self,
        model: nn.Module,
        score: Callable[[], tuple[float, float]],
        folder: Path,
        log: Path,
        start_counts: bool = False,
    ) -> None:
        self.model, self.score, self.folder, self.log = model, score, folder, log
        self.start_counts = start_counts
        self.best: dict[str, Any] | None = None
        self.weights: dict[str, Tensor] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restore the best weights of an interrupted run; score its last epoch if that was saved but not scored."""
        file = self.folder / "best.json"
        if state.global_step and file.is_file():
            self.best = read_json_object(file, CheckpointError, constants=True)
            for key in ("score", "loss", "epoch", "last_epoch"):
                if not isinstance(self.best.get(key), int | float):
                    raise CheckpointError(
                        f"{file}: '{key}' is not a number; remove the checkpoints beside it"
                    )
            self.weights = read_weights(self.folder / "best.safetensors")
        epoch = float(round(state.epoch or 0, 3))
        unscored = epoch.is_integer() and (self.best is None or self.best["last_epoch"] < epoch)
        if unscored and (state.global_step or self.start_counts):
            if is_main_process():  # an interruption can come between the line of an epoch and `best.json`
                drop_lines(self.log, lambda line: "validation" in line and line["epoch"] >= epoch)
            self.on_epoch_end(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the epoch, and keep its weights if they are the best so far."""
        epoch = float(round(state.epoch or 0, 3))
        if not epoch.is_integer() and state.global_step < state.max_steps:
            return  # the run stops within this epoch, and resumes within it
        score, loss = self.score()
        if is_main_process():
            with self.log.open("a", encoding="utf-8") as handle:
                line = {
                    "step": state.global_step,
                    "epoch": epoch,
                    "validation": score,
                    "validation_loss": loss,
                }
                handle.write(json.dumps(line) + "\n")
        saved = is_main_process() and args.save_strategy != "no"
        if self.best is None or (score, -loss) > (self.best["score"], -self.best["loss"]):
            self.best = {"score": score, "loss": loss, "epoch": epoch}
            self.weights = {
                name: value.detach().cpu().clone() for name, value in trained_weights(self.model).items()
            }
            if saved:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_weights(self.folder / "best.safetensors", self.weights)
        self.best["last_epoch"] = epoch
        if saved:
            write_text_atomic(self.folder / "best.json", json.dumps(self.best))

    def restore(self) -> None:
        """Load the best weights into the model."""
        own = self.model.state_dict()
        for name, value in self.weights.items():
            own[name].copy_(value)
