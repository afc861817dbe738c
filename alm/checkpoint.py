"""Audio-language model directories: what is written, and the strict way back.

`config.json` (nested configs) + `model.safetensors`. An LLM that was never trained in full is referred to by
hub id and revision, or by directory and content hash; its base weights are then not in the file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging

from alm.common.errors import CheckpointError, UserError
from alm.common.files import sha256_of, write_bytes_atomic
from alm.common.pretrained import from_pretrained
from alm.configuration import AudioLanguageConfig
from alm.decoding import check_generation_config
from alm.ltu import is_ltu, load_ltu, load_ltu_processor
from alm.policy import adapter_keys
from encoders.base import make_folder
from encoders.checkpoint import load_strict, read_weights, resolve_source, write_weights

if TYPE_CHECKING:
    from alm.model import AudioLanguageModel
    from alm.processor import AudioLanguageProcessor

WEIGHTS = "model.safetensors"


def llm_fingerprint(source: str | None, llm: PreTrainedModel) -> dict[str, Any]:
    """What pins a referenced LLM: the content hash of a directory, or the hub commit it was loaded from."""
    if source is None:
        return {}
    if Path(source).is_dir():
        return {"llm_sha256": weights_sha256(Path(source))}
    return {"llm_revision": getattr(llm.config, "_commit_hash", None)}


def weights_sha256(folder: Path) -> str:
    """One hash over the names and contents of a directory's weight files."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    if not files:
        raise CheckpointError(f"{folder}: no weight file (*.safetensors, *.bin); expected a saved causal LLM")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}:{sha256_of(file)}\n".encode())
    return digest.hexdigest()


def llm_base_keys(model: AudioLanguageModel) -> set[str]:
    """State-dict keys of the LLM that are not adapters."""
    adapters = adapter_keys(model.llm)
    return {f"llm.{key}" for key in model.llm.state_dict() if key not in adapters}


def save_model(
    model: AudioLanguageModel, folder: Path, *, state_dict: dict[str, torch.Tensor] | None = None
) -> None:
    """Write `model` to `folder` so that `load_model` and `AutoModelForCausalLM` reload it.

    Args:
        model: The model.
        folder: Created if needed. Each file is replaced atomically, the config last.
        state_dict: Gathered weights, where a sharded trainer holds them.
    """
    folder = make_folder(folder)
    state = state_dict if state_dict is not None else model.state_dict()
    skip: set[str] = set()
    if model.config.llm is not None:
        skip = llm_base_keys(model)
    elif model.llm.config.tie_word_embeddings:  # safetensors refuses shared memory; tying restores the head
        skip = {f"llm.{key}" for key in (model.llm._tied_weights_keys or {})}
    write_weights(folder / WEIGHTS, {key: value for key, value in state.items() if key not in skip})
    values = model.config.to_dict()
    values["architectures"] = [type(model).__name__]
    for nested in (values, values["text_config"]):
        nested.pop("_name_or_path", None)  # a path of this machine, and `llm` says it already
    if values.get("llm") and Path(values["llm"]).is_dir():
        values["llm"] = os.path.relpath(Path(values["llm"]).resolve(), folder.resolve())
    model.generation_config.save_pretrained(folder)
    text = json.dumps(values, indent=2, sort_keys=True) + "\n"
    write_bytes_atomic(folder / "config.json", text.encode(), CheckpointError)


def load_model(source: str | Path, *, dtype: torch.dtype | str | None = None) -> AudioLanguageModel:
    """Load a model directory or hub id; every tensor must be there, with its shape, and no other.

    Args:
        source: Directory written by `save_model`, or a hub id of one.
        dtype: Dtype to cast to; None keeps the stored one.

    Returns:
        The model in eval mode, on the CPU.

    Raises:
        CheckpointError: Not a model directory, a missing, unexpected or mis-shaped tensor, or an LLM that is gone
            or not the one the model was trained with.
    """
    from alm.model import AudioLanguageModel

    folder = resolve(source)
    if is_ltu(folder):
        return _cast(load_ltu(folder), dtype)
    config = read_model_config(folder)
    llm = None
    if config.llm is not None:
        llm = _load_llm(config, folder)
    model = AudioLanguageModel(config, llm=llm)
    weights = folder / WEIGHTS
    if not weights.is_file():
        raise CheckpointError(f"{folder}: {WEIGHTS} is missing; the model was not saved completely")
    absent: set[str] = set()
    if config.llm is not None:
        absent = llm_base_keys(model)
    elif model.llm.config.tie_word_embeddings:
        absent = {f"llm.{key}" for key in (model.llm._tied_weights_keys or {})}
    stored = read_weights(weights)
    for key, value in model.state_dict(keep_vars=True).items():
        if key in stored:  # adapters learnt in float32 on an LLM in bfloat16, say
            value.data = value.data.to(stored[key].dtype)
    load_strict(model, stored, source=str(weights), allow_missing=tuple(absent))
    if config.llm is None:
        model.llm.tie_weights()
        if (folder / "generation_config.json").is_file():  # a referenced LLM brings its own
            own = from_pretrained(GenerationConfig, folder, role="model")
            model.generation_config = model.llm.generation_config = own
    check_generation_config(model.generation_config, f"{config.llm or folder}/generation_config.json")
    return _cast(model, dtype)


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


def _cast(model: AudioLanguageModel, dtype: torch.dtype | str | None) -> AudioLanguageModel:
    if dtype is not None and dtype != "auto":
        torch.nn.Module.to(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return model.eval()


def resolve(source: str | Path) -> Path:
    """The local directory of a model given as directory or hub id (whose files are downloaded)."""
    folder = resolve_source(
        source, patterns=["*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt"]
    )
    if not folder.is_dir():
        raise CheckpointError(f"{source}: is a file; give the directory of a trained model")
    return folder


def read_model_config(folder: Path) -> AudioLanguageConfig:
    """The config of a model directory; a relative path to its LLM is resolved.

    Raises:
        CheckpointError: Not there, broken, or of another kind of model.
    """
    path = folder / "config.json"
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}: config.json is missing; expected an audio-language model directory"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: not valid JSON ({error}); restore it or train again") from error
    if values.get("model_type") != AudioLanguageConfig.model_type:
        raise CheckpointError(
            f"{path}: model_type is {values.get('model_type')!r}, expected '{AudioLanguageConfig.model_type}'"
        )
    values.pop("model_type")
    config = AudioLanguageConfig(**values)
    if config.llm is not None and not Path(config.llm).is_absolute() and (folder / config.llm).is_dir():
        config.llm = str((folder / config.llm).resolve())
    return config


def _load_llm(config: AudioLanguageConfig, folder: Path) -> PreTrainedModel:
    assert config.llm is not None
    local = Path(config.llm)
    if not local.is_dir() and (local.is_absolute() or config.llm.startswith(".")):
        # Not a hub id: the model, or its LLM, was moved alone.
        missing = local if local.is_absolute() else Path(os.path.normpath(folder.absolute() / local))
        raise CheckpointError(
            f"{folder}: its LLM is not at {missing} ('llm' in {folder / 'config.json'} is '{config.llm}'); move it "
            "there or set 'llm' to where it is now; `alm export` writes a model that can be moved by itself"
        )
    if local.is_dir():
        found = weights_sha256(local)
        if config.llm_sha256 and found != config.llm_sha256:
            raise CheckpointError(
                f"{folder}: its LLM at {config.llm} has changed since training (weights sha256 {found[:12]}…, "
                f"expected {config.llm_sha256[:12]}…); restore that LLM or train again"
            )
    return load_llm(config.llm, revision=config.llm_revision, wanted_by=str(folder), bits=config.llm_bits)


def load_llm(
    source: str,
    *,
    revision: str | None = None,
    wanted_by: str = "llm",
    bits: int | None = None,
    loader: Any = AutoModelForCausalLM,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """A causal LLM from a directory or hub id, loaded completely.

    Args:
        source: Directory or hub id.
        revision: Hub branch, tag or commit.
        wanted_by: Who asks, for messages.
        bits: 4 or 8 quantises the weights while loading, through bitsandbytes; None keeps them.
        loader: The class whose `from_pretrained` is called.
        trust_remote_code: Run Python code that the LLM's directory brings along; only where the user's config says so.
        **options: Passed to it.

    Raises:
        CheckpointError: It is not there, or a tensor is missing or mis-shaped.
        UserError: `bits` without bitsandbytes, or another number.
    """
    if bits is not None:
        options["quantization_config"] = _quantisation(bits)
    if Path(source).is_absolute() and not Path(source).is_dir():
        raise CheckpointError(f"{wanted_by}: its LLM directory {source} does not exist")
    llm, info = from_pretrained(
        loader,
        source,
        role=f"{wanted_by}: LLM" if wanted_by != "llm" else wanted_by,
        trust_remote_code=trust_remote_code,
        revision=revision,
        output_loading_info=True,
        **options,
    )
    bad = {k: sorted(map(str, v)) for k, v in info.items() if v and k != "unexpected_keys"}
    if bad:
        raise CheckpointError(f"{wanted_by}: the LLM '{source}' does not load completely: {bad}")
    logging.get_logger(__name__).info("loaded %s", source)
    return llm


def _quantisation(bits: int) -> Any:
    if bits not in (4, 8):
        raise UserError(f"llm bits: got {bits}, expected 4 or 8")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"an LLM in {bits} bits needs bitsandbytes, which is not installed; pip install 'alm-toolkit[quant]', or "
            "load it unquantised"
        )
    from transformers import BitsAndBytesConfig

    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    # NF4 with a 16 bit computation type: QLoRA's choice (Dettmers et al. 2023, section 3)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def load_processor(source: str | Path) -> AudioLanguageProcessor:
    """The processor of a saved model; CheckpointError if its files are missing or broken."""
    from alm.processor import AudioLanguageProcessor

    folder = resolve(source)
    if is_ltu(folder):
        return load_ltu_processor(folder)
    return from_pretrained(AudioLanguageProcessor, folder, role="processor", local_files_only=True)
