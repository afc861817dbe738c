"""The config of one training stage; every field can be set in YAML or as ``key.sub=value``."""

from __future__ import annotations

import dataclasses
from typing import Any

from alm.errors import ConfigError
from alm.policy import Policy
from train.views import ViewConfig

STAGES = ("pretrain", "align", "instruct")


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """What a stage trains on.

    Attributes:
        train: Manifests (JSONL); pretraining only uses their audio.
        validation: Manifests scored after training, with the right and with another clip's audio.
        workers: Loader processes.
        cache_features: Encode every clip once with the frozen encoder and keep the tokens in memory.
        feature_folder: Keep the cached tokens there for the next stage with the same encoder and clips.
        cache_limit_gb: Largest feature cache; a larger one is an error before anything is computed.
        max_length: Longest sample in tokens; a longer one is an error naming it.
    """

    train: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    workers: int = 0
    cache_features: bool = False
    feature_folder: str | None = None
    cache_limit_gb: float = 4.0
    max_length: int = 2048


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The optimiser and its schedule (AdamW, linear warm-up, cosine).

    Attributes:
        lr: Peak learning rate.
        steps: Optimiser steps.
        batch_size: Samples per device and forward pass.
        accumulation: Forward passes per optimiser step.
        warmup_steps: Steps of linear warm-up.
        min_lr_ratio: Floor of the cosine as a share of ``lr``.
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
        save_every: Steps between checkpoints that an interrupted run continues from; 0 saves none.
        report_to: Trainer logging backends, for example tensorboard or wandb.
        gradient_checkpointing: Recompute the LLM's activations in the backward pass.
    """

    seed: int = 0
    precision: str = "fp32"
    deepspeed: str | None = None
    log_every: int = 10
    save_every: int = 0
    report_to: tuple[str, ...] = ()
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.log_every < 1 or self.save_every < 0:
            raise ConfigError(
                f"run: got log_every={self.log_every}, save_every={self.save_every}; expected >= 1, >= 0"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"run.precision: got '{self.precision}', expected fp32 or bf16")


@dataclasses.dataclass(frozen=True)
class ContrastiveSettings:
    """The contrastive objective (AudioMosaic, sections 3.1-3.3).

    Attributes:
        mask_layout: ``time_frequency`` (the method) or another layout of :mod:`train.masks`.
        time_ratio: Share of time columns hidden from view 0.
        freq_ratio: Share of frequency bands hidden from view 1.
        temperature: NT-Xent temperature.
        views: Augmentations of :mod:`train.views` (``views.augment: none`` leaves only the masks to tell the two
            views apart); ``views.n_frames`` is set to the encoder's window.
    """

    mask_layout: str = "time_frequency"
    time_ratio: float = 0.6
    freq_ratio: float = 0.4
    temperature: float = 0.1
    views: ViewConfig = ViewConfig()


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """One stage.

    Attributes:
        stage: pretrain, align or instruct.
        out: Run directory; the artifact is written to ``out/model`` (``out/encoder`` when pretraining).
        encoder: Encoder name, directory or hub id (pretrain, align).
        encoder_options: Overrides of the encoder's config.
        projector: Projector name (align).
        projector_options: The projector's options.
        llm: Causal LLM, directory or hub id (align).
        model: Audio-language model to go on from (instruct; also align).
        policy: What trains.
        data: Manifests.
        optim: Optimiser.
        run: Seed, precision, DeepSpeed, logging.
        contrastive: Objective of pretraining.
    """

    stage: str
    out: str
    encoder: str | None = None
    encoder_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    projector: str = "mlp"
    projector_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    llm: str | None = None
    model: str | None = None
    policy: Policy = Policy()
    data: DataSettings = DataSettings()
    optim: OptimSettings = OptimSettings()
    run: RunSettings = RunSettings()
    contrastive: ContrastiveSettings = ContrastiveSettings()

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ConfigError(f"stage: got '{self.stage}', expected one of {', '.join(STAGES)}")
        if not self.data.train:
            raise ConfigError("data.train: no manifest given; name at least one JSONL file")
        if self.stage == "pretrain" and not self.encoder:
            raise ConfigError(
                "encoder: pretraining needs an encoder name or directory, for example audiomosaic"
            )
        if self.stage != "pretrain" and not self.model and not (self.encoder and self.llm):
            raise ConfigError(f"model: stage {self.stage} needs either model, or both encoder and llm")
