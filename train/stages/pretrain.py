"""Stage `pretrain`: AudioMosaic learns from two masked views of every clip, without labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError
from alm.common.settings import check_choice
from train.pretrain.losses import LOSSES
from train.pretrain.masks import MASK_LAYOUTS
from train.settings import TrainSettings
from train.stages.training import TrainingStage


class PretrainStage(TrainingStage):
    """Contrastive pretraining; writes an encoder in the release layout."""

    artifact = "encoder"
    drop_last = True  # every clip is contrasted with as many others
    takes = (
        *("encoder", "encoder_options", "contrastive", "data.on_bad", "data.max_bad_share"),
        *("run.checkpoint_fraction", "run.compile", "optim.epochs", "optim.warmup_ratio"),
    )

    def check_values(self, settings: TrainSettings) -> None:
        """Require an encoder and clips, and known names of loss and mask layout."""
        if settings.run.gradient_checkpointing:
            raise ConfigError(
                "run.gradient_checkpointing: is for the LLM (align, instruct); use run.checkpoint_fraction"
            )
        super().check_values(settings)
        check_choice("contrastive.loss", settings.contrastive.loss, LOSSES.names())
        check_choice("contrastive.mask_layout", settings.contrastive.mask_layout, MASK_LAYOUTS.names())
        if not settings.data.train:
            raise ConfigError("data.train: no source of clips given; name at least one manifest or folder")
        if not settings.encoder:
            raise ConfigError(
                "encoder: pretraining needs an encoder name or directory, for example audiomosaic"
            )

    def check(self, settings: TrainSettings) -> dict[str, Any]:
        """Check that the clips fill a batch; return the list of the folders' files, on which the result depends."""
        from alm.data.sources import folder_states
        from train.pretrain.clips import listing
        from train.pretrain.stage import check_pretraining

        super().check(settings)
        check_pretraining(settings)
        sources = [*settings.data.train, *settings.data.validation]
        return {"folders": listing(sources), **folder_states(sources)}

    def build(self, settings: TrainSettings) -> Any:
        """The contrastive model and its clips."""
        from train.pretrain.clips import collate_clips
        from train.pretrain.stage import starting_point

        return *starting_point(settings), collate_clips

    def samples(self, settings: TrainSettings) -> Iterator[tuple[str, Callable[[], None]]]:
        """The clips of `data.train` and `data.validation`."""
        from train.pretrain.stage import sample_checks

        return sample_checks(settings)

    def run(self, settings: TrainSettings, folder: Path) -> dict[str, Any]:
        """Train and save the encoder."""
        from train.pretrain.stage import pretrain

        return pretrain(settings, folder)


STAGE = PretrainStage()
