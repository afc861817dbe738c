"""Settings of the training loop as arguments of the Trainer, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, Trainer, TrainingArguments, get_scheduler
from transformers.training_args import OptimizerNames

from alm.common.errors import ConfigError, did_you_mean
from alm.common.settings import check_choice
from alm.common.text import error_line
from encoders.devices import accelerator, has_collectives
from train.engine.launchers import warn_of_build_locks
from train.settings import LoopSettings
from train.settings.optim import MIN_LR_SCHEDULE, OptimSettings

# Arguments that options of ours set, or that would change what the loop promises, and what to use instead.
_OURS = {
    "output_dir": "out",
    "max_steps": "optim.steps",
    "num_train_epochs": "optim.epochs",
    "per_device_train_batch_size": "optim.batch_size",
    "gradient_accumulation_steps": "optim.accumulation",
    "learning_rate": "optim.lr",
    "lr_scheduler_type": "optim.lr_scheduler_type",
    "lr_scheduler_kwargs": "optim.lr_scheduler_kwargs",
    "warmup_steps": "optim.warmup_steps",
    "warmup_ratio": "optim.warmup_ratio",
    "optim": "optim.optimizer",
    "optim_args": "optim.optimizer_args",
    "weight_decay": "optim.weight_decay",
    "adam_beta2": "optim.beta2",
    "max_grad_norm": "optim.max_grad_norm",
    "bf16": "run.precision",
    "fp16": "run.precision",
    "deepspeed": "run.deepspeed",
    "fsdp": "run.fsdp",
    "fsdp_config": "run.fsdp",
    "seed": "run.seed",
    "data_seed": "run.seed",
    "logging_strategy": "run.log_every",
    "logging_steps": "run.log_every",
    "save_strategy": "run.save_every",
    "save_steps": "run.save_every",
    "save_total_limit": "run.keep_checkpoints",
    "report_to": "run.report_to",
    "gradient_checkpointing": "run.gradient_checkpointing",
    "activation_checkpointing": "run.gradient_checkpointing",
    "eval_strategy": "run.eval_every",
    "eval_steps": "run.eval_every",
    "load_best_model_at_end": "run.eval_every",
    "dataloader_num_workers": "data.workers",
    "train_sampling_strategy": "data.group_by_length",
}
# Arguments that no option sets: the loop has its own value for them, or does not use the feature that they control.
_DECIDED = (
    *(
        "remove_unused_columns",
        "disable_tqdm",
        "use_cpu",
        "label_names",
        "dataloader_drop_last",
        "do_train",
        "do_eval",
    ),
    *(
        "do_predict",
        "resume_from_checkpoint",
        "ignore_data_skip",
        "save_only_model",
        "push_to_hub",
        "local_rank",
    ),
    *("restore_callback_states_from_checkpoint", "per_device_eval_batch_size", "eval_delay", "eval_on_start"),
    *("metric_for_best_model", "greater_is_better", "prediction_loss_only", "auto_find_batch_size"),
    *("eval_do_concat_batches", "eval_use_gather_object", "eval_accumulation_steps", "include_for_metrics"),
    *(
        "batch_eval_metrics",
        "length_column_name",
        "full_determinism",
        "enable_jit_checkpoint",
        "hub_model_id",
    ),
    *(
        "hub_strategy",
        "hub_token",
        "hub_private_repo",
        "hub_always_push",
        "hub_revision",
        "save_on_each_node",
    ),
)
# Arguments that the Trainer would accept, and that would change nothing or compute something else here.
_UNSUPPORTED = {
    "use_liger_kernel": "the Trainer looks for kernels of the whole model's type, and there are none for this one",
    "liger_kernel_config": "Liger kernels are not supported",
    "parallelism_config": "sequence, context and tensor parallelism are not supported",
}
_LAUNCHER_PRECISION = "ACCELERATE_MIXED_PRECISION"  # set by `accelerate launch`
_NEED_METRICS = ("reduce_lr_on_plateau", "greedy")  # schedules that follow an evaluation of the Trainer


def training_arguments(settings: LoopSettings, folder: Path, drop_last: bool = False) -> TrainingArguments:
    """Settings of the loop as arguments of the Trainer.

    Raises:
        ConfigError: `run.trainer` has values that the Trainer refuses.
    """
    run, optim = settings.run, settings.optim
    # Passed only if it is on: newer releases of transformers call it activation_checkpointing.
    optional: dict[str, Any] = {"gradient_checkpointing": True} if run.gradient_checkpointing else {}
    if optim.optimizer is not None:
        optional["optim"] = optim.optimizer
    if optim.optimizer_args is not None:
        optional["optim_args"] = optim.optimizer_args
    if run.fsdp is not None:
        optional |= {"fsdp": True, "fsdp_config": dict(run.fsdp)}
    fp16 = run.precision == "fp16"
    own_clips = any(part.max_grad_norm for part in optim.components.given().values())
    if run.deepspeed_file is not None:
        warn_of_build_locks()
    try:
        return TrainingArguments(
            output_dir=str(folder / "checkpoints"),
            max_steps=optim.steps,
            per_device_train_batch_size=optim.batch_size,
            gradient_accumulation_steps=optim.accumulation,
            learning_rate=optim.lr,
            lr_scheduler_type=optim.lr_scheduler_type,
            lr_scheduler_kwargs=schedule_options(optim),
            warmup_steps=optim.warmup_steps,
            weight_decay=optim.weight_decay,
            adam_beta2=optim.beta2,
            # 0 would also skip the components' clipping, and the check of the norm in fp16
            max_grad_norm=math.inf
            if (own_clips or fp16) and not optim.max_grad_norm
            else optim.max_grad_norm,
            bf16=run.precision == "bf16",
            fp16=fp16,
            deepspeed=run.deepspeed_file,
            seed=run.seed,
            data_seed=run.seed,
            logging_steps=run.log_every,
            save_strategy="steps" if run.save_every else "no",
            save_steps=run.save_every or 500,
            report_to=list(run.report_to) or "none",
            **optional,
            dataloader_num_workers=settings.workers,
            remove_unused_columns=False,
            disable_tqdm=True,
            use_cpu=accelerator() is None,
            label_names=["labels"],
            dataloader_drop_last=drop_last,
            **run.trainer,
        )
    except (TypeError, ValueError, ImportError, AttributeError) as error:
        if not run.trainer and run.fsdp is None:
            raise
        where = "run.fsdp" if run.fsdp is not None else "run.trainer"
        raise ConfigError(f"{where}: {error_line(error, 300)}") from error


def schedule_options(optim: OptimSettings) -> dict[str, Any]:
    """The schedule's own options."""
    floor = {"min_lr_rate": optim.min_lr_ratio} if optim.lr_scheduler_type == MIN_LR_SCHEDULE else {}
    return {**floor, **optim.lr_scheduler_kwargs}


def counted(optim: OptimSettings, n_samples: int, world: int, drop_last: bool = False) -> OptimSettings:
    """The settings with steps in place of epochs, and warm-up steps in place of a ratio.

    Args:
        optim: The settings.
        n_samples: Samples of an epoch.
        world: Number of processes.
        drop_last: Whether the last batch of an epoch is skipped if it is not full.
    """
    steps = optim.steps
    if optim.epochs is not None:
        together = optim.batch_size * world
        batches = max(1, n_samples // together if drop_last else math.ceil(n_samples / together))
        steps = max(1, math.ceil(optim.epochs * math.ceil(batches / optim.accumulation)))
    warmup = optim.warmup_steps if optim.warmup_ratio is None else math.ceil(optim.warmup_ratio * steps)
    return dataclasses.replace(optim, steps=steps, epochs=None, warmup_steps=warmup, warmup_ratio=None)


def check_arguments(settings: LoopSettings) -> None:
    """Check optimiser, schedule and `run.trainer` before anything is loaded.

    Raises:
        ConfigError: An unknown optimiser, schedule or argument; options that the optimiser or schedule does not take;
            an argument that another option sets; or an optimiser whose package is missing.
    """
    optim, run = settings.optim, settings.run
    launcher = os.environ.get(_LAUNCHER_PRECISION, "no")
    if launcher not in ("no", run.precision):
        raise ConfigError(
            f"{_LAUNCHER_PRECISION}={launcher}: accelerate launch chose another precision than run.precision "
            f"({run.precision}); remove it there, or set run.precision"
        )
    _check_trainer(run.trainer)
    device = accelerator()
    if run.deepspeed is not None and device is not None and not has_collectives(device):
        raise ConfigError(
            f"run.deepspeed: needs CUDA, XPU, NPU or the CPU, and this machine has {device.type}; remove it, or set "
            "ACCELERATE_USE_CPU=1 and DS_ACCELERATOR=cpu"
        )
    parts = {name: part for name, part in optim.components.given().items() if part.has_schedule}
    where = {"optim": (optim.lr_scheduler_type, schedule_options(optim))} | {
        f"optim.components.{name}": _own_schedule(optim, name) for name in parts
    }
    for place, (name, options) in where.items():
        _check_schedule(place, name, options)
    if optim.optimizer is not None:
        check_choice("optim.optimizer", optim.optimizer, [name.value for name in OptimizerNames])
    if run.deepspeed and any(part.max_grad_norm is not None for part in optim.components.given().values()):
        raise ConfigError(
            "optim.components: max_grad_norm: DeepSpeed clips the whole gradient itself; use optim.max_grad_norm"
        )
    if run.fsdp is not None:
        alone = dataclasses.replace(settings, run=dataclasses.replace(run, trainer={}))
        training_arguments(alone, Path("unused"))
    if run.trainer or optim.optimizer or optim.optimizer_args:
        plain = dataclasses.replace(settings, run=dataclasses.replace(run, deepspeed=None, fsdp=None))
        arguments = training_arguments(plain, Path("unused"))
        origin = (
            "run.trainer" if optim.optimizer_args is None else f"optim.optimizer_args: {optim.optimizer_args}"
        )
        if optim.optimizer is not None:
            origin = f"optim.optimizer: {optim.optimizer}"
        try:
            arguments.get_process_log_level()
            made, options = Trainer.get_optimizer_cls_and_kwargs(arguments, nn.Linear(1, 1))  # type: ignore[arg-type]
            if not {"params", "model", "optimizer_dict"} & options.keys():
                made([nn.Parameter(torch.zeros(1))], **options)
        except Exception as error:  # each optimiser's package has its own types
            raise ConfigError(f"{origin}: {error_line(error, 300)}") from error
        if not isinstance(made, type) or {"params", "model", "optimizer_dict"} & options.keys():
            if optim.components.given() or optim.layer_decay != 1:
                raise ConfigError(
                    f"optim.optimizer: {optim.optimizer} groups parameters itself; remove optim.components and "
                    "optim.layer_decay, or use another"
                )


def _check_trainer(given: dict[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(TrainingArguments) if field.init]
    for key in given:
        if key in _OURS:
            raise ConfigError(f"run.trainer.{key}: is set by {_OURS[key]}; use that")
        if key in _DECIDED:
            raise ConfigError(f"run.trainer.{key}: is decided by the training loop; remove it")
        if key in _UNSUPPORTED:
            raise ConfigError(f"run.trainer.{key}: {_UNSUPPORTED[key]}; remove it")
        if key not in known:
            hint = did_you_mean(key, known, "see transformers.TrainingArguments")
            raise ConfigError(f"run.trainer: TrainingArguments has no '{key}'; {hint}")


def _own_schedule(optim: OptimSettings, component: str) -> tuple[str, dict[str, Any]]:
    """Name and options of a component's schedule."""
    own = optim.components.given()[component]
    options = own.lr_scheduler_kwargs
    if own.lr_scheduler_type is None:
        return optim.lr_scheduler_type, {**schedule_options(optim), **(options or {})}
    floor = {"min_lr_rate": optim.min_lr_ratio} if own.lr_scheduler_type == MIN_LR_SCHEDULE else {}
    return own.lr_scheduler_type, {**floor, **(options or {})}


def _check_schedule(place: str, name: str, options: dict[str, Any]) -> None:
    check_choice(
        f"{place}.lr_scheduler_type",
        name,
        [kind.value for kind in SchedulerType if kind.value not in _NEED_METRICS],
    )
    try:
        _lambda(name, options, 1e-3, 0, 10)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}.lr_scheduler_kwargs: {name}: {error_line(error, 300)}") from error


def _lambda(name: str, options: dict[str, Any], lr: float, warmup: int, steps: int) -> Any:
    """The factor of the learning rate by step, as the Trainer's schedule of that name computes it."""
    scratch = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    made = get_scheduler(name, scratch, warmup, steps, scheduler_specific_kwargs=dict(options))
    assert isinstance(made, LambdaLR)
    return made.lr_lambdas[0]


def component_schedule(optim: OptimSettings, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR | None:
    """A schedule per parameter group, by the group's `component`; None where all have the one of `optim`.

    Args:
        optim: The settings, with counted steps.
        optimizer: Each of its groups names its component in `component`.
        steps: Steps of the whole run.
    """
    given = optim.components.given()
    if not any(part.has_schedule for part in given.values()):
        return None
    factors = []
    for group in optimizer.param_groups:
        own = given.get(group["component"])
        warmup = optim.warmup_steps
        name, options = optim.lr_scheduler_type, schedule_options(optim)
        if own is not None and own.has_schedule:
            name, options = _own_schedule(optim, group["component"])
            warmup = warmup if own.warmup_steps is None else own.warmup_steps
        factors.append(_lambda(name, options, group["lr"], warmup, steps))
    return LambdaLR(optimizer, factors)
