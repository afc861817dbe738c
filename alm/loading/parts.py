"""The parts of a saved model: encoder and projector without weights, and the LLM, referenced or stored."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from alm.common.errors import CheckpointError, UserError
from alm.common.pretrained import from_pretrained, typed_errors
from alm.configuration import AudioLanguageConfig
from alm.llm import check_llm, load_llm, load_with_info
from alm.loading.arguments import LoadingArguments
from alm.loading.files import WEIGHTS, check_referenced_llm
from alm.policy import inject_lora
from encoders import AudioEncoder, config_from_dict
from encoders.checkpoint import wrong_dtype
from encoders.registry import encoder_class
from projectors.base import Projector
from projectors.registry import projector_config, projector_from_config


def audio_parts(config: AudioLanguageConfig) -> tuple[AudioEncoder, Projector]:
    """Encoder, with its adapters if any, and projector of a config, untrained; for engines with an LLM of their own."""
    assert config.projector is not None
    encoder = untrained_encoder(config)
    if config.encoder_lora is not None:
        inject_lora(encoder, config.encoder_lora)
    return encoder.eval(), projector_from_config(projector_config(config.projector)).eval()


def untrained_encoder(config: AudioLanguageConfig) -> AudioEncoder:
    """The encoder of a config, without adapters and trained weights."""
    assert config.encoder is not None
    encoder_config = config_from_dict(config.encoder)
    return encoder_class(encoder_config.model_class)(encoder_config)


def take_stored_dtypes(module: nn.Module, stored: Mapping[str, Tensor]) -> None:
    """Give a module's tensors the dtypes in which they are stored: float32 adapters of an LLM in bfloat16."""
    for key, value in module.state_dict(keep_vars=True).items():
        if key in stored and not wrong_dtype(stored[key], value):
            value.data = value.data.to(stored[key].dtype)


def referenced_llm(
    config: AudioLanguageConfig, folder: Path, asked: LoadingArguments, changed: dict[str, Any]
) -> PreTrainedModel:
    """Load the LLM that a model refers to, if it is still there and has the weights of training."""
    assert config.llm is not None
    check_referenced_llm(config, folder)
    if config.llm_bits is not None and "quantization_config" in asked.llm:
        raise UserError(
            f"from_pretrained: quantization_config: the model was trained with its LLM in {config.llm_bits} bits "
            "(llm_bits in config.json), which the load repeats; remove the argument"
        )
    options = {key: value for key, value in asked.hub.items() if key not in ("revision", "subfolder")}
    if changed:
        options["config"] = llm_config = from_pretrained(
            AutoConfig,
            config.llm,
            role=f"{folder}: LLM",
            trust_remote_code=asked.trust_remote_code,
            revision=config.llm_revision,
            **options,
        )
        for key, value in changed.items():
            setattr(llm_config, key, value)
    return load_llm(
        config.llm,
        revision=config.llm_revision,
        wanted_by=str(folder),
        bits=config.llm_bits,
        trust_remote_code=asked.trust_remote_code,
        **asked.llm,
        **options,
    )


def stored_llm(
    llm_class: type[PreTrainedModel],
    config: AudioLanguageConfig,
    stored: dict[str, Tensor],
    asked: LoadingArguments,
    where: str,
) -> PreTrainedModel:
    """The LLM inside a model's own weights, through its own loader, which places and quantises it.

    Its tensors are taken out of `stored`; those of its adapters stay.
    """
    base = {key: value for key, value in stored.items() if key.startswith("llm.") and ".lora_" not in key}
    for key in base:
        del stored[key]
    dtypes = {value.dtype for value in base.values() if value.is_floating_point()}
    if len(dtypes) > 1:
        raise UserError(
            f"{where}: the LLM is stored in several dtypes; load it without device_map and quantisation"
        )
    state = {key.removeprefix("llm.").replace(".base_layer.", "."): value for key, value in base.items()}
    return check_llm(
        load_with_info(
            llm_class,
            None,
            role=where,
            config=copy.deepcopy(config.text_config),
            state_dict=state,
            **{"dtype": next(iter(dtypes)), **asked.llm},
        ),
        where,
        where,
        quantised="quantization_config" in asked.llm,
    )


def check_llm_size(
    config: AudioLanguageConfig, stored: dict[str, Tensor], folder: Path
) -> type[PreTrainedModel]:
    """Compare the LLM that config.json describes with the weights file before memory is allocated for it.

    Returns:
        The LLM's class.
    """
    path = folder / "config.json"
    with typed_errors(f"{path}: text_config: cannot build the LLM"), torch.device("meta"):
        described = AutoModelForCausalLM.from_config(
            copy.deepcopy(config.text_config), trust_remote_code=False
        )
    size = sum(parameter.numel() for parameter in described.parameters())
    found = sum(
        value.numel() for key, value in stored.items() if key.startswith("llm.") and "lora_" not in key
    )
    if (
        not found / 2 <= size <= found * 2
    ):  # a tied head makes a small difference; load_strict finds the others
        raise CheckpointError(
            f"{path}: text_config describes an LLM of {size:,} parameters, {WEIGHTS} holds {found:,}; restore the "
            "config or the weights"
        )
    return cast(type[PreTrainedModel], type(described))
