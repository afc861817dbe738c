"""What a recipe does besides training its model: compose scenes, teach a small LLM to read, pick kinds of records."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, UserError
from alm.common.files import write_text_atomic
from alm.common.progress import counter, progress
from alm.common.settings import parse_settings
from alm.data.manifest import read_manifest
from alm.data.scenes.compose import ComposeConfig, build_bank, compose
from alm.data.scenes.language import Language
from train.engine.ranks import is_main
from train.pipeline.rundir import ATTEMPT
from train.pipeline.stages import run_step
from train.quickstart.text_llm import TextLLMConfig, train_text_llm


@dataclasses.dataclass(frozen=True)
class TextLLMStage:
    """A small LLM, trained on text alone (`train.quickstart.text_llm`).

    Attributes:
        compose: The scenes it learns to read about: those of the recipe's compose stage.
        model: The LLM and its training.
    """

    compose: ComposeConfig = ComposeConfig()
    model: TextLLMConfig = TextLLMConfig()


@dataclasses.dataclass(frozen=True)
class SelectStage:
    """Records of some kinds, as a manifest of their own.

    Attributes:
        data: The manifest.
        kinds: The kinds to keep.
    """

    data: str
    kinds: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Preparation:
    """A kind of preparing stage.

    Attributes:
        config: Its config.
        artifact: Folder of its artifact, below the stage's directory.
        work: Called with (config, artifact folder); returns facts.
    """

    config: type
    artifact: str
    work: Callable[[Any, Path], dict[str, Any]]


def prepare(kind: str, values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Run a preparation in `folder`, unless its finished result is there.

    Args:
        kind: One of `PREPARATIONS`.
        values: Its config.
        folder: The stage's directory.

    Returns:
        Its facts.
    """
    step = PREPARATIONS[kind]
    config: Any = parse_settings(step.config, values, folder.name)
    artifact = folder / step.artifact

    def work(_: Path) -> dict[str, Any]:
        if not is_main():
            return {}
        shutil.rmtree(artifact, ignore_errors=True)
        return step.work(config, artifact)

    if artifact.exists() and not (folder / ATTEMPT).exists():
        raise UserError(f"{artifact}: was not made by a recipe; choose another out directory")
    return run_step(folder, *prepared_by(kind, config), work, artifact)


def prepared_by(kind: str, config: Any) -> tuple[dict[str, Any], list[str]]:
    """What decides the result of a preparation: plain values, and the files it reads."""
    named = (getattr(config, key, None) for key in ("data", "labels_csv"))
    return {"stage": kind, **dataclasses.asdict(config)}, [path for path in named if path]


def _compose(config: ComposeConfig, out: Path) -> dict[str, Any]:
    total = config.n_train + config.n_validation + config.n_test
    with progress("compose", total, "scene") as advance:
        compose(config, out, counter(advance))
    return {"scenes": total}


def _text_llm(config: TextLLMStage, out: Path) -> dict[str, Any]:
    language = Language(tuple(build_bank(config.compose).kinds))
    return {"reading": train_text_llm(config.model, language, out)}


def _select(config: SelectStage, out: Path) -> dict[str, Any]:
    """Write the records that are kept, with the paths of their audio made absolute."""
    import json

    path = Path(config.data)
    kept = [record for record in read_manifest(path) if record.kind in config.kinds]
    if not kept:
        raise ConfigError(f"{path}: holds no records of the kinds {', '.join(config.kinds)}")
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        record = next((r for r in kept[:1] if r.source == f"{path}:{number}"), None)
        if record is None:
            continue
        kept.pop(0)
        audio = [
            {k: str(v.resolve()) if k == "path" else v for k, v in dataclasses.asdict(ref).items()}
            for ref in record.audio
        ]
        values = json.loads(line) | {"audio": audio, "clip": record.clip}
        lines.append(json.dumps(values, ensure_ascii=False) + "\n")
    out.mkdir(parents=True)
    write_text_atomic(out / "train.jsonl", "".join(lines))
    return {"records": len(lines)}


PREPARATIONS = {
    "compose": Preparation(ComposeConfig, "data", _compose),
    "text_llm": Preparation(TextLLMStage, "llm", _text_llm),
    "select": Preparation(SelectStage, "data", _select),
}
