"""The one training loop: `transformers.Trainer` with the stage's settings, logs and progress.

Additions let a run survive interruptions: the order of samples and all randomness are functions of (seed, step),
checkpoints are exact and complete (`train.engine.checkpointing`), and all processes decide together what to do after
a loss that is not a number, or after SIGTERM.
"""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

from alm.common.errors import Preempted, UserError
from alm.common.processes import is_main_process, world_size
from alm.common.seeds import seed_from
from encoders.checkpoint import write_weights
from encoders.devices import pins_memory
from train.data.protocols import CountsAudio, ReportsMetrics, TrainingDataset
from train.data.sampling import EpochBatches
from train.engine import checkpoints, fsdp
from train.engine.arguments import component_schedule, counted, training_arguments
from train.engine.checkpointing import CheckpointTrainer
from train.engine.compiled import compiler_errors
from train.engine.groups import HasComponents, clip_groups, parameter_groups
from train.engine.loss_scale import LossScale
from train.engine.runlog import LOGS, RunLog, backends_log_to, cut_log
from train.engine.signals import Signals
from train.engine.throughput import AUDIO_S, Throughput, n_llm_tokens, step_flops
from train.processes import any_process, barrier, gather_objects, say
from train.settings import LoopSettings
from train.settings.optim import OptimSettings

# Exempt from weight decay besides 1-D tensors (AudioMosaic's recipe).
NO_DECAY = ("pos_embed", "cls_token", "queries")
NONFINITE = "nonfinite.jsonl"
_MOST_SKIPPED = 10  # steps in a row


class _SkipStep(Exception):
    """The step's loss is not a number, and the policy is to skip the step."""


class _Hooks(TrainerCallback):
    """Calls the trainer when training begins, and after each optimiser step, before the step is logged and saved."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.resume_log()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.throughput.end_step()
        if self.trainer.loss_scale is not None:
            self.trainer.loss_scale.end_step()
        self.trainer.after_step(control)


class _CountedBatches:
    """Adds to each batch the seconds of audio in it, if the collator knows them.

    Args:
        collate: The collator.
    """

    def __init__(self, collate: Callable[..., dict[str, Tensor]]) -> None:
        self.collate = collate

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """A batch of samples."""
        batch = self.collate(samples)
        if isinstance(self.collate, CountsAudio):
            batch[AUDIO_S] = torch.tensor([self.collate.audio_s])
        return batch


class StageTrainer(CheckpointTrainer):
    """Trainer that can be interrupted; biases, norms, positions and query tokens have no weight decay.

    Attributes:
        signals: Remembers SIGTERM and SIGUSR1.
        on_nan: What to do after a loss that is not a number: `stop` or `skip`.
        validate: Computes the validation loss; None: no validation runs.
        eval_every: Steps between two validation runs.
        patience: Consecutive validation runs without improvement after which training stops; 0 disables this.
        optim: Optimiser settings, including those of single components.
        preempted: Whether all processes have agreed to save and stop.
        skipped: Number of consecutive skipped steps.
        throughput: How fast the run trains.
    """

    signals = Signals()
    on_nan = "stop"
    validate: Callable[[], float] | None = None
    eval_every = 0
    patience = 0
    optim: OptimSettings | None = None
    preempted = False
    skipped = 0
    _clip_groups: list[tuple[list[nn.Parameter], float]] | None = None
    _skipping = False
    _micro = 0
    _loss_before: Tensor | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.throughput = Throughput("bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "fp32")
        self.add_callback(_Hooks(self))

    # ---- FSDP2 ----
    def create_accelerator_and_postprocess(self) -> None:
        """The Trainer's accelerator; with `run.fsdp` it uses FSDP2, also on CPUs."""
        arguments = self.args.fsdp_plugin_args
        if arguments is not None and "transformer_cls_names_to_wrap" not in arguments:
            arguments["transformer_cls_names_to_wrap"] = fsdp.block_classes(self.network)
        with fsdp.fsdp_switch_restored():
            super().create_accelerator_and_postprocess()
            if arguments is not None and not self.is_fsdp_enabled:
                fsdp.use_on_cpu(self.accelerator, arguments)
                self.is_fsdp_enabled = True
        if self.is_fsdp_enabled:  # it would round waveforms to bf16; autocast does not
            self.accelerator.state.fsdp_plugin.mixed_precision_policy = None
        if self.args.fp16:
            self.loss_scale = LossScale(self.accelerator)

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
        """Autocast for FSDP2 models; for other models `Accelerator.prepare` wraps the forward pass in it."""
        if self.is_fsdp_enabled:
            return self.accelerator.autocast()
        return super().autocast_smart_context_manager(cache_enabled)

    # ---- parameters and samples ----
    @property
    def samples(self) -> TrainingDataset:
        """The training samples."""
        assert isinstance(self.train_dataset, TrainingDataset)
        return self.train_dataset

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters with weight decay: matrices, except embeddings of positions and queries."""
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.ndim > 1 and name.rsplit(".", 1)[-1] not in NO_DECAY
        ]

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The Trainer's optimiser; with settings per component, one parameter group for each that differs."""
        target: Any = self.model if model is None else model
        groups = None
        if self.optimizer is None and self.optim is not None:
            groups = parameter_groups(target, self.optim, set(self.get_decay_parameter_names(target)))
        return super().create_optimizer(model) if groups is None else self.optimizer_of(groups, target)

    def optimizer_of(self, groups: list[dict[str, Any]], model: Any) -> torch.optim.Optimizer:
        """The chosen optimiser over parameter groups, which hold learning rate and weight decay."""
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, model)
        self.optimizer = optimizer_class(groups, **options)
        assert isinstance(self.optimizer, torch.optim.Optimizer)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's schedule; with schedules per component, one that has a factor for each parameter group."""
        if self.lr_scheduler is None and self.optim is not None:
            scheduled = optimizer or self.optimizer
            assert scheduled is not None
            own = component_schedule(self.optim, scheduled, num_training_steps)
            if own is not None:
                self.lr_scheduler, self._created_lr_scheduler = own, True
                return own
        return super().create_scheduler(num_training_steps, optimizer)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches whose order is a function of (seed, epoch); every process gets its share."""
        args = self.args
        batches = EpochBatches(
            self.samples,
            args.train_batch_size,
            args.seed,
            args.process_index,
            args.world_size,
            args.dataloader_drop_last,
        )
        return DataLoader(
            self.samples,
            batch_sampler=batches,
            collate_fn=_CountedBatches(self.data_collator),
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and pins_memory(),
        )

    # ---- one step ----
    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The micro-batches of one optimiser step."""
        self._seed("data")
        self._micro, self._skipping = 0, False
        self._loss_before = self._tr_loss.clone()
        self.throughput.start_step()
        batches, n_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.throughput.batches_are_here(batches)
        if batches and self.throughput.flops_per_token is None:
            self._count_flops(batches[0])
        return batches, n_items

    def _count_flops(self, batch: dict[str, Any]) -> None:
        """Count the operations of a step, for MFU; only for a model with an LLM whose weights ZeRO-3 does not split."""
        tokens = n_llm_tokens(batch)
        if tokens is None or not isinstance(self.network, HasComponents) or is_deepspeed_zero3_enabled():
            return
        with self.throughput.paused(), self.compute_loss_context_manager():
            flops = step_flops(self.network, self._prepare_inputs(batch), self.network.components.values())
            self.throughput.flops_per_token = flops / float(tokens)

    def _seed(self, what: str) -> None:
        """Seed every generator with a function of (seed, step, micro-batch, process)."""
        args = self.args
        number = seed_from(what, args.seed, self.state.global_step, self._micro, args.process_index)
        torch.manual_seed(number >> 1)  # seeds all devices
        random.seed(number)
        np.random.seed(number & 0xFFFFFFFF)

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward; dropout depends only on (seed, step, micro-batch, process)."""
        self._seed("step")
        self._micro += 1
        if self._skipping:
            return torch.zeros((), device=self.args.device)
        try:
            return super().training_step(model, inputs, num_items_in_batch)
        except _SkipStep:
            self._skipping = True
            model.zero_grad()
            if self.loss_scale is not None:
                self.loss_scale.skip(model)
            assert self._loss_before is not None
            self._tr_loss.copy_(self._loss_before)
            # The Trainer then logs the mean of the earlier losses.
            return torch.full((), torch.nan, device=self.args.device)

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The model's loss; all processes decide together what to do if it is not a number."""
        result = super().compute_loss(model, inputs, *args, **kwargs)
        if self.is_in_train and model.training:
            loss = (result[0] if isinstance(result, tuple) else result).detach()
            finite = bool(torch.isfinite(loss))
            complaint = self.samples.complaint()
            not_finite, signalled, bad_data = any_process(
                [not finite, self.signals.received is not None, complaint is not None], loss.device
            )
            self.preempted = self.preempted or signalled
            if bad_data:
                raise UserError(complaint or "data.train: another process found too many bad samples")
            if not_finite:
                self._handle_not_a_number(float(loss), "loss", "loss")
        return result

    def _clip_grad_norm(self, model: nn.Module) -> Any:
        """Clip; a norm that is not finite (the same on all processes) is handled like such a loss.

        In fp16 the loss scale may be the reason: the step is left to the scaler until the scale is no larger than 1.
        """
        if self._skipping:
            return None
        norm = self._clip(model)
        if norm is not None and not self.is_deepspeed_enabled and not np.isfinite(float(norm)):
            if self.loss_scale is not None and self.loss_scale.value > 1:
                return norm
            try:
                self._handle_not_a_number(float(norm), "gradients' norm", "grad_norm")
            except _SkipStep:
                self._skipping = True
                if self.loss_scale is None:
                    model.zero_grad()
                else:
                    self.loss_scale.keep()
        elif norm is not None:
            self.skipped = 0
        return norm

    def _clip(self, model: nn.Module) -> Any:
        """Clip all gradients together, except those of components with their own limit; return the norm."""
        if self._clip_groups is None and self.optim is not None:
            self._clip_groups = clip_groups(self.network, self.optim)
        groups = self._clip_groups
        if not groups:
            return fsdp.value_of(super()._clip_grad_norm(model))  # type: ignore[no-untyped-call]
        clip: Callable[..., Any] = self.accelerator.clip_grad_norm_
        if self.loss_scale is not None:  # accelerate's would divide by the scale once per group
            self.loss_scale.unscale()
            clip = nn.utils.clip_grad_norm_
        norms = [fsdp.value_of(clip(parameters, largest or float("inf"))) for parameters, largest in groups]
        return torch.stack([torch.as_tensor(norm) for norm in norms]).norm()

    def _handle_not_a_number(self, value: float, what: str, key: str) -> None:
        """Log the ids of the batch on every process, then stop or skip the step; all processes must call this.

        Args:
            value: The loss or norm of this process.
            what: What is not a number, for messages.
            key: Its key in `nonfinite.jsonl`.

        Raises:
            UserError: The policy is to stop, or too many consecutive steps were skipped.
        """
        step = self.state.global_step
        line = {"step": step, "process": self.args.process_index, key: str(value), "ids": self._batch_ids()}
        lines = gather_objects(line)
        file = self.folder.parent / NONFINITE
        if is_main_process():
            with file.open("a", encoding="utf-8") as handle:
                handle.writelines(json.dumps(entry) + "\n" for entry in lines)
        self.skipped += 1
        if self.on_nan == "skip" and self.skipped <= _MOST_SKIPPED:
            say(f"step {step}: the {what} is not a number; step skipped; the sample ids are in {file}")
            raise _SkipStep
        more = f" ({self.skipped} steps in a row)" if self.on_nan == "skip" else " or set run.on_nan=skip"
        if self.loss_scale is not None:
            more = f", use run.precision=bf16{more}"
        raise UserError(
            f"step {step}: the {what} is not a number ({value} on process {self.args.process_index}); the "
            f"sample ids of the batch are in {file}; lower optim.lr, check the data{more}"
        )

    def _batch_ids(self) -> list[str]:
        """Names of the samples of the current micro-batch."""
        loader: Any = self.callback_handler.train_dataloader
        batches = getattr(loader, "batch_sampler", None)
        if not isinstance(batches, EpochBatches):
            return []
        accumulation = self.args.gradient_accumulation_steps
        steps_per_epoch = max(1, -(-len(batches) // accumulation))
        number = self.state.global_step % steps_per_epoch * accumulation + self._micro - 1
        return [self.samples.name(index) for index in batches.batch(number)]

    # ---- logs ----
    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log a line; a model with `take_metrics` adds its own metrics to those of training."""
        if "loss" in logs:
            if isinstance(self.model, ReportsMetrics):
                logs = {**logs, **self.model.take_metrics()}
            logs = {**logs, **self.throughput.take_line()}
            if self.loss_scale is not None:
                logs |= self.loss_scale.log_line()
                if not np.isfinite(logs.get("grad_norm", 0.0)):  # of a step that the scaler skipped
                    del logs["grad_norm"]
        quarantined = self.samples.quarantined()
        if quarantined is not None:
            logs = {**logs, "quarantined": len(quarantined)}
        if "train_loss" in logs:  # the Trainer's counts one process, and only steps since the last resume
            totals = gather_objects(self._total_loss_scalar)
            total = self._total_before + sum(totals) / len(totals)
            logs = {
                **logs,
                "train_loss": total / max(self.state.global_step, 1),
                **self.throughput.whole_run(),
            }
            for name in ("train_samples_per_second", "train_steps_per_second", "total_flos"):
                logs.pop(name, None)  # which count the steps before a resume, too
        super().log(logs, *args, **kwargs)

    # ---- after a step ----
    def after_step(self, control: TrainerControl) -> None:
        """Validate if it is due, and stop if the processes have agreed to; runs before log line and checkpoint."""
        if self.validate is not None and self.state.global_step % self.eval_every == 0:
            with self.compute_loss_context_manager():
                loss = self.validate()
            self._run_validation(loss, control)
        if self.preempted:
            control.should_training_stop = True
            control.should_save = self._saved_step != self.state.global_step

    def _run_validation(self, loss: float, control: TrainerControl) -> None:
        """Log the validation loss, keep the weights if it is the lowest, stop early if it no longer improves."""
        step = self.state.global_step
        due = control.should_log
        self.log({"eval_loss": loss})
        control.should_log = due  # `log` resets it, but the training loss may still be due at this step
        if self.best is None or loss < self.best["loss"]:
            self.best = {"step": step, "loss": loss, "since": 0}
            weights = gathered_weights(self)
            if is_main_process():
                kept = checkpoints.trained_keys(self.network)
                self.best_weights.parent.mkdir(parents=True, exist_ok=True)
                write_weights(self.best_weights, {key: weights[key] for key in kept})
        else:
            self.best = {**self.best, "since": self.best["since"] + 1}
        if self._patience_is_over():
            say(
                f"step {step}: early stopping; the validation loss was lowest ({self.best['loss']:.4f}) at step "
                f"{self.best['step']}"
            )
            control.should_training_stop = True

    @property
    def best_weights(self) -> Path:
        """The file with the weights of the lowest validation loss."""
        return self.folder / "best.safetensors"

    def _patience_is_over(self) -> bool:
        return bool(self.patience and self.best and self.best["since"] >= self.patience)

    def load_best_weights(self) -> None:
        """Load the weights of the lowest validation loss into the model, on every process."""
        barrier()
        if self.best is not None:
            checkpoints.load_trained(self.network, self.best_weights)

    def is_over(self) -> bool:
        """Whether all steps are done, or early stopping ended the run."""
        return super().is_over() or self._patience_is_over()


def gathered_weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The model's whole state dict, also where ZeRO-3 holds it in pieces; every process must call this."""
    wrapped = trainer.model_wrapped if trainer.is_deepspeed_enabled else trainer.model
    state: dict[str, Tensor] = trainer.accelerator.get_state_dict(wrapped)
    return state


def fit(
    settings: LoopSettings,
    model: nn.Module,
    dataset: TrainingDataset,
    collator: Any,
    folder: Path,
    title: str,
    callbacks: Sequence[TrainerCallback] = (),
    trainer_class: type[StageTrainer] = StageTrainer,
    validate: Callable[[], float] | None = None,
    drop_last: bool = False,
) -> StageTrainer:
    """Train `model` and return the trainer; an interrupted run resumes from its newest checkpoint.

    Args:
        settings: Optimiser, schedule, checkpoints; `TrainSettings.loop` of a stage.
        model: Trained in place.
        dataset: The samples; `train.data.sampling.EpochBatches` documents their order.
        collator: Makes batches of samples.
        folder: The run directory.
        title: Name of the stage, for messages.
        callbacks: More callbacks.
        trainer_class: The trainer to use.
        validate: Computes the validation loss, for `run.eval_every`; the model then ends with the weights of the
            lowest loss.
        drop_last: Skip the last batch of an epoch if it is not full.

    Raises:
        Preempted: The run received SIGTERM or SIGUSR1, and saved a checkpoint.
        UserError: A problem that the user can fix.
    """
    from transformers.trainer_callback import PrinterCallback

    optim = counted(settings.optim, len(dataset), world_size(), drop_last)
    settings = dataclasses.replace(settings, optim=optim)
    own = {f"components.{name}.": part.warmup_steps or 0 for name, part in optim.components.given().items()}
    for part, warmup_steps in {"": optim.warmup_steps, **own}.items():
        if warmup_steps > optim.steps:
            say(
                f"{title}: warning: optim.{part}warmup_steps={warmup_steps} is longer than the run of {optim.steps} "
                f"steps; the learning rate only rises to {optim.steps / warmup_steps:.0%} of optim.{part}lr"
            )
    with backends_log_to(folder / LOGS, settings.run.report_to):
        trainer = trainer_class(
            model=model,
            args=training_arguments(settings, folder, drop_last),
            train_dataset=dataset,
            data_collator=collator,
            callbacks=[RunLog(title, folder / "metrics.jsonl"), *callbacks],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.optim = optim
        trainer.on_nan, trainer.keep_checkpoints = settings.run.on_nan, settings.run.keep_checkpoints
        if settings.run.eval_every:
            trainer.validate, trainer.eval_every = validate, settings.run.eval_every
            trainer.patience = settings.run.patience
        with compiler_errors(settings.run.compile):
            _train(trainer, last_checkpoint(folder, title))
    if trainer.preempted:
        raise Preempted(
            f"{title}: received {trainer.signals.received or 'a signal on another process'}; saved step "
            f"{trainer.state.global_step} of {trainer.state.max_steps}; run the same command again to resume"
        )
    trainer.load_best_weights()
    return trainer


def _train(trainer: StageTrainer, checkpoint: Path | None) -> None:
    try:
        with Signals() as trainer.signals:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    except UserError as error:  # one from a loader's process is wrapped in the traceback of that process
        kind = type(error)
        raise kind(str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()) from error


def last_checkpoint(folder: Path, title: str) -> Path | None:
    """The newest complete checkpoint of a run, the same for every process; the log is cut back to its step.

    Damaged checkpoints are skipped and named.
    """
    checkpoint: Path | None = None
    if is_main_process():
        checkpoints.clear_unfinished(folder / "checkpoints")
        checkpoint, problems = checkpoints.newest_complete(folder / "checkpoints")
        instead = f"resuming from {checkpoint.name}" if checkpoint else "starting from the beginning"
        for line in problems:
            say(f"{title}: {line}; {instead}")
        cut_log(folder / "metrics.jsonl", checkpoints.found_step(checkpoint) if checkpoint else -1)
    chosen: Path | None = gather_objects(checkpoint)[0]
    return chosen
