"""Stage `align`: train an audio-language model from an encoder, a projector and an LLM (or an earlier model)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alm.common.errors import ConfigError
from train.settings import TrainSettings
from train.stages.training import TrainingStage, zero_stage

if TYPE_CHECKING:
    from train.engine.estimate import CostEstimate


class TuneStage(TrainingStage):
    """Train an audio-language model on captions and conversations; `policy` decides which parts are trainable."""

    artifact = "model"
    makes_model = True
    fuses = True
    takes = (
        *("encoder", "encoder_options", "projector", "projector_options", "llm", "llm_bits", "chat_template"),
        "trust_remote_code",
        *("model", "policy", "data.cache_features", "data.feature_folder", "data.cache_limit_gb"),
        *("data.max_length", "data.on_bad", "data.max_bad_share", "data.mixture", "data.group_by_length"),
        *("data.supervise", "data.pack", "data.share_clips", "data.augment"),
        *("run.eval_every", "run.patience", "run.gradient_checkpointing", "run.fsdp", "run.compile"),
        *("optim.epochs", "optim.warmup_ratio", "optim.layer_decay", "optim.components"),
    )

    def check_values(self, settings: TrainSettings) -> None:
        """Require training data, and either a model or an encoder and an LLM."""
        super().check_values(settings)
        if not settings.data.train:
            raise ConfigError("data.train: no manifest given; name at least one source")
        if settings.run.eval_every and not settings.data.validation:
            raise ConfigError("run.eval_every: needs data.validation")
        if not settings.model and not (settings.encoder and settings.llm):
            raise ConfigError(f"model: stage {settings.stage} needs either model, or both encoder and llm")
        if settings.llm_bits is not None and settings.model:
            raise ConfigError("llm_bits: a model keeps its LLM in the bits it was aligned with; remove it")
        if settings.llm_bits is not None and settings.run.fsdp is not None:
            raise ConfigError(
                "run.fsdp: the packed weights of a quantised LLM (llm_bits) cannot be split; remove one"
            )
        if settings.run.compile:
            for name in ("fsdp", "deepspeed"):
                if getattr(settings.run, name) is not None:
                    raise ConfigError(
                        f"run.compile: cannot compile an LLM whose weights are split over processes; remove run.{name}"
                    )
            if settings.llm_bits is not None:
                raise ConfigError("run.compile: the LLM is quantised (llm_bits); remove one")
        policy, optim, data = settings.policy, settings.optim, settings.data
        cached = data.cache_features and policy.encoder == "frozen"
        if data.augment.any and cached and not data.augment.versions:
            raise ConfigError(
                "data.augment.versions: cached features need a fixed number of versions of every clip, for example 4; "
                "or set data.cache_features=false"
            )
        encoder = (policy.encoder, *policy.encoder_parts)
        trained = {
            "encoder": "full" in encoder,
            "encoder_lora": "lora" in encoder,
            "projector": policy.projector == "train",
            "llm": policy.llm == "full",
            "llm_lora": policy.llm == "lora",
        }
        for name in optim.components.given():
            if not trained[name]:
                key = name.removesuffix("_lora")
                raise ConfigError(
                    f"optim.components.{name}: policy.{key} is {getattr(policy, key)}, so it is not trainable; "
                    "remove it"
                )
        if optim.layer_decay != 1 and not trained["encoder"]:
            raise ConfigError(
                f"optim.layer_decay: is for a trained encoder; policy.encoder is {policy.encoder}"
            )

    def check(self, settings: TrainSettings) -> dict[str, Any]:
        """Check manifests, the projector's options, and that the best weights can be restored."""
        from alm.data.sources import folder_states, open_records
        from projectors.registry import check_projector

        super().check(settings)
        if settings.run.eval_every and zero_stage(settings) == 3:
            raise ConfigError(
                "run.eval_every: the best weights cannot be restored under ZeRO-3, which splits them over processes; "
                "use configs/deepspeed/zero2.json"
            )
        records = open_records(settings.data.train)
        open_records(settings.data.validation)
        if settings.data.augment.any and not any(record.audio for record in records):
            raise ConfigError("data.augment: no record of data.train has audio; remove it")
        check_projector(settings.projector, settings.projector_options)
        return folder_states([*settings.data.train, *settings.data.validation])

    def build(self, settings: TrainSettings) -> Any:
        """The model with its trainable parts, and its samples."""
        from train.tune.estimate import parts_to_estimate

        return parts_to_estimate(settings)

    def dry_run(self, settings: TrainSettings) -> CostEstimate:
        """Measure a few real steps, encodings and validation batches, and scale time and FLOPs to the whole run."""
        from transformers import set_seed

        from train.tune.estimate import estimate_tuning

        set_seed(settings.run.seed)
        return estimate_tuning(settings)

    def samples(self, settings: TrainSettings) -> Iterator[tuple[str, Callable[[], None]]]:
        """The records of `data.train` and `data.validation`, with every caption."""
        from train.tune.stage import sample_checks

        return sample_checks(settings)

    def run(self, settings: TrainSettings, folder: Path) -> dict[str, Any]:
        """Train and save the model."""
        from train.tune.stage import tune

        return tune(settings, folder)


STAGE = TuneStage()
