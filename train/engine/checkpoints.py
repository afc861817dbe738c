"""Checkpoints to resume from: written completely or not at all, checked before use; the oldest are removed.

`checkpoint-N/` holds the trainable weights (and buffers), the optimiser, the schedule and the trainer's counters;
`complete.json` lists every file with size and hash. A checkpoint is written into a hidden folder, flushed to the disk,
and renamed. It holds no state of random generators: `train.engine.trainer.StageTrainer.training_step` seeds them
at every step from (seed, step, process).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from alm.common.errors import CheckpointError
from alm.common.files import changed_file, file_entry
from alm.common.json_text import read_json_object
from encoders.checkpoint import load_strict, read_weights

COMPLETE = "complete.json"
WEIGHTS = "weights.safetensors"
OPTIMIZER = "optimizer.pt"
SCHEDULER = "scheduler.pt"
LOSS_SCALE = "loss_scale.pt"  # of fp16
_NAME = re.compile(r"checkpoint-(\d+)")
_HIDDEN = ".unfinished-"


def trained_keys(model: nn.Module) -> list[str]:
    """Names in the state dict that a checkpoint holds: all but the frozen parameters."""
    frozen = {name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return [name for name in model.state_dict() if name not in frozen]


def trained_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights to put into a checkpoint; this process must hold all weights of the model."""
    state = model.state_dict()
    return {name: state[name] for name in trained_keys(model)}


def load_trained(model: nn.Module, file: Path) -> None:
    """Load a checkpoint's weights: exactly the trainable ones must be there.

    Raises:
        CheckpointError: Weights that are missing, mis-shaped or belong to another model.
    """
    frozen = set(model.state_dict()) - set(trained_keys(model))
    weights = read_weights(file)
    load_strict(model, weights, source=str(file), allow_missing=tuple(frozen))


def hidden(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is written before it is complete."""
    return folder / f"{_HIDDEN}{step}"


def finalise(unfinished: Path, step: int, facts: dict[str, Any]) -> Path:
    """Turn a hidden folder into a checkpoint: list and flush its files, then rename it.

    Args:
        unfinished: The folder from `hidden`, with all files in it.
        step: Steps done.
        facts: Values to keep beside the list of files.
    """
    files = {
        path.relative_to(unfinished).as_posix(): file_entry(path)
        for path in sorted(unfinished.rglob("*"))
        if path.is_file()
    }
    (unfinished / COMPLETE).write_text(json.dumps({"step": step, **facts, "files": files}, indent=1))
    for path in sorted(unfinished.rglob("*")):
        _flush(path)
    _flush(unfinished)
    final = unfinished.parent / f"checkpoint-{step}"
    if final.exists():  # a damaged one of an earlier attempt, or one that preemption saved at this same step
        shutil.rmtree(final)
    os.replace(unfinished, final)
    _flush(final.parent)
    return final


def _flush(path: Path) -> None:
    """Make sure a file or folder survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def found(folder: Path) -> list[tuple[int, Path]]:
    """Steps and folders of the checkpoints in a directory, oldest first, including damaged ones."""
    names = folder.iterdir() if folder.is_dir() else ()
    matched = ((_NAME.fullmatch(path.name), path) for path in names)
    return sorted((int(match[1]), path) for match, path in matched if match)


def found_step(checkpoint: Path) -> int:
    """The step of a checkpoint."""
    return int(checkpoint.name.rpartition("-")[2])


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint's files; None if they are as they were written."""
    try:
        files = facts_of(checkpoint).get("files")
    except CheckpointError:
        return f"{COMPLETE} is missing or broken"
    return changed_file(checkpoint, files, COMPLETE)


def newest_complete(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint, and a line about each newer one that is damaged."""
    problems: list[str] = []
    for _, path in reversed(found(folder)):
        wrong = damage(path)
        if wrong is None:
            return path, problems
        problems.append(f"{path.name} is damaged ({wrong})")
    return None, problems


def rotate(folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints, and leftovers of interrupted attempts.

    A checkpoint is renamed before it is removed, so that a partly removed one is never used.
    """
    for _, path in found(folder)[:-keep]:
        os.replace(path, path.with_name(f"{_HIDDEN}old-{path.name}"))
    clear_unfinished(folder)


def clear_unfinished(folder: Path) -> None:
    """Remove leftovers of interrupted attempts."""
    for path in folder.glob(f"{_HIDDEN}*"):
        shutil.rmtree(path, ignore_errors=True)


def facts_of(checkpoint: Path) -> dict[str, Any]:
    """The facts given to `finalise`, and the list of files.

    Raises:
        CheckpointError: The file that holds them is missing or broken.
    """
    return read_json_object(checkpoint / COMPLETE, CheckpointError, constants=True)


def check_keys(checkpoint: Path, kept: Iterable[str], own: Iterable[str]) -> None:
    """Check that a checkpoint holds exactly the weights that are trainable now.

    Raises:
        CheckpointError: They differ; names the first few.
    """
    missing, unexpected = sorted(set(own) - set(kept)), sorted(set(kept) - set(own))
    if missing or unexpected:
        raise CheckpointError(
            f"{checkpoint}: was saved with other trainable weights (missing {missing[:3]}, unexpected "
            f"{unexpected[:3]}); remove it to start from the beginning"
        )


def load_state(file: Path) -> Any:
    """A state dict of optimiser or schedule, on the CPU.

    Raises:
        CheckpointError: The file cannot be read.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file}: cannot be read ({str(error).splitlines()[0]})") from error
