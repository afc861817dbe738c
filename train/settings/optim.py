"""The optimiser's config: learning rates, schedules, weight decay and clipping, for the model and per component."""

from __future__ import annotations

import dataclasses
from typing import Any

from alm.common.errors import ConfigError
from alm.common.settings import check_ranges

COMPONENTS = ("encoder", "encoder_lora", "projector", "llm", "llm_lora")
"""The parts of an audio-language model that can have an optimiser setting of their own."""
MIN_LR_SCHEDULE = "cosine_with_min_lr"
_DEFAULT_WARMUP_STEPS = 50
_DEFAULT_STEPS = 1000
_DEFAULT_MIN_LR_RATIO = 0.05


@dataclasses.dataclass(frozen=True)
class ComponentOptim:
    """Optimiser settings of one component; None takes the value of `optim`.

    Attributes:
        lr: Peak learning rate; more than 0.
        weight_decay: Weight decay of matrices; 0 or more.
        warmup_steps: Steps in which the learning rate rises linearly from 0; 0 or more.
        lr_scheduler_type: Schedule by the Trainer's name.
        lr_scheduler_kwargs: The schedule's own options.
        max_grad_norm: Largest norm of this component's gradient, which is clipped by itself; 0 disables clipping.
    """

    lr: float | None = None
    weight_decay: float | None = None
    warmup_steps: int | None = None
    lr_scheduler_type: str | None = None
    lr_scheduler_kwargs: dict[str, Any] | None = None
    max_grad_norm: float | None = None

    def __post_init__(self) -> None:
        at_least_zero = (0, None)
        given = {field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None}
        limits = dict.fromkeys(("lr", "weight_decay", "warmup_steps", "max_grad_norm"), at_least_zero)
        check_ranges("optim.components", self, **{key: limits[key] for key in limits if key in given})
        if self.lr == 0:
            raise ConfigError(
                "optim.components: got lr=0; expected more than 0, or freeze the component (policy)"
            )

    @property
    def has_schedule(self) -> bool:
        """Whether this component has a schedule of its own."""
        return (self.warmup_steps, self.lr_scheduler_type, self.lr_scheduler_kwargs) != (None, None, None)


@dataclasses.dataclass(frozen=True)
class ComponentsOptim:
    """Optimiser settings per component (align, instruct).

    Attributes:
        encoder: The encoder, if it is trained in full.
        encoder_lora: The encoder's LoRA adapters.
        projector: The projector, and the weights of a sum of encoder layers.
        llm: The LLM, if it is trained in full.
        llm_lora: The LLM's LoRA adapters.
    """

    encoder: ComponentOptim = ComponentOptim()
    encoder_lora: ComponentOptim = ComponentOptim()
    projector: ComponentOptim = ComponentOptim()
    llm: ComponentOptim = ComponentOptim()
    llm_lora: ComponentOptim = ComponentOptim()

    def given(self) -> dict[str, ComponentOptim]:
        """The components for which anything is set."""
        own = {name: getattr(self, name) for name in COMPONENTS}
        return {name: component for name, component in own.items() if component != ComponentOptim()}


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The optimiser and its schedule: AdamW, linear warm-up, cosine decay.

    All stages that train a model take every option, except options whose text names stages.

    Attributes:
        lr: Peak learning rate; more than 0.
        steps: Number of optimiser steps; 1 or more. In stage finetune `finetune.epochs` replaces it.
        epochs: Number of passes through the samples, in place of `steps` (pretrain, align, instruct).
        batch_size: Samples per process and forward pass; 1 or more.
        accumulation: Forward passes per optimiser step (gradient accumulation); 1 or more.
        optimizer: Optimiser by the Trainer's name (its argument `optim`); None takes its default, an AdamW.
        optimizer_args: The optimiser's own options, as the Trainer's `optim_args`: `key=value,key=value`.
        warmup_steps: Steps in which the learning rate rises linearly from 0; 0 or more.
        warmup_ratio: Warm-up steps as a share of all steps, in place of `warmup_steps` (pretrain, align, instruct).
        lr_scheduler_type: Schedule by the Trainer's name.
        lr_scheduler_kwargs: The schedule's own options.
        min_lr_ratio: Learning rate at the end of the schedule `cosine_with_min_lr`, as a share of `lr`; 0 to 1.
        weight_decay: Weight decay of matrices; 0 or more. Biases, norms, positions and the CLS token have none.
        beta2: AdamW's second beta; 0 or more, below 1.
        max_grad_norm: Largest norm of the gradient, which is clipped; 0 disables clipping.
        layer_decay: Factor of the learning rate from one block of a trained encoder to the block below; above 0, 1
            disables it (align, instruct; in stage finetune it is `finetune.layer_decay`).
        components: What differs per component (align, instruct).
    """

    lr: float = 1e-3
    steps: int = _DEFAULT_STEPS
    epochs: float | None = None
    batch_size: int = 16
    accumulation: int = 1
    optimizer: str | None = None
    optimizer_args: str | None = None
    warmup_steps: int = _DEFAULT_WARMUP_STEPS
    warmup_ratio: float | None = None
    lr_scheduler_type: str = MIN_LR_SCHEDULE
    lr_scheduler_kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    min_lr_ratio: float = _DEFAULT_MIN_LR_RATIO
    weight_decay: float = 0.01
    beta2: float = 0.98
    max_grad_norm: float = 1.0
    layer_decay: float = 1.0
    components: ComponentsOptim = ComponentsOptim()

    def __post_init__(self) -> None:
        at_least_one, at_least_zero = (1, None), (0, None)
        check_ranges(
            "optim",
            self,
            steps=at_least_one,
            batch_size=at_least_one,
            accumulation=at_least_one,
            warmup_steps=at_least_zero,
            min_lr_ratio=(0, 1),
            weight_decay=at_least_zero,
            max_grad_norm=at_least_zero,
            lr=at_least_zero,
            beta2=(0, 1),
            layer_decay=(0, 1),
            **({} if self.epochs is None else {"epochs": at_least_zero}),
            **({} if self.warmup_ratio is None else {"warmup_ratio": (0, 1)}),
        )
        if self.lr == 0 or self.beta2 == 1:
            raise ConfigError(f"optim: got lr={self.lr}, beta2={self.beta2}; expected lr > 0 and beta2 < 1")
        if self.layer_decay == 0 or self.epochs == 0:
            raise ConfigError(
                f"optim: got layer_decay={self.layer_decay}, epochs={self.epochs}; expected more than 0"
            )
        if self.epochs is not None and self.steps != _DEFAULT_STEPS:
            raise ConfigError(f"optim: got steps={self.steps} and epochs={self.epochs}; give one of them")
        if self.warmup_ratio is not None and self.warmup_steps != _DEFAULT_WARMUP_STEPS:
            raise ConfigError(
                f"optim: got warmup_steps={self.warmup_steps} and warmup_ratio={self.warmup_ratio}; give one of them"
            )
        if self.lr_scheduler_type != MIN_LR_SCHEDULE and self.min_lr_ratio != _DEFAULT_MIN_LR_RATIO:
            raise ConfigError(
                f"optim.min_lr_ratio: is for the schedule {MIN_LR_SCHEDULE}, not {self.lr_scheduler_type}; use "
                "optim.lr_scheduler_kwargs"
            )
