"""The one training loop: ``transformers.Trainer`` with the stage's settings, logs and progress."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from alm.errors import UserError
from alm.progress import progress
from train.order import EpochSampler
from train.settings import TrainSettings

# Exempt from weight decay besides 1-D tensors (AudioMosaic's recipe).
NO_DECAY = ("pos_embed", "cls_token", "queries")


class StageTrainer(Trainer):
    """Trainer whose weight decay spares biases, norms, positions and query tokens, and that stops on NaN."""

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that decay: matrices that are no embeddings of positions or queries."""
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in NO_DECAY
        ]

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The data set's own order, where it has one."""
        order = getattr(self.train_dataset, "order", None)
        if order is None:
            return super()._get_train_sampler(train_dataset)
        return EpochSampler(order, self.args.data_seed or self.args.seed)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's own loss; a loss that is not a number ends the run with its step."""
        result = super().compute_loss(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if not torch.isfinite(loss):
            raise UserError(
                f"step {self.state.global_step}: the loss is {loss.item()}; lower optim.lr or check the data"
            )
        return result

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log a line; a model with ``take_metrics`` adds its own figures to those of training."""
        take_metrics = getattr(self.model, "take_metrics", None)
        if "loss" in logs and take_metrics is not None:
            logs = {**logs, **take_metrics()}
        super().log(logs, *args, **kwargs)


class RunLog(TrainerCallback):
    """Writes ``metrics.jsonl`` and shows a bar with loss and ETA; tells datasets and models the epoch.

    Args:
        title: Name of the stage on the display.
        path: Where to write the metrics.
    """

    def __init__(self, title: str, path: Path) -> None:
        self.title, self.path = title, path
        self.started = time.time()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the display."""
        if state.is_world_process_zero:
            self._bar = progress(self.title, state.max_steps, "step")
            self._advance = self._bar.__enter__()
            self._advance(state.global_step)

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Pass the epoch on; draws that depend on it are functions of it, not of a running generator."""
        epoch = int(state.epoch or 0)
        loader = kwargs.get("train_dataloader")
        for target in (kwargs.get("model"), getattr(loader, "dataset", None)):
            set_epoch = getattr(target, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if state.is_world_process_zero:
            losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
            self._advance(1, **({"loss": f"{losses[-1]:.3f}"} if losses else {}))

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Append one line of metrics."""
        if state.is_world_process_zero and logs:
            with self.path.open("a", encoding="utf-8") as handle:
                line = {"step": state.global_step, "time_s": round(time.time() - self.started, 2), **logs}
                handle.write(json.dumps(line) + "\n")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the display."""
        if state.is_world_process_zero:
            self._bar.__exit__(None, None, None)


def training_arguments(settings: TrainSettings, folder: Path) -> TrainingArguments:
    """The stage's settings in the Trainer's terms."""
    run, optim = settings.run, settings.optim
    # Named only where it is asked for: newer releases of transformers call it activation_checkpointing.
    recompute: dict[str, Any] = {"gradient_checkpointing": True} if run.gradient_checkpointing else {}
    return TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        max_steps=optim.steps,
        per_device_train_batch_size=optim.batch_size,
        gradient_accumulation_steps=optim.accumulation,
        learning_rate=optim.lr,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": optim.min_lr_ratio},
        warmup_steps=optim.warmup_steps,
        weight_decay=optim.weight_decay,
        adam_beta2=optim.beta2,
        max_grad_norm=optim.max_grad_norm,
        bf16=run.precision == "bf16",
        deepspeed=run.deepspeed,
        seed=run.seed,
        data_seed=run.seed,
        logging_steps=run.log_every,
        save_strategy="steps" if run.save_every else "no",
        save_steps=run.save_every or 500,
        save_total_limit=2,
        report_to=list(run.report_to) or "none",
        **recompute,
        dataloader_num_workers=settings.data.workers,
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        label_names=["labels"],
        dataloader_drop_last=settings.stage == "pretrain",
    )


def gathered_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The model's whole state dict, also where ZeRO-3 holds it in pieces; every process must call this."""
    wrapped = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    return trainer.accelerator.get_state_dict(wrapped)


def fit(
    settings: TrainSettings,
    model: nn.Module,
    dataset: Dataset,
    collator: Any,
    folder: Path,
    title: str,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: type[StageTrainer] = StageTrainer,
) -> StageTrainer:
    """Train ``model`` and return the trainer; an interrupted run goes on from its last checkpoint."""
    from transformers.trainer_callback import PrinterCallback

    trainer = trainer_class(
        model=model,
        args=training_arguments(settings, folder),
        train_dataset=dataset,
        data_collator=collator,
        callbacks=[RunLog(title, folder / "metrics.jsonl"), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    checkpoints = folder / "checkpoints"
    last = get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None
    try:
        trainer.train(resume_from_checkpoint=last)
    except UserError as error:  # from a loader's process it comes wrapped in that one's traceback
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()) from error
    return trainer
