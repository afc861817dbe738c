"""The files of a saved model: finding them, and checking that they are complete and unchanged."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from alm.common.errors import CheckpointError, UserError
from alm.common.files import sha256_of
from alm.configuration import AudioLanguageConfig, read_config_values, read_model_config
from alm.hub.model_card import README
from alm.llm import config_sha256, weights_sha256
from encoders.checkpoint import resolve_source
from encoders.checksums import header_sha256

WEIGHTS = "model.safetensors"


def resolve(source: str | Path, **hub: Any) -> Path:
    """The local directory of a model given as a directory or a Hub id, whose files are downloaded.

    Args:
        source: Directory or Hub id.
        **hub: `revision`, `subfolder`, `cache_dir`, `token`, `local_files_only`, `force_download`.

    Raises:
        CheckpointError: It does not exist, could not be downloaded, or is a file.
        UserError: `revision` of a local directory, or a `subfolder` outside of it.
    """
    inner = Path(hub.pop("subfolder", ""))
    if inner.is_absolute() or ".." in inner.parts:
        raise UserError(f"{source}: subfolder is '{inner}', expected a folder inside of it")
    if os.path.isdir(os.path.expanduser(source)) and hub.get("revision") not in (None, "main"):
        raise UserError(f"{source}: is a directory, which has no revision '{hub['revision']}'; remove it")
    patterns = ["*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt", README]
    folder = resolve_source(source, patterns=[str(inner / one) for one in patterns], **hub) / inner
    if not os.path.isdir(folder):
        missing = "is a file" if os.path.exists(folder) else "does not exist"
        raise CheckpointError(f"{folder}: {missing}; give the directory of a trained model")
    return folder


def check_files(config: AudioLanguageConfig, folder: Path) -> None:
    """Compare a model's files with those that were saved; of its own weights, only the header is read.

    Args:
        config: The model's config.
        folder: Its directory.

    Raises:
        CheckpointError: The weights are missing or differ from those that were saved, or so does the referenced LLM.
    """
    if not (folder / WEIGHTS).is_file():
        raise CheckpointError(f"{folder}: {WEIGHTS} is missing; the model was not saved completely")
    if config.llm is not None:
        check_referenced_llm(config, folder)
    check_saved_weights(folder, read_config_values(folder))


def check_complete(folder: Path) -> None:
    """Check that a directory holds a complete model that others can load, before it is shared.

    Raises:
        CheckpointError: A file is missing or broken, or the weights are not those that were saved.
        UserError: The model refers to an LLM in a directory of this machine.
    """
    values = read_config_values(folder)
    config = read_model_config(folder, values=values)
    for name in (WEIGHTS, "processor_config.json"):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder}: {name} is missing; give the directory of a trained model")
    check_shareable(config.llm)
    check_saved_weights(folder, values)


def check_shareable(llm: str | None) -> None:
    """Refuse to share a model that refers to an LLM in a directory of this machine."""
    if llm is not None and os.path.isdir(llm):
        raise UserError(
            f"the model refers to its LLM in a directory of this machine ({llm}); write a self-contained copy "
            "with 'alm export' and push that"
        )


def check_saved_weights(folder: Path, values: dict[str, Any]) -> str:
    """Refuse weights other than those saved with config.json, even if all shapes fit; returns their header's hash."""
    header = header_sha256(folder / WEIGHTS)
    for key in ("weights_header_sha256", "weights_sha256"):
        # Earlier versions, whose header held no checksums, wrote `weights_sha256`; its check reads the file once more.
        if values.get(key) is not None and values[key] != (
            header if key == "weights_header_sha256" else sha256_of(folder / WEIGHTS)
        ):
            raise CheckpointError(
                f"{folder / WEIGHTS}: is not the file that was saved with {folder / 'config.json'} ({key}); restore "
                f"it, or remove {key} if the change is intended"
            )
    return header


def check_referenced_llm(config: AudioLanguageConfig, folder: Path) -> None:
    """Refuse an LLM that is missing or has other weights than in training."""
    assert config.llm is not None
    local = Path(config.llm)
    if not os.path.isdir(local) and (local.is_absolute() or config.llm.startswith(".")):
        # A path, not a Hub id: the model or the LLM was moved without the other.
        missing = local if local.is_absolute() else Path(os.path.normpath(folder.absolute() / local))
        raise CheckpointError(
            f"{folder}: its LLM is not at {missing} ('llm' in {folder / 'config.json'} is '{config.llm}'); move it "
            "there or set 'llm' to where it is now; `alm export` writes a model that can be moved by itself"
        )
    if os.path.isdir(local):
        found = weights_sha256(local)
        if config.llm_sha256 and found != config.llm_sha256:
            raise CheckpointError(
                f"{folder}: its LLM at {config.llm} has changed since training (weights sha256 {found[:12]}…, "
                f"expected {config.llm_sha256[:12]}…); restore that LLM or train again"
            )
        if config.llm_config_sha256 and config_sha256(local) != config.llm_config_sha256:
            raise CheckpointError(
                f"{local / 'config.json'}: was changed after {folder} was saved (llm_config_sha256); restore the file, "
                f"or remove llm_config_sha256 from {folder / 'config.json'} if the change is intended"
            )
