"""Fingerprints: one hash over everything that a result depends on: settings, content of the inputs, and source code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alm.common.files import sha256_of
from alm.common.plugins import plugin_files
from alm.common.storage.remote import to_path

_ARTIFACT_SUFFIXES = (".safetensors", ".bin", ".json", ".model", ".jinja", ".txt")
# Ablations plan, run and report what the other packages compute; no result of a stage depends on their code.
_BESIDE = "ablation"


def fingerprint(settings: dict[str, Any], inputs: Sequence[str | Path]) -> str:
    """Hash a step's settings, the contents of its input files and directories, and the source code.

    Args:
        settings: Plain values.
        inputs: Files and artifact directories; a source that is no local path (a hub id) counts by its name.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for source in inputs:
        path = to_path(source)
        if path.is_file():
            digest.update(sha256_of(path).encode())
        elif path.is_dir():
            for file in sorted(p for p in path.iterdir() if p.suffix in _ARTIFACT_SUFFIXES):
                digest.update(f"{file.name}:{sha256_of(file)}".encode())
        else:
            digest.update(str(source).encode())
    digest.update(code_hash().encode())
    return digest.hexdigest()


def code_hash() -> str:
    """Hash the source code on which results depend: the packages and the files of plug-in folders."""
    root = Path(__file__).resolve().parents[2]
    digest = hashlib.sha256()
    for package in ("encoders", "projectors", "alm", "eval", "train"):
        for file in sorted((root / package).rglob("*.py")):
            if file.parent.name != _BESIDE:
                digest.update(file.read_bytes())
    for file in plugin_files():
        digest.update(file.read_bytes())
    return digest.hexdigest()
