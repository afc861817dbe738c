"""Opening a model directory in either layout, our own or the published AudioMosaic-LTU, and identifying it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from transformers import AutoTokenizer

from alm.common.errors import CheckpointError, shown
from alm.common.files import read_text, sha256_of
from alm.common.json_text import read_json_object
from alm.common.pretrained import from_pretrained, typed_errors
from alm.configuration import AudioLanguageConfig, read_model_config
from alm.llm import load_llm
from alm.ltu import is_ltu, load_ltu, load_ltu_processor
from alm.model import AudioLanguageModel, resolve
from alm.processor import (
    PROCESSOR_CONFIG,
    AudioLanguageProcessor,
    check_files,
    check_template,
    check_tokenizer,
    llm_limits,
)

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
        return AudioLanguageModel.from_pretrained(folder, dtype=dtype, trust_remote_code=trust_remote_code)
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
    config = read_model_config(folder, trust_remote_code)
    path = folder / PROCESSOR_CONFIG
    if not path.exists():
        raise CheckpointError(f"{path}: the processor's config is missing; expected it beside config.json")
    values = read_json_object(path, CheckpointError, constants=True)
    _check_processor(values, config, path)
    check_files(folder, values)
    tokenizer = from_pretrained(
        AutoTokenizer,
        folder,
        role="processor: tokenizer",
        trust_remote_code=trust_remote_code,
        local_files_only=True,
    )
    template = folder / "chat_template.jinja"
    with typed_errors(f"{folder}: cannot use the tokenizer"):
        check_tokenizer(tokenizer)
        processor = AudioLanguageProcessor(
            tokenizer,
            values["encoder"],
            values["projector"],
            config.audio_token,
            read_text(template, "a chat template", CheckpointError) if template.exists() else None,
            values.get("max_audio_tokens"),
        )
    processor.context_length, processor.vocab_size = llm_limits(config.text_config)
    holder = tokenizer.convert_ids_to_tokens(processor.audio_token_id)
    if holder != config.audio_token:
        raise CheckpointError(
            f"{folder}: in the tokenizer, {config.audio_token} shares its id {processor.audio_token_id} with "
            f"{shown(holder, 40)}; restore the tokenizer of this model"
        )
    if processor.audio_token_id != config.audio_token_id:
        raise CheckpointError(
            f"{folder}: {config.audio_token} has id {processor.audio_token_id} in the tokenizer, audio_token_id in "
            f"config.json is {config.audio_token_id}; restore the tokenizer of this model"
        )
    check_template(processor, str(template if template.exists() else folder))
    return processor


def _check_processor(values: dict[str, object], config: AudioLanguageConfig, path: Path) -> None:
    for key in ("encoder", "projector", "audio_token"):
        if values.get(key) != getattr(config, key):
            raise CheckpointError(
                f"{path}: {key} is not that of config.json; restore the processor of this model"
            )
    most = values.get("max_audio_tokens")
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 1):
        raise CheckpointError(
            f"{path}: max_audio_tokens is {most!r}, expected a whole number from 1, or null"
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
