"""Run directories: what went in, what came out, and a marker that only a finished run has."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.errors import UserError
from alm.common.files import write_text_atomic
from alm.common.fingerprint import code_hash, fingerprint
from encoders import AudioEncoder

__all__ = [
    "begin",
    "code_hash",
    "encoder_digest",
    "environment",
    "fingerprint",
    "finish",
    "is_finished",
    "read_json",
    "write_json",
]

MARKER = "finished.json"
ATTEMPT = "attempt.json"
CONFIG = "config.yaml"
# What stages of earlier versions left, whose `attempt.json` does not list it.
_LEFT_BEFORE = (
    *("model", "encoder", "classifier", "control", "checkpoints", "metrics.jsonl", "nonfinite.jsonl"),
    *("quarantine.jsonl", "predictions.jsonl", "scores.json", "scores.md"),
)


def encoder_digest(encoder: AudioEncoder) -> Any:
    """A hash over what an encoder's features depend on, to be updated with the clips: code, config, weights."""
    import torch

    config = json.dumps(encoder.config.to_dict(), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{code_hash()}{config}".encode())
    for name, value in encoder.state_dict().items():
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(name.encode())
        digest.update(flat.numpy().data)
    return digest


def is_finished(folder: Path, key: str) -> bool:
    """Whether `folder` holds the finished result of exactly this fingerprint."""
    try:
        return json.loads((folder / MARKER).read_text())["fingerprint"] == key
    except (OSError, ValueError, KeyError):
        return False


def begin(
    folder: Path, key: str, artifact: Path, leaves: Sequence[str] = (), resumes: Sequence[str] = ()
) -> None:
    """Prepare the run directory: remove older results, keep what an unfinished run of the same fingerprint needs.

    Args:
        folder: The run directory.
        key: The fingerprint.
        artifact: The file or folder that the run writes.
        leaves: Names of other files and folders that it writes.
        resumes: Names of what an interrupted run needs in order to resume.

    Raises:
        UserError: The directory cannot be written, or holds files that no run of ours wrote.
    """
    written = [artifact, *(folder / name for name in (*leaves, *resumes, *_LEFT_BEFORE, MARKER))]
    attempt = _attempt(folder)
    if attempt is None and any(path.exists() for path in written):
        raise UserError(f"{folder}: holds files that no run of ours left; choose an empty out directory")
    before = [
        name
        for name in (attempt or {}).get("leaves", ())
        if isinstance(name, str) and Path(name).name == name
    ]
    kept = []
    if attempt is not None and attempt.get("fingerprint") == key:
        kept = [folder / name for name in resumes]
    try:
        for path in [*written, *(folder / name for name in before)]:
            if path not in kept:
                _remove(path)
        folder.mkdir(parents=True, exist_ok=True)
        names = [path.name for path in written if path.parent == folder and path.name not in _LEFT_BEFORE]
        write_json(folder / ATTEMPT, {"fingerprint": key, "leaves": names})
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); choose another out directory"
        ) from error


def _attempt(folder: Path) -> dict[str, Any] | None:
    """What the last run in a directory wrote when it started; None if no run started there."""
    try:
        values = json.loads((folder / ATTEMPT).read_text(encoding="utf-8"))
    except OSError:
        return None
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def is_attempt(folder: Path, key: str) -> bool:
    """Whether `folder` holds a run of exactly this fingerprint, finished or not."""
    return (_attempt(folder) or {}).get("fingerprint") == key


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def finish(folder: Path, key: str, facts: dict[str, Any]) -> None:
    """Write the completion marker, last of all."""
    write_json(folder / MARKER, {"fingerprint": key, "finished": time.strftime("%Y-%m-%dT%H:%M:%S"), **facts})


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically."""
    write_text_atomic(path, json.dumps(values, indent=2, default=str) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file written by `write_json`."""
    return json.loads(path.read_text(encoding="utf-8"))


def environment() -> dict[str, Any]:
    """Versions and hardware that a result depends on."""
    from importlib.metadata import version

    import torch

    names = ("torch", "torchaudio", "transformers", "peft", "accelerate", "deepspeed", "numpy")
    return {
        "python": platform.python_version(),
        "packages": {name: version(name) for name in names},
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
    }
