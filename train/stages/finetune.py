"""Stage `finetune`: an encoder and a head on labelled clips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from train.settings import TrainSettings
from train.stages.training import TrainingStage, zero_stage


class FinetuneStage(TrainingStage):
    """Fine-tuning or probing: the epoch is chosen on validation clips, the scores are those of test clips."""

    artifact = "classifier"
    outputs = ("encoder", "predictions.jsonl", "scores.json", "scores.md")
    resumes = (*TrainingStage.resumes, "control")
    takes = (
        *("encoder", "encoder_options", "finetune", "data.test", "data.dataset", "data.dataset_options"),
        *("data.folds", "data.feature_folder", "data.cache_limit_gb"),
    )

    def check_values(self, settings: TrainSettings) -> None:
        """Require an encoder and exactly one source of labelled clips."""
        super().check_values(settings)
        data = settings.data
        if not settings.encoder:
            raise ConfigError(
                "encoder: fine-tuning needs an encoder name or directory, for example audiomosaic"
            )
        if bool(data.dataset) == bool(data.train):
            got = "both" if data.train else "neither"
            raise ConfigError(
                f"data: got {got} of data.dataset (alm list datasets) and data.train (label CSVs); give one"
            )
        if data.dataset and (data.test or data.validation):
            raise ConfigError("data: data.dataset has its own splits; remove data.test and data.validation")

    def check(self, settings: TrainSettings) -> dict[str, Any]:
        """Check that data, split, encoder and recipe fit together."""
        from train.finetune.stage import check_finetune

        super().check(settings)
        if zero_stage(settings) == 3:
            raise ConfigError(
                "run.deepspeed: ZeRO-3 splits the weights that fine-tuning scores after every epoch; "
                "use configs/deepspeed/zero1.json or zero2.json"
            )
        return check_finetune(settings)

    def run(self, settings: TrainSettings, folder: Path) -> dict[str, Any]:
        """Train, score the test clips, save the classifier."""
        from train.finetune.stage import finetune

        return finetune(settings, folder)

    def run_parts(self, settings: TrainSettings, run_one: Callable[[TrainSettings], Path]) -> Path | None:
        """One run per fold of `finetune.folds`."""
        if settings.finetune.folds is None:
            return None
        from train.finetune.folds import run_folds

        return run_folds(settings, run_one)


STAGE = FinetuneStage()
