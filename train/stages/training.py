"""The base class of the stages that train a model with the shared training loop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alm.common.errors import ConfigError
from alm.common.fields import located
from alm.common.json_text import read_json_object
from alm.common.processes import check_launch
from alm.common.settings import check_choice
from alm.configs.shipped import find_deepspeed
from encoders.audio.options import AudioOptions
from encoders.registry import encoder_sources
from train.settings import TrainSettings
from train.stage import STAGES, Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from train.engine.estimate import CostEstimate


class TrainingStage(Stage[TrainSettings]):
    """A stage with the config `TrainSettings`.

    Attributes:
        takes: Dotted keys of the options that this stage has but some other stages do not. An option that only
            other stages list must keep its default value.
        fuses: Whether the encoder may be a fusion of several.
        drop_last: Whether the last batch of an epoch is skipped if it is not full.
    """

    settings = TrainSettings
    every_process = True
    resumes: tuple[str, ...] = ("checkpoints", "metrics.jsonl", "logs", "nonfinite.jsonl", "quarantine.jsonl")
    takes: tuple[str, ...] = ()
    fuses: bool = False
    drop_last: bool = False

    def check_values(self, settings: TrainSettings) -> None:
        """Refuse options that only other stages take, and a mapping that does not describe a fusion of encoders."""
        if isinstance(settings.encoder, dict):
            if not self.fuses:
                raise ConfigError(
                    f"encoder: stage {settings.stage} takes one encoder, not a fusion of several"
                )
            encoder_sources(settings.encoder)
        default = TrainSettings.__dataclass_fields__
        for key in sorted({key for stage in training_stages().values() for key in stage.takes}):
            if key in self.takes:
                continue
            section, _, name = key.rpartition(".")
            if section:
                value, usual = (
                    getattr(getattr(settings, section), name),
                    getattr(default[section].default, name),
                )
            else:
                factory = default[key].default_factory
                value = getattr(settings, name)
                usual = default[key].default if factory is dataclasses.MISSING else factory()
            if value != usual:
                *some, last = [other for other, stage in training_stages().items() if key in stage.takes]
                takers = f"stages {', '.join(some)} and {last}" if some else f"stage {last}"
                raise ConfigError(f"{key}: is for {takers}, not {settings.stage}")

    def inputs(self, settings: TrainSettings) -> list[str]:
        """Data, encoder, LLM and model, label table of the probe, DeepSpeed config."""
        data = settings.data
        named = (settings.llm, settings.model, settings.contrastive.probe.labels)
        sources = map(str, (*data.train, *data.validation, *data.test))
        encoders = [] if settings.encoder is None else encoder_sources(settings.encoder)
        return [*sources, *encoders, *filter(None, (*named, settings.run.deepspeed_file))]

    def audio(self, settings: TrainSettings) -> AudioOptions:
        """Options of the config's `data` section."""
        return settings.data.audio

    def check(self, settings: TrainSettings) -> dict[str, Any]:
        """Check the launcher, DeepSpeed's config, logging backends, and arguments of the Trainer."""
        from train.engine.arguments import check_arguments
        from train.engine.compiled import check_compiler
        from train.engine.fsdp import check_launcher
        from train.processes import join

        check_launch()
        timeout_s = settings.run.trainer.get("ddp_timeout")
        # The Trainer comes too late for this argument. Wrong values are refused below.
        if isinstance(timeout_s, int | float) and timeout_s > 0:
            join(timeout_s)
        zero_stage(settings)
        check_launcher()
        check_report_to(settings.run.report_to)
        check_arguments(settings.loop)
        if settings.run.compile:
            check_compiler()
        return {}

    def build(
        self, settings: TrainSettings
    ) -> tuple[nn.Module, Any, Callable[..., dict[str, Tensor]]] | None:
        """Model, samples and collator for the dry run; None if this stage has no dry run."""
        return None

    def dry_run(self, settings: TrainSettings) -> CostEstimate | None:
        """Measure a few real steps, and scale time and FLOPs to the whole run."""
        from transformers import set_seed

        from train.engine.estimate import estimate_cost

        set_seed(settings.run.seed)
        built = self.build(settings)
        return None if built is None else estimate_cost(settings, *built, drop_last=self.drop_last)


def training_stages() -> dict[str, TrainingStage]:
    """The stages that train with `TrainSettings`, by name."""
    found = {name: STAGES.get(name) for name in STAGES.names()}
    return {name: stage for name, stage in found.items() if isinstance(stage, TrainingStage)}


def stages_of_key(key: str) -> tuple[str, ...]:
    """The training stages that take an option, for example `run.compile` or `policy.llm`."""
    stages = training_stages()
    parts = key.split(".")
    within = {".".join(parts[: end + 1]) for end in range(len(parts))}
    takers = tuple(name for name, stage in stages.items() if within.intersection(stage.takes))
    return takers or tuple(stages)


def check_report_to(names: Sequence[str]) -> None:
    """Check that the logging backends of the Trainer exist and are installed.

    Raises:
        ConfigError: An unknown backend, or one whose package is missing.
    """
    if not names:
        return
    from transformers.integrations.integration_utils import (
        INTEGRATION_TO_CALLBACK,
        get_available_reporting_integrations,
    )

    for name in names:
        check_choice("run.report_to", name, sorted(INTEGRATION_TO_CALLBACK))
        if name not in get_available_reporting_integrations():
            raise ConfigError(
                f"run.report_to: the package of '{name}' is not installed; run pip install {name}, or remove it"
            )


def zero_stage(settings: TrainSettings) -> int:
    """The ZeRO stage of the DeepSpeed config; 0 without DeepSpeed.

    Raises:
        ConfigError: The DeepSpeed config is missing or not a JSON object.
    """
    if settings.run.deepspeed is None:
        return 0
    with located("run.deepspeed"):
        path = find_deepspeed(settings.run.deepspeed)
    try:
        zero = read_json_object(path, ConfigError).get("zero_optimization", {})
        return int(zero.get("stage", 0))
    except (ConfigError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"run.deepspeed: {path} is not a DeepSpeed config ({error}); see configs/deepspeed"
        ) from error
