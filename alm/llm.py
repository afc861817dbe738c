"""Loads a causal LLM completely and safely, and pins the LLM that a model refers to."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging
from transformers.utils.import_utils import is_gguf_available

from alm.common.errors import CheckpointError, UserError
from alm.common.files import sha256_of
from alm.common.json_text import read_json_object
from alm.common.pretrained import from_pretrained
from alm.common.processes import n_cores
from alm.decoding import check_generation_config
from encoders.checkpoint import is_finite
from encoders.devices import pick_device


def llm_fingerprint(source: str | None, llm: PreTrainedModel) -> dict[str, Any]:
    """Config values that pin a referenced LLM: the content hashes of a directory, or the Hub commit of an id."""
    if source is None:
        return {}
    if os.path.isdir(source):
        return {"llm_sha256": weights_sha256(Path(source)), "llm_config_sha256": config_sha256(Path(source))}
    return {"llm_revision": getattr(llm.config, "_commit_hash", None)}


def weights_sha256(folder: Path) -> str:
    """One hash over the names and contents of a directory's weight files, which are read in parallel."""
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin"))
    if not files:
        raise CheckpointError(f"{folder}: no weight file (*.safetensors, *.bin); expected a saved causal LLM")
    digest = hashlib.sha256()
    with ThreadPoolExecutor(n_cores()) as pool:
        for file, found in zip(files, pool.map(sha256_of, files), strict=True):
            digest.update(f"{file.name}:{found}\n".encode())
    return digest.hexdigest()


def config_sha256(folder: Path) -> str:
    """One hash over the values of a directory's config.json that results depend on."""
    values = read_json_object(folder / "config.json", CheckpointError, constants=True)
    kept = {key: value for key, value in values.items() if key not in _NO_EFFECT}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


_NO_EFFECT = ("_name_or_path", "transformers_version", "use_cache")


def load_llm(
    source: str,
    *,
    revision: str | None = None,
    wanted_by: str | None = None,
    bits: int | None = None,
    loader: Any = AutoModelForCausalLM,
    trust_remote_code: bool = False,
    **options: Any,
) -> PreTrainedModel:
    """A causal LLM from a directory, Hub id or GGUF file, loaded completely.

    Args:
        source: Directory or Hub id; or a GGUF file, or a directory with one, whose weights are de-quantised.
        revision: Hub branch, tag or commit.
        wanted_by: The model that refers to this LLM, for messages.
        bits: 4 or 8 quantises the weights while loading, through bitsandbytes; None keeps them.
        loader: The class whose `from_pretrained` is called.
        trust_remote_code: Run Python code of the LLM's directory; set it only from the user's config.
        **options: Passed to `from_pretrained`.

    Raises:
        CheckpointError: The LLM is missing, a tensor is missing, mis-shaped or not finite, or a file is broken.
        UserError: `bits` without bitsandbytes, with another number than 4 or 8, or on a device that bitsandbytes does
            not support; a GGUF file without the package gguf.
    """
    role = f"{wanted_by}: LLM" if wanted_by else "llm"
    file = gguf_file(source)
    if bits is not None:
        if file is not None:
            raise UserError(
                f"llm bits: {file} is a GGUF file, whose weights are de-quantised; remove the setting, or load the "
                "LLM's own directory"
            )
        options["quantization_config"] = _quantisation(bits)
    if file is not None:
        options |= _from_gguf(file)
        role = f"{role} {file.name}"
    elif Path(source).is_absolute() and not os.path.isdir(source):
        raise CheckpointError(f"{role}: the directory {source} does not exist")
    folder = source if file is None else str(file.parent)
    llm = load_with_info(
        loader, folder, role=role, trust_remote_code=trust_remote_code, revision=revision, **options
    )
    if file is not None:
        _forget_gguf(llm, file)
        options.pop("quantization_config", None)
    check_llm(llm, role, source, quantised="quantization_config" in options)
    check_generation_config(llm.generation_config, f"{source}/generation_config.json")
    logging.get_logger(__name__).info("loaded %s", source)
    return llm


def load_tokenizer(source: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of an LLM; see `load_llm`."""
    file = gguf_file(source)
    options: dict[str, Any] = {} if file is None else {"gguf_file": file.name}
    if file is not None:
        _require_gguf(file)
    return from_pretrained(
        AutoTokenizer,
        source if file is None else file.parent,
        role="llm: tokenizer" if file is None else f"llm: tokenizer of {file.name}",
        trust_remote_code=trust_remote_code,
        **options,
    )


def gguf_file(source: str) -> Path | None:
    """The GGUF file that an LLM is read from: the source itself, or the only one in a directory without a config.json.

    Returns:
        None for a directory of transformers, and for a Hub id.

    Raises:
        CheckpointError: The file does not exist, or the directory holds several.
    """
    path = Path(source)
    if path.suffix.lower() == ".gguf":
        if not os.path.isfile(path):
            raise CheckpointError(f"llm: the GGUF file {source} does not exist")
        return path.absolute()
    if not os.path.isdir(path) or (path / "config.json").exists():
        return None
    found = sorted(file for file in path.iterdir() if file.suffix.lower() == ".gguf")
    if len(found) > 1:
        names = ", ".join(file.name for file in found[:5])
        raise CheckpointError(f"llm: {source} holds {len(found)} GGUF files ({names}); name the file itself")
    return found[0].absolute() if found else None


def _from_gguf(file: Path) -> dict[str, Any]:
    """Arguments of `from_pretrained` that load a GGUF file as plain weights in float32."""
    _require_gguf(file)
    options: dict[str, Any] = {"gguf_file": file.name, "dtype": torch.float32}
    if hasattr(transformers, "GgufConfig"):  # newer releases keep the weights packed, and then cannot train
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return options


def _require_gguf(file: Path) -> None:
    if not is_gguf_available():
        raise UserError(
            f"llm: {file} is a GGUF file, which needs the package gguf; pip install 'alm-toolkit[gguf]'"
        )


def _forget_gguf(llm: PreTrainedModel, file: Path) -> None:
    """Remove the traces of quantisation from a de-quantised LLM, so that it can be trained and saved."""
    for holder, name in (
        (llm.config, "quantization_config"),
        (llm, "hf_quantizer"),
        (llm, "quantization_method"),
    ):
        if name in holder.__dict__:
            delattr(holder, name)
    llm.config._name_or_path = str(file)


def load_with_info(loader: Any, source: str | None, *, role: str, **options: Any) -> PreTrainedModel:
    """Call `loader.from_pretrained`, and check that it found every tensor.

    Raises:
        CheckpointError: The source is missing or broken, or a tensor is missing or mis-shaped.
    """
    llm, info = from_pretrained(loader, source, role=role, output_loading_info=True, **options)
    bad = {kind: sorted(map(str, keys)) for kind, keys in info.items() if keys and kind != "unexpected_keys"}
    if bad:
        raise CheckpointError(f"{role}: '{source}' does not load completely: {bad}")
    return cast(PreTrainedModel, llm)


def check_llm(llm: PreTrainedModel, role: str, source: str, *, quantised: bool) -> PreTrainedModel:
    """Refuse weights of other dtypes than floats of 16 or 32 bits, and NaN; offloaded weights are not read.

    Raises:
        CheckpointError: Names the tensor.
    """
    for name, parameter in llm.named_parameters():
        if not quantised and not parameter.is_floating_point() or parameter.dtype in _FLOAT8:
            dtype = str(parameter.dtype).removeprefix("torch.")
            raise CheckpointError(
                f"{role}: '{source}': {name} has dtype {dtype}, expected 16 or 32 bit floats"
            )
        if parameter.is_floating_point() and not parameter.is_meta and not is_finite(parameter):
            raise CheckpointError(f"{role}: '{source}': {name} holds NaN or Infinity; restore the weights")
    return llm


_FLOAT8 = tuple(getattr(torch, name) for name in dir(torch) if name.startswith("float8"))


def _quantisation(bits: int) -> Any:
    if bits not in (4, 8):
        raise UserError(f"llm bits: got {bits}, expected 4 or 8")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"an LLM in {bits} bits needs bitsandbytes, which is not installed; pip install 'alm-toolkit[quant]', or "
            "load it unquantised"
        )
    import bitsandbytes
    from transformers import BitsAndBytesConfig

    known = getattr(bitsandbytes, "supported_torch_devices", {"cuda"})  # older releases: CUDA
    if (kind := pick_device().type) not in known:
        raise UserError(
            f"llm bits: bitsandbytes {bitsandbytes.__version__} has no code for {kind}, only for "
            f"{', '.join(sorted(known))}; load the LLM unquantised, or set ACCELERATE_USE_CPU=1"
        )
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    # NF4 with a 16 bit computation type: QLoRA's choice (Dettmers et al. 2023, section 3)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )
