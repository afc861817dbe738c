"""Stage `compose`: a data set of scenes with captions and questions, in three splits."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

from alm.common.terminal import counter, progress
from alm.data.scenes.compose import ComposeConfig, compose
from train.stage import Stage, StageSettings


@dataclasses.dataclass(frozen=True)
class ComposeSettings(StageSettings, ComposeConfig):
    """The options of `alm data compose`."""


class ComposeStage(Stage[ComposeSettings]):
    """Compose scenes from generated sounds, or from labelled recordings."""

    settings = ComposeSettings
    artifact = "data"

    def inputs(self, settings: ComposeSettings) -> list[str]:
        """The label table of recordings, if there is one."""
        return [settings.labels_csv] if settings.labels_csv else []

    def run(self, settings: ComposeSettings, folder: Path) -> dict[str, Any]:
        """Write the data set."""
        own = {field.name: getattr(settings, field.name) for field in dataclasses.fields(ComposeConfig)}
        return compose_scenes(ComposeConfig(**own), folder / self.artifact)


def compose_scenes(config: ComposeConfig, out: Path) -> dict[str, Any]:
    """Compose scenes into `out`, replacing what is there, with a progress display."""
    shutil.rmtree(out, ignore_errors=True)
    total = config.n_train + config.n_validation + config.n_test
    with progress("compose", total, "scene") as advance:
        compose(config, out, counter(advance))
    return {"scenes": total}


STAGE = ComposeStage()
