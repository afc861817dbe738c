"""Opens and identifies a model directory, in our own layout or in that of the published AudioMosaic-LTU."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch

from alm.common.errors import CheckpointError
from alm.common.files import sha256_of
from alm.llm import load_llm
from alm.loading.files import resolve
from alm.ltu import is_ltu, load_ltu, load_ltu_processor
from alm.model import AudioLanguageModel
from alm.processor import AudioLanguageProcessor

__all__ = ["load_llm", "load_model", "load_processor", "model_id_of", "resolve"]


def load_model(
    source: str | Path, *, dtype: torch.dtype | str | None = None, trust_remote_code: bool = False
) -> AudioLanguageModel:
    """Load a model directory or Hub id; see `AudioLanguageModel.from_pretrained`.

    Args:
        source: Directory in our own layout or in the published AudioMosaic-LTU layout, or a Hub id.
        dtype: Dtype to cast to; None keeps the stored one.
        trust_remote_code: Run Python code in the directory of a referenced LLM; set it only from the user's config.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: No model directory, a broken file, a tensor that does not fit, or an LLM that is missing or
            not the one the model was trained with.
    """
    folder = resolve(source)
    if not is_ltu(folder):
        loaded: AudioLanguageModel = AudioLanguageModel.from_pretrained(
            folder, dtype=dtype, trust_remote_code=trust_remote_code
        )
        return loaded
    model = load_ltu(folder)
    if dtype is not None and dtype != "auto":
        torch.nn.Module.to(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model


def load_processor(source: str | Path, *, trust_remote_code: bool = False) -> AudioLanguageProcessor:
    """Load the processor of a model directory or Hub id, and compare it with the model's config.

    Args:
        source: As for `load_model`.
        trust_remote_code: Run Python code in the directory of a referenced LLM, or of its tokenizer; set it only from
            the user's config.

    Raises:
        CheckpointError: A file is missing or broken (names file and key), or belongs to another model.
    """
    folder = resolve(source)
    if is_ltu(folder):
        return load_ltu_processor(folder)
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder}: config.json is missing; expected an audio-language model directory")
    return AudioLanguageProcessor.from_pretrained(  # type: ignore[no-any-return]
        folder, trust_remote_code=trust_remote_code
    )


def model_id_of(folder: Path) -> str:
    """Identity of a model: a hash of the configs, tokenizer files and weights of its directory.

    Compute it once, before the model is loaded: a directory may change or disappear while its model is in use.

    Raises:
        CheckpointError: The directory holds no model.
    """
    digest = hashlib.sha256()
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix in (".json", ".safetensors", ".bin", ".model", ".jinja", ".txt")
        and "eval" not in file.parts[len(folder.parts) :]
    ]
    if not files:
        raise CheckpointError(f"{folder}: holds no model; give the directory of a trained model")
    for file in files:
        digest.update(f"{file.relative_to(folder)} {sha256_of(file)}\n".encode())
    return digest.hexdigest()[:32]
