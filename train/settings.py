"""The config of one training stage; every field can be set in YAML or as `key.sub=value`."""

from __future__ import annotations

import dataclasses
from typing import Any

from alm.common.errors import ConfigError
from alm.policy import Policy
from train.data.settings import DataSettings
from train.finetune.settings import FinetuneSettings
from train.pretrain.losses import LOSSES
from train.pretrain.masks import MASK_LAYOUTS
from train.pretrain.views import ViewConfig
from train.stages.base import STAGES, StageSettings


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The optimiser and its schedule (AdamW, linear warm-up, cosine).

    Attributes:
        lr: Peak learning rate.
        steps: Optimiser steps.
        batch_size: Samples per device and forward pass.
        accumulation: Forward passes per optimiser step.
        warmup_steps: Steps of linear warm-up.
        min_lr_ratio: Floor of the cosine as a share of `lr`.
        weight_decay: On matrices only; biases, norms, positions and the CLS token are exempt.
        beta2: AdamW's second beta.
        max_grad_norm: Gradient clipping; 0 turns it off.
    """

    lr: float = 1e-3
    steps: int = 1000
    batch_size: int = 16
    accumulation: int = 1
    warmup_steps: int = 50
    min_lr_ratio: float = 0.05
    weight_decay: float = 0.01
    beta2: float = 0.98
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        for key in ("steps", "batch_size", "accumulation"):
            if getattr(self, key) < 1:
                raise ConfigError(f"optim.{key}: got {getattr(self, key)}, expected 1 or more")
        if self.lr <= 0 or self.warmup_steps < 0:
            raise ConfigError(
                f"optim: got lr={self.lr}, warmup_steps={self.warmup_steps}; expected lr > 0, warm-up >= 0"
            )


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How a stage runs.

    Attributes:
        seed: Seed of initialisation, sampling and augmentation.
        precision: fp32 or bf16.
        deepspeed: A DeepSpeed JSON config; None trains without DeepSpeed.
        log_every: Steps between log lines.
        save_every: Steps between checkpoints that an interrupted run continues from; 0 saves none, except when the
            run is asked to leave (SIGTERM, SIGUSR1).
        keep_checkpoints: How many checkpoints are kept.
        eval_every: Steps between looks at the validation loss (align, instruct); the weights that did best become the
            artifact. 0 looks once, at the end.
        patience: Looks in a row without a better loss that end the run; 0 never does.
        on_nan: What a loss that is not a number does: `stop` the run, or `skip` the step (ten in a row stop it).
            The batch's ids are written to `nonfinite.jsonl` either way.
        report_to: Trainer logging backends, for example tensorboard or wandb.
        gradient_checkpointing: Recompute the LLM's activations in the backward pass.
        checkpoint_fraction: Share of the pretrained encoder's blocks whose activations are recomputed.
        compile: Compile the pretrained encoder (torch.compile).
    """

    seed: int = 0
    precision: str = "fp32"
    deepspeed: str | None = None
    log_every: int = 10
    save_every: int = 0
    keep_checkpoints: int = 2
    eval_every: int = 0
    patience: int = 0
    on_nan: str = "stop"
    report_to: tuple[str, ...] = ()
    gradient_checkpointing: bool = False
    checkpoint_fraction: float = 0.0
    compile: bool = False

    def __post_init__(self) -> None:
        if self.log_every < 1 or self.save_every < 0:
            raise ConfigError(
                f"run: got log_every={self.log_every}, save_every={self.save_every}; expected >= 1, >= 0"
            )
        if self.eval_every < 0 or self.patience < 0 or (self.patience and not self.eval_every):
            raise ConfigError(
                f"run: got eval_every={self.eval_every}, patience={self.patience}; expected 0 or more, and "
                "eval_every for patience"
            )
        if self.keep_checkpoints < 1:
            raise ConfigError(f"run.keep_checkpoints: got {self.keep_checkpoints}, expected 1 or more")
        if self.on_nan not in ("stop", "skip"):
            raise ConfigError(f"run.on_nan: got '{self.on_nan}', expected stop or skip")
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"run.precision: got '{self.precision}', expected fp32 or bf16")
        if not 0.0 <= self.checkpoint_fraction <= 1.0:
            raise ConfigError(
                f"run.checkpoint_fraction: got {self.checkpoint_fraction}, expected a share from 0 to 1"
            )


@dataclasses.dataclass(frozen=True)
class ProbeSettings:
    """A small labelled set that pretraining is watched on.

    Attributes:
        labels: Label table with ESC-50's columns (filename, fold, category); None watches nothing.
        every: Steps between probes.
        test_folds: Folds that are asked about, the others are learnt from; None holds out the last one. Clips of
            one source recording never are on both sides.
        neighbours: The k of the k-nearest-neighbour probe.
    """

    labels: str | None = None
    every: int = 1000
    test_folds: tuple[str, ...] | None = None
    neighbours: int = 10

    def __post_init__(self) -> None:
        if self.every < 1 or self.neighbours < 1:
            raise ConfigError(
                f"contrastive.probe: got every={self.every}, neighbours={self.neighbours}; expected 1 or more"
            )


@dataclasses.dataclass(frozen=True)
class ContrastiveSettings:
    """The contrastive objective (AudioMosaic, sections 3.1-3.3).

    Attributes:
        mask_layout: `time_frequency` (the method) or another layout of `train.pretrain.masks`.
        time_ratio: Share of time columns hidden from view 0.
        freq_ratio: Share of frequency bands hidden from view 1.
        loss: `nt_xent` (the published one) or `siglip` (all pairs by themselves, learnt temperature and bias).
        temperature: NT-Xent temperature.
        loss_chunk_rows: Rows of the logits computed at a time, for batches whose logits do not fit; 0: all.
        grad_cache_chunk: Clips encoded at a time, for batches whose activations do not fit (see `gradcache`);
            0: the whole batch. Costs one more forward pass.
        views: Augmentations of `train.pretrain.views` (`views.augment: none` leaves only the masks to tell the two
            views apart); `views.n_frames` is set to the encoder's window.
        one_source_batches: Fill every batch from one entry of `data.train`, so that no clip is told from another by
            the data set it is of. What is left over when a source's whole batches are taken mixes.
        probe: A labelled set to watch the encoder on while it trains.
    """

    mask_layout: str = "time_frequency"
    time_ratio: float = 0.6
    freq_ratio: float = 0.4
    loss: str = "nt_xent"
    temperature: float = 0.1
    loss_chunk_rows: int = 0
    grad_cache_chunk: int = 0
    views: ViewConfig = ViewConfig()
    one_source_batches: bool = False
    probe: ProbeSettings = ProbeSettings()

    def __post_init__(self) -> None:
        for key, choices in (("loss", LOSSES.names()), ("mask_layout", MASK_LAYOUTS.names())):
            if getattr(self, key) not in choices:
                raise ConfigError(
                    f"contrastive.{key}: got '{getattr(self, key)}', expected one of {', '.join(choices)}"
                )
        for key in ("time_ratio", "freq_ratio"):
            if not 0.0 <= getattr(self, key) < 1.0:
                raise ConfigError(f"contrastive.{key}: got {getattr(self, key)}, expected 0 or more, below 1")
        if self.temperature <= 0 or self.loss_chunk_rows < 0 or self.grad_cache_chunk < 0:
            raise ConfigError(
                f"contrastive: got temperature={self.temperature}, loss_chunk_rows={self.loss_chunk_rows}, "
                f"grad_cache_chunk={self.grad_cache_chunk}; expected > 0, >= 0, >= 0"
            )


@dataclasses.dataclass(frozen=True)
class TrainSettings(StageSettings):
    """The config of a stage that trains a model: pretrain, finetune, align, instruct.

    Attributes:
        stage: Name of the stage. Options of other stages are refused.
        out: Run directory. The artifact is `out/encoder` (pretrain), `out/classifier` (finetune) or `out/model`
            (align, instruct).
        encoder: Encoder name, directory or hub id (all stages; align and instruct only without `model`).
        encoder_options: Values that replace keys of the encoder's config.
        projector: Projector name (align, instruct).
        projector_options: The projector's options (align, instruct).
        llm: Causal LLM: directory or hub id (align, instruct).
        llm_bits: Quantise the LLM's weights to 4 or 8 bits with bitsandbytes; None keeps their precision
            (align, instruct; not with `model`).
        chat_template: A Jinja template, or `plain` or `alpaca-short`; None takes the LLM's own (align, instruct).
        trust_remote_code: Run Python code that comes with the LLM's directory or repository (align, instruct). Set it
            only for an author whom you trust.
        model: Audio-language model to start from, instead of encoder, projector and LLM (align, instruct).
        policy: Which parts are trainable (align, instruct).
        data: Training, validation and test data.
        optim: Optimiser and schedule.
        run: Seed, precision, DeepSpeed, checkpoints, logging.
        contrastive: Objective (pretrain).
        finetune: Head, recipe and evaluation (finetune).
    """

    encoder: str | None = None
    encoder_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    projector: str = "mlp"
    projector_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    llm: str | None = None
    llm_bits: int | None = None
    chat_template: str | None = None
    trust_remote_code: bool = False
    model: str | None = None
    policy: Policy = Policy()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    run: RunSettings = RunSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()
    finetune: FinetuneSettings = FinetuneSettings()

    def __post_init__(self) -> None:
        stage = STAGES.get(self.stage)
        if not isinstance(self, stage.settings):
            raise ConfigError(
                f"stage: '{self.stage}' has its own options ({stage.settings.__name__}), not those of a training stage"
            )
        if self.run.on_nan == "skip" and self.run.deepspeed and self.optim.accumulation > 1:
            raise ConfigError(
                "run.on_nan: DeepSpeed cannot undo the micro-batches before the one to skip; use stop, or "
                "optim.accumulation=1"
            )
        stage.check_values(self)
