"""The configs of the stages that train a model; every field can be set in YAML or as `key.sub=value`.

`TrainSettings` is defined here; the modules of this package hold its sections for data, optimiser, pretraining and
fine-tuning. The package reads no files and loads no models.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from alm.common.errors import ConfigError
from alm.common.settings import check_choice, check_ranges
from alm.configs.shipped import find_deepspeed
from alm.policy import Policy
from train.settings.data import DataSettings
from train.settings.finetune import FinetuneSettings
from train.settings.optim import OptimSettings
from train.settings.pretrain import ContrastiveSettings
from train.stage import STAGES, StageSettings

# Keys of the Trainer's `fsdp_config`, and those of them that are decided here.
_FSDP = (
    *("reshard_after_forward", "cpu_offload", "auto_wrap_policy", "transformer_layer_cls_to_wrap"),
    "min_num_params",
)
_FSDP_DECIDED = {
    "version": "only FSDP2 is supported",
    "state_dict_type": "checkpoints hold whole tensors",
    "cpu_ram_efficient_loading": "every process loads the model",
    "activation_checkpointing": "is set by run.gradient_checkpointing",
    "xla": "needs PyTorch/XLA, which is not supported",
}


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """How a stage runs. All stages that train a model take every option, except options whose text names stages.

    Attributes:
        seed: Seed of initialisation, sampling and augmentation; 0 to 4294967295.
        precision: `fp32`, `bf16` or `fp16` (mixed precision). fp16 scales the loss; not with DeepSpeed and FSDP2.
        deepspeed: DeepSpeed JSON config: a path, or a shipped one (`configs/deepspeed/zero2.json`); None trains
            without DeepSpeed.
        fsdp: Shard weights, gradients and optimiser over all processes with FSDP2, by options of `fsdp_config` of
            `transformers.TrainingArguments`: `{}`, or for example `{reshard_after_forward: false, cpu_offload: true}`;
            None does not shard (align, instruct).
        log_every: Steps between two lines of the log; 1 or more.
        save_every: Steps between two checkpoints; 0 disables them. A run that receives SIGTERM or SIGUSR1 saves one
            in any case. The same command resumes from the newest checkpoint.
        keep_checkpoints: Number of checkpoints to keep, the newest ones; 1 or more.
        eval_every: Steps between two validation runs; the weights with the lowest validation loss become the
            artifact (align, instruct). 0 disables them: the loss is computed once, at the end.
        patience: Early stopping: number of consecutive validation runs without improvement after which training
            stops (align, instruct). 0 disables it.
        on_nan: What to do if the loss is not a number: `stop` the run, or `skip` the step (ten skipped steps in a
            row stop the run). Either way the ids of the batch are written to `nonfinite.jsonl`.
        report_to: Logging backends of the Trainer, for example `tensorboard` or `wandb`; empty: only
            `metrics.jsonl`.
        gradient_checkpointing: Recompute the LLM's activations in the backward pass, which saves memory (align,
            instruct).
        checkpoint_fraction: Share of the encoder's blocks whose activations are recomputed in the backward pass; 0
            to 1 (pretrain).
        compile: Compile the encoder (pretrain), or the LLM's blocks (align, instruct), with torch.compile. Needs a C++
            compiler.
        trainer: Further arguments of `transformers.TrainingArguments`, for example `{adam_epsilon: 1.0e-6}`. An
            argument that another option sets is refused; the error names that option.
    """

    seed: int = 0
    precision: str = "fp32"
    deepspeed: str | None = None
    fsdp: dict[str, Any] | None = None
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
    trainer: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_ranges(
            "run",
            self,
            seed=(0, 2**32 - 1),
            log_every=(1, None),
            save_every=(0, None),
            keep_checkpoints=(1, None),
            eval_every=(0, None),
            patience=(0, None),
            checkpoint_fraction=(0, 1),
        )
        if self.patience and not self.eval_every:
            raise ConfigError(f"run.patience: got {self.patience} with eval_every=0; set run.eval_every too")
        check_choice("run.on_nan", self.on_nan, ("stop", "skip"))
        if self.fsdp is not None:
            self._check_fsdp(self.fsdp)
        check_choice("run.precision", self.precision, ("fp32", "bf16", "fp16"))
        if self.precision == "fp16":
            for name in ("deepspeed", "fsdp"):
                if getattr(self, name) is not None:
                    raise ConfigError(
                        f"run.precision: fp16 is not supported with run.{name}; use bf16, or remove run.{name}"
                    )

    def _check_fsdp(self, options: dict[str, Any]) -> None:
        if self.deepspeed is not None:
            raise ConfigError("run.fsdp: DeepSpeed (run.deepspeed) shards too; remove one of them")
        for key in options:
            if key in _FSDP_DECIDED:
                raise ConfigError(f"run.fsdp.{key}: {_FSDP_DECIDED[key]}; remove it")
            check_choice("run.fsdp", key, _FSDP)

    @property
    def deepspeed_file(self) -> str | None:
        """Path of the DeepSpeed config `deepspeed`; the given text, unchanged, if there is no such file."""
        if self.deepspeed is None:
            return None
        try:
            return str(find_deepspeed(self.deepspeed))
        except ConfigError:  # `train.stages.training.zero_stage` reports it, before anything runs
            return self.deepspeed


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The part of a config that the training loop reads.

    Attributes:
        optim: Optimiser and schedule.
        run: Seed, precision, DeepSpeed, checkpoints, logging.
        workers: Number of loader processes; 0 loads in the main process.
    """

    optim: OptimSettings
    run: RunSettings
    workers: int = 0


@dataclasses.dataclass(frozen=True)
class TrainSettings(StageSettings):
    """The config of a stage that trains a model: pretrain, finetune, align, instruct.

    Attributes:
        stage: Name of the stage. Options of other stages are refused.
        out: Run directory. The artifact is `out/encoder` (pretrain), `out/classifier` (finetune) or `out/model`
            (align, instruct).
        encoder: Encoder name, directory or hub id (all stages; align and instruct only without `model`). In align and
            instruct also several at once: `{fusion: concat, parts: [DIR, {encoder: FILE, model_class: beats}]}`.
        encoder_options: Values that replace keys of the encoder's config.
        projector: Projector name (align, instruct).
        projector_options: The projector's options (align, instruct).
        llm: Causal LLM: directory, hub id or GGUF file (align, instruct). Weights of a GGUF file are de-quantised and
            saved with the model; it needs `pip install 'alm-toolkit[gguf]'`.
        llm_bits: Quantise the LLM's weights to 4 or 8 bits with bitsandbytes; None keeps their precision
            (align, instruct; not with `model`).
        chat_template: A Jinja template, or `plain` or `alpaca-short`; None takes the LLM's own (align, instruct).
        trust_remote_code: Run Python code that comes with the directory or repository of the LLM, also of one that
            `model` refers to (align, instruct). Set it only for an author whom you trust.
        model: Audio-language model to start from, instead of encoder, projector and LLM (align, instruct).
        policy: Which parts are trainable (align, instruct).
        data: Training, validation and test data.
        optim: Optimiser and schedule.
        run: Seed, precision, DeepSpeed, checkpoints, logging.
        contrastive: Objective (pretrain).
        finetune: Head, recipe and evaluation (finetune).
    """

    encoder: str | dict[str, Any] | None = None
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

    @property
    def loop(self) -> LoopSettings:
        """The part that the training loop reads."""
        return LoopSettings(self.optim, self.run, self.data.workers)
