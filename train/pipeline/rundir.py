"""Run directories: what went in, what came out, and a marker that only a finished run has."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import time
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
# What stages leave in their run directory, besides the marker.
LEFT_BY_STAGES = (
    *("model", "encoder", "classifier", "control", "checkpoints"),
    *(
        "metrics.jsonl",
        "nonfinite.jsonl",
        "quarantine.jsonl",
        "predictions.jsonl",
        "scores.json",
        "scores.md",
    ),
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


def is_finished(folder: Path, print_: str) -> bool:
    """Whether `folder` holds the finished result of exactly this fingerprint."""
    try:
        return json.loads((folder / MARKER).read_text())["fingerprint"] == print_
    except (OSError, ValueError, KeyError):
        return False


def begin(folder: Path, print_: str) -> None:
    """Make an empty run directory; an unfinished run of the same fingerprint keeps its checkpoints.

    Raises:
        UserError: The directory cannot be written, or holds what is not ours to replace.
    """
    old = [folder / name for name in (*LEFT_BY_STAGES, MARKER)]
    if any(path.exists() for path in old) and not (folder / ATTEMPT).exists():
        raise UserError(f"{folder}: holds files that no run of ours left; choose an empty out directory")
    try:
        if (folder / MARKER).exists() or not is_attempt(folder, print_):
            for path in old:
                _remove(path)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ATTEMPT, {"fingerprint": print_})
    except OSError as error:
        raise UserError(
            f"{folder}: cannot write there ({error.strerror}); choose another out directory"
        ) from error


def is_attempt(folder: Path, print_: str) -> bool:
    """Whether `folder` holds a run of exactly this fingerprint, finished or not."""
    try:
        return json.loads((folder / ATTEMPT).read_text())["fingerprint"] == print_
    except (OSError, ValueError, KeyError):
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def finish(folder: Path, print_: str, facts: dict[str, Any]) -> None:
    """Write the completion marker, last of all."""
    write_json(
        folder / MARKER, {"fingerprint": print_, "finished": time.strftime("%Y-%m-%dT%H:%M:%S"), **facts}
    )


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
