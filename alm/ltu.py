"""The published AudioMosaic-LTU layout, loaded strictly into an `alm.model.AudioLanguageModel`.

A directory with `config.json` (`AudioMosaicLlamaForCausalLM`), a Llama base, `tokenizer.model`, and
`extra_weights.bin` with `audio_encoder.*`, `audio_proj.*` and the LLM's `lora_*`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaTokenizer

from alm.common.errors import CheckpointError
from alm.common.pretrained import from_pretrained
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.policy import adapter_keys, inject_lora
from alm.processing.feature_extraction import AudioLanguageFeatureExtractor
from alm.processor import AudioLanguageProcessor
from encoders.base import read_config
from encoders.checkpoint import load_strict, read_weights
from encoders.zoo.audiomosaic.config import BACKBONE, AudioMosaicConfig
from encoders.zoo.audiomosaic.model import AudioMosaicEncoder
from projectors.ltu import LTUConfig

ARCHITECTURE = "AudioMosaicLlamaForCausalLM"
EXTRA_WEIGHTS = "extra_weights.bin"
_HEAD_DIM = 64  # as in ViT-B/16; the layout does not hold it
_LORA_ALPHA = 16  # LTU's recipe; the layout does not say


def is_ltu(folder: Path) -> bool:
    """Whether a directory is in this layout."""
    return (folder / EXTRA_WEIGHTS).is_file() and ARCHITECTURE in (
        read_config(folder).get("architectures") or []
    )


def load_ltu(
    folder: Path, *, variant: str = "official", lora_alpha: int = _LORA_ALPHA, **encoder_options: Any
) -> AudioLanguageModel:
    """Load the released model; the tensors of `extra_weights.bin` must match the model's parameters one to one.

    Args:
        folder: The directory.
        variant: The order in which the projector reads tokens, see `projectors.ltu`; the release used `official`.
        lora_alpha: Scale of the LLM's adapters.
        **encoder_options: Encoder config values that differ from ViT-B/16 on 10.24 s.

    Returns:
        The model in eval mode. `save_pretrained` writes it in our own layout, including the LLM.

    Raises:
        CheckpointError: A tensor is missing, unexpected or mis-shaped.
    """
    source = folder / EXTRA_WEIGHTS
    parts = _split(read_weights(source), source)
    encoder = AudioMosaicEncoder(_encoder_config(parts["audio_encoder"], source, encoder_options))
    load_strict(encoder, parts["audio_encoder"], source=f"{source}: audio_encoder")
    options = {"variant": variant, "token_norm": encoder.config.use_fc_norm}
    model = AudioLanguageModel.assemble(encoder.eval(), _base(folder), "ltu", options)
    model.config.audio_token_id = load_ltu_processor(
        folder, variant=variant, **encoder_options
    ).audio_token_id
    load_strict(model.projector.get_submodule("proj"), parts["audio_proj"], source=f"{source}: audio_proj")
    lora = {_lora_key(key): value for key, value in parts["lora"].items()}
    if lora:
        rank = next(value.shape[0] for key, value in lora.items() if ".lora_A." in key)
        targets = sorted({key.partition(".lora_")[0] for key in lora})
        model.config.llm_lora = {
            "r": rank, "lora_alpha": lora_alpha, "lora_dropout": 0.0, "target_modules": targets,
        }  # fmt: skip
        inject_lora(model.llm, model.config.llm_lora)
        base = set(model.llm.state_dict()) - adapter_keys(model.llm)
        load_strict(model.llm, lora, source=f"{source}: lora", allow_missing=tuple(base))
    model.eval()  # type: ignore[no-untyped-call]
    return model


def load_ltu_processor(
    folder: Path, *, variant: str = "official", **encoder_options: Any
) -> AudioLanguageProcessor:
    """The processor: LTU's prompt, its tokenizer padded with the unknown token as in its recipe."""
    source = folder / EXTRA_WEIGHTS
    parts = _split(read_weights(source), source)
    config = _encoder_config(parts["audio_encoder"], source, encoder_options)
    projector = LTUConfig(
        encoder_dim=config.dim,
        n_freq=config.n_freq,
        frame_rate_hz=config.frame_rate_hz,
        llm_dim=read_config(folder)["hidden_size"],
        variant=variant,
        token_norm=config.use_fc_norm,
    )
    tokenizer = from_pretrained(LlamaTokenizer, folder, role="tokenizer")
    tokenizer.pad_token = tokenizer.unk_token
    extractor = AudioLanguageFeatureExtractor(config.to_dict(), projector.to_dict())
    return AudioLanguageProcessor(extractor, tokenizer, "alpaca-short")


def _split(weights: dict[str, Tensor], source: Path) -> dict[str, dict[str, Tensor]]:
    parts: dict[str, dict[str, Tensor]] = {"audio_encoder": {}, "audio_proj": {}, "lora": {}}
    unknown = []
    for key, value in weights.items():
        name = re.sub(r"^(base_model\.model\.)?(model\.)?(?=audio_)", "", key)
        if name.startswith("audio_encoder."):
            parts["audio_encoder"][name.removeprefix("audio_encoder.")] = value
        elif name.startswith("audio_proj."):
            parts["audio_proj"][name.rsplit(".", 1)[-1]] = value  # the LayerNorm before it has no weights
        elif ".lora_" in key:
            parts["lora"][key] = value
        else:
            unknown.append(key)
    if unknown:
        raise CheckpointError(
            f"{source}: unexpected keys {', '.join(sorted(unknown)[:5])}; expected audio_encoder.*, audio_proj.* and "
            "*.lora_*"
        )
    return parts


def _encoder_config(weights: dict[str, Tensor], source: Path, options: dict[str, Any]) -> AudioMosaicConfig:
    if "cls_token" not in weights:
        raise CheckpointError(f"{source}: audio_encoder.cls_token is missing")
    width = weights["cls_token"].shape[-1]
    values = {
        "model_class": BACKBONE,
        "embed_dim": width,
        "depth": len({key.split(".")[1] for key in weights if key.startswith("blocks.")}),
        "num_heads": max(width // _HEAD_DIM, 1),
        "use_fc_norm": "norm.weight" not in weights,
        "normalisation": "ltu",
        **options,
    }
    return AudioMosaicConfig.from_dict(values, where=str(source))


def _base(folder: Path) -> Any:
    values = {
        key: value for key, value in read_config(folder).items() if key not in ("architectures", "model_type")
    }
    return load_llm(str(folder), loader=LlamaForCausalLM, config=LlamaConfig(**values))


def _lora_key(key: str) -> str:
    """Turn a key of a saved peft model into the key inside the LLM: without wrapper, with the adapter's name."""
    name = re.sub(r"^(base_model\.)?(model\.)*(?=layers\.)", "model.", key)
    return re.sub(r"\.(lora_[AB])(\.default)?\.weight$", r".\1.default.weight", name)
