"""One self-contained directory out of a trained model: LLM included, adapters merged, checked by loading it back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from alm.checkpoint import load_model, load_processor, resolve
from alm.errors import CheckpointError, UserError

if TYPE_CHECKING:
    from alm.model import AudioLanguageModel

RELOAD_TOLERANCE = 1e-6
# Merging adds the adapter to the weight instead of its output to the output: float32 rounds differently. Relative to
# the largest logit.
MERGE_TOLERANCE = 1e-4


def merge_lora(model: AudioLanguageModel) -> AudioLanguageModel:
    """Fold all adapters into the layers they adapt, in place; the model then has none."""
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


def export_model(source: str | Path, out: str | Path, *, merge: bool = True) -> dict[str, float]:
    """Write a model so that it needs nothing else.

    Args:
        source: Model directory or hub id.
        out: New or empty directory.
        merge: Fold LoRA adapters into the weights.

    Returns:
        Largest differences of logits on one second of noise: ``merge`` (relative to the largest logit) and
        ``reload``.

    Raises:
        UserError: ``out`` is not empty.
        CheckpointError: The export does not compute what the model does.
    """
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: is not an empty directory; choose another --out")
    source = resolve(source)
    model, processor = load_model(source), load_processor(source)
    if model.config.llm_bits is not None:
        raise UserError(
            f"{source}: its LLM is in {model.config.llm_bits} bits; set llm_bits to null in config.json"
        )
    inputs = _probe(processor)
    before = _logits(model, inputs)
    if merge:
        merge_lora(model)
    model.config.llm = model.config.llm_revision = model.config.llm_sha256 = None
    after = _logits(model, inputs)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    del model
    found = {
        "merge": float((after - before).abs().max() / before.abs().max()),
        "reload": float((_logits(load_model(folder), _probe(load_processor(folder))) - after).abs().max()),
    }
    for step, limit in (("merge", MERGE_TOLERANCE), ("reload", RELOAD_TOLERANCE)):
        if not found[step] <= limit:
            raise CheckpointError(
                f"{folder}: logits differ by {found[step]:.2g} after the {step} step, more than {limit:.0e}; do not "
                "use this export"
            )
    return found


def _probe(processor: Any) -> dict[str, Tensor]:
    noise = 0.1 * np.random.default_rng(0).standard_normal(processor.sample_rate)
    turns = [{"role": "user", "content": f"{processor.audio_token}What is this sound?"}]
    return dict(processor([turns], [[noise.astype(np.float32)]], add_generation_prompt=True))


@torch.no_grad()
def _logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    return model(**inputs).logits.float()
