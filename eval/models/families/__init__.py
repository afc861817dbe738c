"""Families of `transformers` audio-text models that need special handling: one file each, named by `model_type`.

A file assigns `FAMILY`, here or in a plug-in folder. Models without a file are prompted through the chat template of
their processor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alm.common.plugins import Registry
from eval.models.base import Prompt

__all__ = ["FAMILIES", "Family", "chat_inputs", "family_of"]


def chat_inputs(processor: Any, prompts: Sequence[Prompt]) -> Any:
    """Model inputs of a batch of prompts, padded on the left, through the processor's chat template.

    Args:
        processor: A processor of `transformers`.
        prompts: The prompts; all with recordings or all without.
    """

    def item(clip: np.ndarray) -> dict[str, Any]:
        return {"type": "audio", "audio": clip}

    processor.tokenizer.padding_side = "left"
    return processor.apply_chat_template(
        [prompt.content(item) for prompt in prompts],
        tokenize=True,
        return_dict=True,
        add_generation_prompt=True,
        # Padding of texts alone: encoders want windows of full length.
        processor_kwargs={"text_kwargs": {"padding": True}, "return_tensors": "pt"},
    )


@dataclass(frozen=True)
class Family:
    """Prompts and options of the models of one `model_type`, where they differ from the others.

    Attributes:
        inputs: Makes the model inputs of a batch of prompts; see `chat_inputs`.
        generate: Further arguments of the model's `generate`, for example to switch its speech off.
        equal_lengths: Whether only recordings of one length share a batch, because padding would change answers.
        cannot_rank: Why choices cannot be ranked by likelihood; empty if they can.
        architecture: The class of `transformers` to load, where it is a part of the published model.
    """

    inputs: Callable[[Any, Sequence[Prompt]], Any] = chat_inputs
    generate: Mapping[str, Any] = field(default_factory=dict)
    equal_lengths: bool = False
    cannot_rank: str = ""
    architecture: str = ""


FAMILIES: Registry[Family] = Registry(
    "family of models",
    "FAMILY",
    "eval.models.families",
    accepts=lambda found: isinstance(found, Family),
    expected="Family(...)",
)


def family_of(model_type: str) -> Family:
    """The family of a `model_type`; the general one where it has no file."""
    return FAMILIES.get(model_type) if model_type in FAMILIES.names() else Family()
