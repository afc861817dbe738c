"""Exports a trained model to one self-contained directory, with its LLM, and checks the directory by loading it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from alm.checkpoint import load_model, load_processor, resolve
from alm.common.errors import CheckpointError, UserError
from alm.common.files import new_folder
from alm.decoding import take_stop_tokens
from alm.hub.model_card import README, read_card, scores_in, write_card

if TYPE_CHECKING:
    from alm.model import AudioLanguageModel

RELOAD_TOLERANCE = 1e-6
# Merging adds the adapter to the weight instead of its output to the output: float32 rounds differently. Relative to
# the largest logit.
MERGE_TOLERANCE = 1e-4


def merge_lora(model: AudioLanguageModel) -> AudioLanguageModel:
    """Merge all adapters into the layers that they adapt, in place; the model then has no adapters."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for component in (model.encoder, model.llm):
        adapted = [
            (name, layer) for name, layer in component.named_modules() if isinstance(layer, BaseTunerLayer)
        ]
        for name, layer in adapted:
            layer.merge(safe_merge=True)  # refuses weights that are not finite
            parent, _, child = name.rpartition(".")
            setattr(component.get_submodule(parent) if parent else component, child, layer.get_base_layer())
        for leftover in ("peft_config", "_hf_peft_config_loaded"):
            component.__dict__.pop(leftover, None)
    model.config.encoder_lora = model.config.llm_lora = None
    return model


def export_model(
    source: str | Path,
    out: str | Path,
    *,
    merge: bool = True,
    trust_remote_code: bool = False,
) -> dict[str, float]:
    """Write a model to a directory that needs no other files.

    Args:
        source: Model directory or hub id.
        out: New or empty directory.
        merge: Merge LoRA adapters into the weights.
        trust_remote_code: Run Python code that comes with the model's LLM; the code is copied.

    Returns:
        Largest differences of logits on one second of noise: `merge` (if adapters were merged; in float32, relative
        to the largest logit) and `reload`. Neither includes the rounding of the merged weights to their stored dtype.

    Raises:
        UserError: `out` is not empty.
        CheckpointError: The export does not compute the same logits as the model; nothing is written.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not an empty directory; choose another --out")
    source = resolve(source)
    trusted: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    model, processor = load_model(source, **trusted), load_processor(source, **trusted)
    if model.config.llm_bits is not None:
        raise UserError(
            f"{source}: its LLM is in {model.config.llm_bits} bits; set llm_bits to null in config.json"
        )
    take_stop_tokens(model, processor)  # directories of earlier releases lack them
    inputs = _probe(processor)
    found = {}
    if merge:
        with _in_float32(model):
            before = _logits(model, inputs)
            found["merge"] = float(
                (_logits(merge_lora(model), inputs) - before).abs().max() / before.abs().max()
            )
    model.config.forget_llm()
    after = _logits(model, inputs)
    with new_folder(folder) as partial:
        model.save_pretrained(partial)
        write_card(partial, model, scores=scores_in(read_card(source / README)))
        processor.save_pretrained(partial)
        del model
        again = _logits(load_model(partial, **trusted), _probe(load_processor(partial, **trusted)))
        found["reload"] = float((again - after).abs().max())
        for step, limit in (("merge", MERGE_TOLERANCE), ("reload", RELOAD_TOLERANCE)):
            if not found.get(step, 0.0) <= limit:
                raise CheckpointError(
                    f"{source}: logits differ by {found[step]:.2g} after the {step} step, more than {limit:.0e}; "
                    f"{folder} was not written"
                )
    return found


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Hold tensors of 16 bits in float32 inside the block.

    Merged in 16 bits, a small adapter would partly be rounded away before it could be compared.
    """
    tensors = chain(model.parameters(), model.buffers())
    narrow = [(tensor, tensor.dtype) for tensor in tensors if tensor.dtype in (torch.bfloat16, torch.float16)]
    for tensor, _ in narrow:
        tensor.data = tensor.data.float()
    try:
        yield
    finally:
        for tensor, dtype in narrow:
            tensor.data = tensor.data.to(dtype)


def _probe(processor: Any) -> dict[str, Tensor]:
    noise = 0.1 * np.random.default_rng(0).standard_normal(processor.sample_rate)
    turns = [{"role": "user", "content": f"{processor.audio_token}What is this sound?"}]
    clip = noise.astype(np.float32)
    batch = processor.apply_chat_template(
        turns, audio=[clip], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    return dict(batch)


@torch.no_grad()
def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    logits: Tensor = model(**inputs).logits
    return logits.float()
