"""Run directories: config, hashes of the inputs, artifact, and the completion marker of a finished run.

The marker `finished.json` lists the files of the result with sizes and hashes, so that a result that was changed
afterwards is noticed.
"""

from __future__ import annotations

import fcntl
import os
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alm.common.errors import CheckpointError, UserError
from alm.common.files import changed_file, reason, sha256_of
from alm.common.json_text import read_json_object, write_json
from train.stage import STAGES

MARKER = "finished.json"
ATTEMPT = "attempt.json"
CONFIG = "config.yaml"
# Results of earlier versions of this toolkit, whose `attempt.json` does not list them.
_LEFT_BEFORE = (
    *("model", "encoder", "classifier", "control", "checkpoints", "metrics.jsonl", "nonfinite.jsonl"),
    *("quarantine.jsonl", "predictions.jsonl", "scores.json", "scores.md"),
)
_LOCK_S = 15.0  # loader processes of a killed run hold its lock until they end, at most five seconds later
# Users may edit the model card; no result depends on it.
_NOT_LISTED = "README.md"
# Checked by their sizes only: a data set may hold hundreds of thousands.
_NOT_HASHED = ".wav"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Keep other processes from running in the same directory; makes the directory.

    The system releases the lock when the process ends, however it ends. Nothing is written.

    Raises:
        UserError: Another process runs there, or the directory cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder}: cannot write there ({reason(error)}); choose another out directory"
        ) from error
    try:
        until = time.monotonic() + _LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > until:
                    raise UserError(
                        f"{folder}: another process is running in it; wait until it ends, or choose another "
                        "out directory"
                    ) from error
                time.sleep(0.2)
            except OSError:  # a file system without locks
                break
        yield
    finally:
        os.close(handle)


def begin(
    folder: Path, key: str, artifact: Path, outputs: Sequence[str] = (), resumes: Sequence[str] = ()
) -> None:
    """Prepare the run directory: remove older results, keep the files to resume a run of the same fingerprint.

    Args:
        folder: The run directory.
        key: The fingerprint.
        artifact: The file or folder that the run writes.
        outputs: Names of other files and folders that it writes.
        resumes: Names of the files and folders that an interrupted run needs in order to resume.

    Raises:
        UserError: The directory cannot be written, or holds files that no run of ours wrote.
    """
    # the marker goes first: a kill in the middle must not leave one beside half a result
    written = [folder / MARKER, artifact, *(folder / name for name in (*outputs, *resumes, *_LEFT_BEFORE))]
    attempt = _attempt(folder)
    if attempt is None and any(path.exists() for path in written):
        raise UserError(
            f"{folder}: holds files that no run of alm train wrote; choose an empty out directory"
        )
    names = _outputs_of(attempt or {})
    same = attempt is not None and attempt.get("fingerprint") == key
    kept = [folder / name for name in resumes] if same else []
    try:
        for path in [*written, *(folder / name for name in names)]:
            if path not in kept:
                _remove(path)
        names = [path.name for path in written if path.parent == folder and path.name not in _LEFT_BEFORE]
        write_json(folder / ATTEMPT, {"fingerprint": key, "outputs": names})
        write_json(folder / "environment.json", environment())
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({reason(error)}); choose another out directory"
        ) from error


def _attempt(folder: Path) -> dict[str, Any] | None:
    """The contents of `attempt.json`, which a run writes when it starts; None if no run started there."""
    if not (folder / ATTEMPT).exists():
        return None
    try:
        return read_json_object(folder / ATTEMPT)
    except UserError:
        return {}


def _outputs_of(attempt: dict[str, Any]) -> list[str]:
    """Outputs that an earlier run recorded, without those that no stage writes: these may be files of the user."""
    names = attempt.get("outputs", attempt.get("leaves"))  # `leaves`: in earlier versions
    stages = map(STAGES.get, STAGES.names())
    ours = {name for stage in stages for name in (stage.artifact, *stage.outputs, *stage.resumes)}
    return [name for name in ours if name in names] if isinstance(names, list) else []


def is_attempt(folder: Path, key: str) -> bool:
    """Whether `folder` holds a run of exactly this fingerprint, finished or not."""
    return (_attempt(folder) or {}).get("fingerprint") == key


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def finish(
    folder: Path, key: str, facts: dict[str, Any], artifact: Path, outputs: Sequence[str] = ()
) -> None:
    """Write the completion marker, last of all: fingerprint, facts, and the files of the result.

    Raises:
        UserError: The result is not there, or the marker cannot be written.
    """
    files: dict[str, dict[str, Any]] = {}
    for path in _files([artifact, *(folder / name for name in outputs)]):
        if path.name != _NOT_LISTED:
            files[os.path.relpath(path, folder)] = {
                "bytes": path.stat().st_size,
                **({} if path.suffix == _NOT_HASHED else {"sha256": sha256_of(path)}),
            }
    if not files:
        raise UserError(f"{artifact}: the stage did not write it; this is a bug of the stage")
    finished = time.strftime("%Y-%m-%dT%H:%M:%S")
    write_json(folder / MARKER, {"fingerprint": key, "finished": finished, **facts, "files": files})


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        yield from sorted(p for p in (path.rglob("*") if path.is_dir() else [path]) if p.is_file())


def is_finished(folder: Path, key: str) -> bool:
    """Whether a run of exactly this fingerprint has finished in `folder`; `damage` compares its files."""
    try:
        marker = read_json_object(folder / MARKER, constants=True)
    except UserError:
        return False
    return marker.get("fingerprint") == key


def damage(folder: Path, hashes: bool = True) -> str | None:
    """What is wrong with a finished result; None if its files are as they were when the run finished.

    Args:
        folder: A run directory with a completion marker.
        hashes: Compare contents; False compares only sizes.
    """
    try:
        files = read_json_object(folder / MARKER, constants=True).get("files")
    except UserError as error:
        return str(error)
    if files is None:  # written by an earlier version
        return None
    return changed_file(folder, files, MARKER, hashes)


def facts_of(folder: Path) -> dict[str, Any]:
    """The facts of a finished run: fingerprint, time, and what its stage reported.

    Raises:
        CheckpointError: There is no completion marker, or it is broken.
    """
    facts = read_json_object(folder / MARKER, CheckpointError, constants=True)
    facts.pop("files", None)
    return facts


def environment() -> dict[str, Any]:
    """Versions and hardware that a result depends on."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from encoders.devices import accelerator, device_names

    device = accelerator()
    names = ("torch", "torchaudio", "transformers", "peft", "accelerate", "deepspeed", "numpy")
    versions = {}
    for name in names:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {
        "python": platform.python_version(),
        "packages": versions,
        "accelerator": None if device is None else device.type,
        "cuda": torch.version.cuda if device is not None and device.type == "cuda" else None,
        "devices": device_names(),
        "threads": torch.get_num_threads(),
    }
