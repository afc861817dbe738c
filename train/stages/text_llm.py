"""Stage `text_llm`: a small LLM, trained on text alone (`train.text_llm.stage`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from alm.data.scenes.compose import ComposeConfig, build_bank
from alm.data.scenes.language import Language
from train.stage import Stage, StageSettings
from train.stages.training import TrainingStage
from train.text_llm.config import TextLLMConfig


@dataclasses.dataclass(frozen=True)
class TextLLMSettings(StageSettings):
    """The config of stage `text_llm`.

    Attributes:
        compose: The scenes whose descriptions the LLM is trained on: the same as in the recipe's compose stage.
        model: The LLM and its training.
    """

    compose: ComposeConfig = ComposeConfig()
    model: TextLLMConfig = TextLLMConfig()


class TextLLMStage(Stage[TextLLMSettings]):
    """Train a small LLM that answers questions about scenes described in words."""

    settings = TextLLMSettings
    artifact = "llm"
    resumes = TrainingStage.resumes
    every_process = True

    def inputs(self, settings: TextLLMSettings) -> list[str]:
        """The label table of recordings, if there is one."""
        return [settings.compose.labels_csv] if settings.compose.labels_csv else []

    def run(self, settings: TextLLMSettings, folder: Path) -> dict[str, Any]:
        """Train and save tokenizer and LLM."""
        return train_small_llm(settings.compose, settings.model, folder / self.artifact, folder)


def train_small_llm(scenes: ComposeConfig, config: TextLLMConfig, out: Path, folder: Path) -> dict[str, Any]:
    """Train the small LLM on descriptions of composed scenes; returns its scores on new scenes."""
    from train.text_llm.stage import train_text_llm

    language = Language(tuple(build_bank(scenes).kinds))
    return {"reading": train_text_llm(config, language, out, folder)}


STAGE = TextLLMStage()
