"""Run a stage in its run directory, once: a finished one is reused, a changed or broken one starts again."""

from __future__ import annotations

import dataclasses
import importlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, UserError
from alm.common.settings import dump_settings
from alm.data.sources import open_records
from projectors.registry import check_projector
from train.engine.ranks import barrier, is_main
from train.pipeline.rundir import (
    MARKER,
    begin,
    environment,
    fingerprint,
    finish,
    is_finished,
    read_json,
    write_json,
)
from train.pretrain.clips import listing
from train.settings import TrainSettings

# stage -> (module, function, artifact folder); the function takes (settings, folder) and returns facts
_STAGES = {
    "pretrain": ("train.pretrain.stage", "pretrain", "encoder"),
    "finetune": ("train.finetune.stage", "finetune", "classifier"),
    "align": ("train.tune.stage", "tune", "model"),
    "instruct": ("train.tune.stage", "tune", "model"),
}


def artifact_of(out: str | Path, stage: str) -> Path:
    """Where the artifact of a stage is, once it is finished."""
    return Path(out) / _STAGES[stage][2]


def run_stage(settings: TrainSettings) -> Path:
    """Run one stage, or reuse its finished result; returns the artifact's directory.

    Fine-tuning on several folds runs each as a stage of its own and returns the directory of the summary.
    """
    if settings.stage == "finetune" and settings.finetune.folds is not None:
        from train.finetune.folds import run_folds

        return run_folds(settings, run_stage)
    module, name, _ = _STAGES[settings.stage]
    decides, inputs = decided_by(settings)

    def work(folder: Path) -> dict[str, Any]:
        if is_main():
            (folder / "config.yaml").write_text(dump_settings(settings), encoding="utf-8")
        function = getattr(importlib.import_module(module), name)
        return function(settings, folder)

    artifact = artifact_of(settings.out, settings.stage)
    run_step(Path(settings.out), decides, inputs, work, artifact)
    return artifact


def decided_by(settings: TrainSettings) -> tuple[dict[str, Any], list[str]]:
    """What decides the result of a stage: plain values, and the files and directories it reads.

    Raises:
        UserError: As `check_inputs` does.
    """
    inputs = [*settings.data.train, *settings.data.validation, *settings.data.test]
    named = (settings.encoder, settings.llm, settings.model, settings.contrastive.probe.labels)
    inputs += [source for source in named if source]
    decides = dataclasses.asdict(settings) | check_inputs(settings, inputs)
    return decides, [*inputs, *([settings.run.deepspeed] if settings.run.deepspeed else [])]


def check_inputs(settings: TrainSettings, inputs: Sequence[str]) -> dict[str, Any]:
    """Find what is wrong with a stage before an older result makes room for it.

    Returns:
        What decides the result besides the settings and the content of the inputs.

    Raises:
        UserError: Data that cannot be read, an unknown projector or option, a missing DeepSpeed config, or
            an input that lies inside the run directory.
    """
    out = Path(settings.out).resolve()
    for source in inputs:
        if Path(source).exists() and Path(source).resolve().is_relative_to(out):
            raise UserError(
                f"{source}: lies inside out={settings.out}, which this run replaces; choose another out"
            )
    if settings.run.deepspeed is not None and not Path(settings.run.deepspeed).is_file():
        raise ConfigError(f"run.deepspeed: no such file '{settings.run.deepspeed}'; see configs/deepspeed")
    if settings.run.deepspeed and settings.run.eval_every:
        if read_json(Path(settings.run.deepspeed)).get("zero_optimization", {}).get("stage") == 3:
            raise ConfigError(
                "run.eval_every: ZeRO-3 splits the weights that would be put back; use configs/deepspeed/zero2.json"
            )
    if settings.stage == "pretrain":
        from train.pretrain.stage import check_pretraining

        check_pretraining(settings)
        return {"folders": listing([*settings.data.train, *settings.data.validation])}
    if settings.stage == "finetune":
        from train.finetune.stage import check_finetune

        return check_finetune(settings)
    open_records(settings.data.train)
    open_records(settings.data.validation)
    check_projector(settings.projector, settings.projector_options)
    return {}


def run_step(
    folder: Path,
    settings: dict[str, Any],
    inputs: Sequence[str | Path],
    work: Callable[[Path], dict[str, Any]],
    artifact: Path | None = None,
) -> dict[str, Any]:
    """Do a piece of work in `folder` unless its finished result is there already.

    Args:
        folder: Run directory; gets a completion marker when `work` has returned.
        settings: Plain values that decide the result.
        inputs: Files and directories whose content decides the result.
        work: Called with the folder; returns facts to be kept in the marker.
        artifact: What the work leaves; without it the work is not finished, whatever the marker says.

    Returns:
        The facts, as kept.
    """
    print_ = step_print(settings, inputs)
    done = is_finished(folder, print_) and (artifact is None or artifact.exists())
    barrier()  # every process has looked before the first one changes anything
    if done:
        print(f"{folder.name}: already done, reused", flush=True)
        return read_json(folder / MARKER)
    if is_main():
        begin(folder, print_)
        write_json(folder / "environment.json", environment())
    barrier()
    started = time.perf_counter()
    facts = work(folder)
    if is_main():
        finish(folder, print_, {**facts, "seconds": round(time.perf_counter() - started, 1)})
    barrier()
    return read_json(folder / MARKER)


def step_print(settings: dict[str, Any], inputs: Sequence[str | Path]) -> str:
    """The fingerprint of a piece of work, wherever its directory is."""
    return fingerprint({key: value for key, value in settings.items() if key != "out"}, inputs)
