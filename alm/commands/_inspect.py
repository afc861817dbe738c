"""The contents of a model directory, from its configs and the weights file's header; no weights are loaded."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from safetensors import safe_open

from alm.checkpoint import load_processor, resolve
from alm.common.errors import CheckpointError
from alm.configuration import read_model_config
from alm.loading.files import WEIGHTS


def describe(source: str | Path, *, trust_remote_code: bool = False) -> str:
    """A text table of a model's parts, constants and stored tensors.

    Args:
        source: Model directory or Hub id.
        trust_remote_code: Run Python code that comes with the model's LLM; set it only from the user's config.

    Raises:
        CheckpointError: Not a model directory, or files are missing.
    """
    folder = resolve(source)
    config = read_model_config(folder, trust_remote_code)
    processor = load_processor(folder, trust_remote_code=trust_remote_code)
    encoder, projector = processor.encoder_config, processor.projector_config
    text, llm = config.get_text_config(), config.llm
    rate = projector.tokens_per_second
    where = "stored here" if llm is None else f"referenced: {llm}" + _pin(config)
    rows = [
        ("encoder", f"{encoder.model_class}, {encoder.sample_rate} Hz, width {encoder.dim}, "
                    f"{encoder.frame_rate_hz:g} x {encoder.n_freq} tokens/s"),
        ("window", f"{encoder.clip_s:g} s; longer clips are cut into windows"
                   if math.isfinite(encoder.clip_s) else "the whole clip"),
        ("projector", f"{projector.name}, "
                      + (f"{rate:g} LLM tokens/s" if rate else f"{projector.n_tokens_for(1)} LLM tokens per clip")),
        ("llm", f"{text.model_type}, width {projector.llm_dim}, {text.vocab_size} words, {where}"),
    ]  # fmt: skip
    if getattr(encoder, "normalisation", None):
        rows.insert(1, ("normalisation", str(getattr(encoder, "normalisation"))))  # noqa: B009
    for name, values in (("encoder LoRA", config.encoder_lora), ("llm LoRA", config.llm_lora)):
        if values:
            rows.append((name, f"r {values['r']}, alpha {values['lora_alpha']}"))
    rows += [("audio token", f"{config.audio_token} ({config.audio_token_id})")]
    rows += [(f"{name} tensors", value) for name, value in _stored(folder / WEIGHTS).items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _pin(config: object) -> str:
    pin = getattr(config, "llm_sha256", None) or getattr(config, "llm_revision", None)
    return f" ({pin[:12]})" if pin else ""


def _stored(path: Path) -> dict[str, str]:
    """Stored parameters and dtypes by component."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent}: {path.name} is missing; the model was not saved completely")
    counts: Counter[str] = Counter()
    dtypes: dict[str, set[str]] = {}
    with safe_open(path, framework="pt") as handle:
        for key in handle.keys():  # noqa: SIM118 (not a dictionary)
            part, piece = key.split(".", 1)[0], handle.get_slice(key)
            size = 1
            for n in piece.get_shape():
                size *= n
            counts[part] += size
            dtypes.setdefault(part, set()).add(piece.get_dtype())
    return {part: f"{n:,} parameters, {'/'.join(sorted(dtypes[part]))}" for part, n in counts.items()}
