"""What vLLM is told about a model before it starts: its files are checked, and its settings are those of `alm ask`."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from alm.checkpoint import load_processor
from alm.common.errors import UserError
from alm.configuration import AudioLanguageConfig, read_model_config
from alm.loading.files import check_files, resolve
from alm.processor import AudioLanguageProcessor
from alm.serving.vllm.release import MODE


def prepare(model_config: Any) -> None:
    """Check a model's directory, and set what vLLM cannot know.

    Answers are greedy and neutral unless a request says otherwise, as those of `alm ask`: of generation_config.json
    only the stop tokens count.

    Args:
        model_config: vLLM's `ModelConfig`, changed in place.

    Raises:
        CheckpointError: A file is missing, broken or changed.
        UserError: The LLM is quantised, which vLLM cannot repeat.
    """
    folder = folder_of(model_config)
    config = read_model_config(folder, model_config.trust_remote_code)
    if config.llm_bits is not None:
        raise UserError(
            f"{folder}: its LLM was trained in {config.llm_bits} bits (llm_bits), which vLLM computes otherwise; serve "
            "it with --engine transformers"
        )
    check_files(config, folder)
    ours = model_config.hf_config
    ours.llm = config.llm  # an absolute path, where it was relative to the directory
    # vLLM reads this from the outer config, where it is False; the LLM's config has the right value.
    ours.tie_word_embeddings = ours.get_text_config().tie_word_embeddings
    if model_config.tokenizer_mode == "auto":
        model_config.tokenizer_mode = MODE
    if model_config.generation_config == "auto":
        model_config.generation_config = "vllm"
        model_config.override_generation_config = {
            "temperature": 0.0,
            **model_config.override_generation_config,
        }


def folder_of(model_config: Any) -> Path:
    """The local directory of the model that vLLM was given as a directory or a Hub id."""
    return _folder(model_config.model, model_config.revision)


@lru_cache(maxsize=8)
def _folder(model: str, revision: str | None) -> Path:
    return resolve(model, **({} if os.path.isdir(model) else {"revision": revision}))


def config_of(model_config: Any) -> AudioLanguageConfig:
    """The model's own config, wherever vLLM keeps it."""
    config: AudioLanguageConfig = model_config.hf_config
    return config


def processor_of(model_config: Any, **options: Any) -> AudioLanguageProcessor:
    """The model's processor.

    Args:
        model_config: vLLM's `ModelConfig`.
        **options: vLLM's `mm_processor_kwargs`; only `max_audio_tokens` is known.

    Raises:
        CheckpointError: A file is missing or broken.
        UserError: An unknown option.
    """
    if unknown := sorted(options.keys() - {"max_audio_tokens"}):
        raise UserError(f"mm_processor_kwargs: unknown option {unknown[0]!r}; known: max_audio_tokens")
    return _processor(folder_of(model_config), model_config.trust_remote_code, **options)


@lru_cache(maxsize=8)
def _processor(folder: Path, trust_remote_code: bool, **options: Any) -> AudioLanguageProcessor:
    processor = load_processor(folder, trust_remote_code=trust_remote_code)
    for key, value in options.items():
        setattr(processor, key, value)
    return processor
