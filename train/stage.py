"""The contract of a stage, and the registry that finds stages.

A stage is one file in `train/stages`, or in a plug-in folder (`--plugins`, `ALM_PLUGINS`), that assigns `STAGE` to an
instance of `Stage`. The file's name is the stage's name: `stage: NAME` in a config or a recipe runs it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from alm.common.errors import ConfigError
from alm.common.fields import located
from alm.common.plugins import Registry
from alm.common.settings import parse_settings
from encoders.audio.options import AudioOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageSettings:
    """The keys that the config of every stage has.

    Attributes:
        stage: Name of the stage, for example `pretrain`.
        out: Run directory.
    """

    stage: str
    out: str


Settings = TypeVar("Settings", bound=StageSettings)


class Stage(Generic[Settings]):
    """One kind of stage. Subclasses set the attributes and override `run`, and any other method that they need.

    Attributes:
        settings: Dataclass of the config, a subclass of `StageSettings`.
        artifact: Folder of the result, inside the run directory.
        outputs: Other files and folders that `run` writes into the run directory; removed before a run starts.
        resumes: Files and folders that an interrupted run needs in order to resume; removed when settings, inputs or
            code have changed.
        makes_model: Whether the artifact is an audio-language model, which a recipe can evaluate.
        every_process: Whether all processes of a launch (torchrun) run the stage together; else the main process
            runs it, and the others wait.
    """

    settings: type[Settings]
    artifact: str
    outputs: tuple[str, ...] = ()
    resumes: tuple[str, ...] = ()
    makes_model: bool = False
    every_process: bool = False

    def check_values(self, settings: Settings) -> None:
        """Check options against each other; reads no files. Called whenever a config is parsed.

        Raises:
            ConfigError: Options that this stage does not take, or that contradict each other.
        """

    def inputs(self, settings: Settings) -> list[str]:
        """Files and directories (or hub ids) whose content the result depends on."""
        return []

    def check(self, settings: Settings) -> dict[str, Any]:
        """Check the inputs. Called before every run, and before an older result is removed.

        Returns:
            What the result depends on besides the settings and the content of `inputs`; plain values.

        Raises:
            UserError: Inputs that cannot be used.
        """
        return {}

    def audio(self, settings: Settings) -> AudioOptions:
        """How this stage's recordings are read."""
        return AudioOptions()

    def dry_run(self, settings: Settings) -> Any:
        """Estimate the cost without writing anything; None if this stage has no estimate.

        Returns:
            A dataclass whose `str` is the text to print, for example `train.engine.estimate.CostEstimate`.
        """
        return None

    def samples(self, settings: Settings) -> Iterator[tuple[str, Callable[[], None]]] | None:
        """Every sample's id, and a check that raises UserError where the sample cannot be part of a batch.

        `alm data verify --for` runs all of them before training; None if this stage has no such check.
        """
        return None

    def run(self, settings: Settings, folder: Path) -> dict[str, Any]:
        """Do the work and write the artifact into `folder / self.artifact`.

        Returns:
            Facts to keep in the completion marker; plain values.
        """
        raise NotImplementedError

    def run_parts(self, settings: Settings, run_one: Callable[[Settings], Path]) -> Path | None:
        """Run as several stages, for example one per fold. None means that this stage is a single run.

        Args:
            settings: The config.
            run_one: Runs the stage with the settings of one part; returns its artifact.

        Returns:
            The directory of the summary.
        """
        return None


STAGES: Registry[Stage[Any]] = Registry(
    "stage",
    "STAGE",
    "train.stages",
    group="alm.stages",
    accepts=lambda found: isinstance(found, Stage),
    expected="<an instance of a subclass of train.stage.Stage>",
)


def parse_stage(values: dict[str, Any], where: str) -> StageSettings:
    """The checked config of a stage from plain values.

    Args:
        values: The config; `stage` names the stage.
        where: Where the values come from, for messages.

    Raises:
        ConfigError: `stage` is missing or unknown, or an option is unknown or wrong.
    """
    name = values.get("stage")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: stage is {name!r}; expected one of {', '.join(STAGES.names())}")
    try:
        stage = STAGES.get(name)
    except ConfigError as error:
        raise ConfigError(f"{where}: stage: {error}") from error
    settings: StageSettings = parse_settings(stage.settings, values, where)
    with located(where):
        stage.check_values(settings)
    return settings
