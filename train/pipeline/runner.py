"""Run a stage in its run directory, and decide whether a result is reused, resumed or computed again.

A finished run with the same fingerprint is reused; an unfinished one resumes from its newest checkpoint, which
`train.engine.trainer.last_checkpoint` finds; with another fingerprint the stage starts again.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from alm.common.errors import Preempted, UserError
from alm.common.files import disk_problem, write_text_atomic
from alm.common.fingerprint import fingerprint
from alm.common.processes import is_main_process
from alm.common.settings import dump_settings
from alm.common.text import error_line
from encoders.audio.options import applied
from train.pipeline.rundir import CONFIG, MARKER, begin, damage, facts_of, finish, is_finished, run_lock
from train.processes import lost_process, on_main
from train.stage import STAGES, StageSettings


def artifact_of(settings: StageSettings) -> Path:
    """Where the artifact of a stage is, once it is finished."""
    return Path(settings.out) / STAGES.get(settings.stage).artifact


def run_stage(settings: StageSettings) -> Path:
    """Run one stage, or reuse its finished result; returns the artifact's directory.

    A stage that runs in parts (fine-tuning on several folds) runs each as a stage of its own; the result is then the
    directory of their summary.

    Raises:
        UserError: Inputs that cannot be used, or a run directory that holds other files.
    """
    stage = STAGES.get(settings.stage)
    summary = stage.run_parts(settings, run_stage)
    if summary is not None:
        return summary
    values, inputs = fingerprint_inputs(settings)

    def work(folder: Path) -> dict[str, Any]:
        if is_main_process():
            write_text_atomic(folder / CONFIG, dump_settings(settings))
        with applied(stage.audio(settings)):
            return stage.run(settings, folder) if stage.every_process or is_main_process() else {}

    artifact = artifact_of(settings)
    run_step(Path(settings.out), values, inputs, work, artifact, stage.outputs, stage.resumes)
    return artifact


def fingerprint_inputs(settings: StageSettings) -> tuple[dict[str, Any], list[str]]:
    """Everything that the result of a stage depends on: plain values, and files and directories.

    Raises:
        UserError: Inputs that cannot be used, or an input inside the run directory, which the run replaces.
    """
    stage = STAGES.get(settings.stage)
    inputs, out = stage.inputs(settings), Path(settings.out).resolve()
    for source in inputs:
        if os.path.exists(source) and Path(source).resolve().is_relative_to(out):
            raise UserError(
                f"{source}: lies inside out={settings.out}, which this run replaces; choose another out"
            )
    return dataclasses.asdict(settings) | stage.check(settings), inputs


def run_step(
    folder: Path,
    settings: dict[str, Any],
    inputs: Sequence[str | Path],
    work: Callable[[Path], dict[str, Any]],
    artifact: Path,
    outputs: Sequence[str] = (),
    resumes: Sequence[str] = (),
) -> dict[str, Any]:
    """Run `work` in `folder`, unless it already holds the finished result; `rundir.begin` keeps the files for a resume.

    Args:
        folder: Run directory; gets a completion marker when `work` has returned.
        settings: Plain values that the result depends on.
        inputs: Files and directories whose content the result depends on.
        work: Called with the folder; returns facts to keep in the marker.
        artifact: The file or folder that the work writes; without it the work is not finished.
        outputs: Names of other files and folders that the work writes into `folder`.
        resumes: Names of the files and folders that an interrupted run needs in order to resume.

    Returns:
        The facts, as kept.

    Raises:
        UserError: The finished result was changed afterwards, the folder cannot be written, or it holds other files.
    """
    key = step_fingerprint(settings, inputs)

    def prepare() -> bool:
        """Return whether the finished result exists; otherwise prepare the folder for a new or resumed run."""
        if is_finished(folder, key) and artifact.exists():
            if wrong := damage(folder):
                raise UserError(
                    f"{folder}: its finished result has changed ({wrong}); restore it, or remove {folder / MARKER} "
                    "to replace it by a new run"
                )
            return True
        begin(folder, key, artifact, outputs, resumes)
        return False

    with ExitStack() as held:
        done = on_main(lambda: held.enter_context(run_lock(folder)) or prepare())
        if done:
            print(f"{folder.name}: already done, reused", flush=True)
            return facts_of(folder)
        started = time.perf_counter()
        try:
            facts = work(folder)
        except Exception as error:
            if lost_process(error):
                raise UserError(
                    f"{folder}: another process of this run has ended, or its machine cannot be reached; its "
                    f"output says why ({error_line(error, 200)}); run the same command again to resume"
                ) from error
            problem = None if isinstance(error, UserError | Preempted) else disk_problem(error)
            if problem is None:
                raise
            where = getattr(error, "filename", None) or folder
            raise UserError(
                f"{where}: cannot be written ({problem}); make room or correct the permissions, then run the same "
                "command again"
            ) from error
        facts = {**facts, "seconds": round(time.perf_counter() - started, 1)}
        on_main(lambda: finish(folder, key, facts, artifact, outputs))
        return on_main(lambda: facts_of(folder))


def step_fingerprint(settings: dict[str, Any], inputs: Sequence[str | Path]) -> str:
    """The fingerprint of a piece of work; independent of the directory it runs in."""
    return fingerprint({key: value for key, value in settings.items() if key != "out"}, inputs)
