"""Reading weights and putting them into a module, strictly."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from alm.common.errors import CheckpointError
from alm.common.files import apply_umask, new_file
from alm.common.text import error_line, one_line
from encoders.checksums import ENTRY, check_tensors, checksums, sort_metadata

# Parts of tensor names that wrappers add: torch.compile, activation checkpointing and FSDP at any place in the name,
_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# DistributedDataParallel at the start only. At any other place `module` may be the name of a submodule.
_OUTER_WRAPPER = "module."
# Keys under which training scripts and DeepSpeed save the state dict; they may be nested.
_STATE_DICT_KEYS = ("model", "state_dict", "model_state_dict", "module")
_FAIRSEQ_AVERAGE = "_ema"  # fairseq keeps the teacher's weights inside the state dict
_HUB_FILES = ("config.json", "*.safetensors", "pytorch_model.bin")
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
_FLOAT_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class LoadReport:
    """The keys that loading matched, missed or did not expect."""

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    """Each as `key: (shape in the weights) for (shape in the model)`."""

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} matched"]
        for name in ("missing", "unexpected", "misshaped"):
            keys = getattr(self, name)
            parts.append(f"{len(keys)} {name}" + (f" ({', '.join(keys)})" if keys else ""))
        return "; ".join(parts)


def load_strict(
    module: nn.Module,
    state_dict: Mapping[str, Tensor],
    *,
    source: str | os.PathLike[str],
    allow_missing: Sequence[str] = (),
    allow_unexpected: Sequence[str] = (),
    leave_out: Sequence[str] = (),
) -> LoadReport:
    """Copy weights into a module; every key must fit unless it is explicitly allowed not to.

    Args:
        module: The module to fill; untouched where an error is raised.
        state_dict: The weights.
        source: Where they come from, for messages.
        allow_missing: Patterns (`projector.*`) of the module's keys that may keep their values.
        allow_unexpected: Patterns of keys in the weights that the module may lack.
        leave_out: Patterns of keys in the weights that are not loaded even where they would fit; they are
            reported as unexpected.

    Returns:
        The report of matched, missing and unexpected keys.

    Raises:
        CheckpointError: Listing every key that is missing, unexpected or mis-shaped, with shapes, or whose values are
            not finite or not floating point where the module's are.
    """
    own = module.state_dict()
    wanted = {key for key in state_dict if not _allowed(key, leave_out)}
    matched, misshaped, unusable = [], [], []
    for key, value in own.items():
        if key not in wanted:
            continue
        if state_dict[key].shape == value.shape:
            matched.append(key)
            if fault := unusable_values(state_dict[key], value):
                unusable.append(f"{key}: {fault}")
        else:
            misshaped.append(f"{key}: {tuple(state_dict[key].shape)} for {tuple(value.shape)}")
    missing = [key for key in own if key not in wanted]
    unexpected = [key for key in state_dict if key not in own or key not in wanted]
    report = LoadReport(tuple(matched), tuple(missing), tuple(unexpected), tuple(misshaped))
    refused = [key for key in unexpected if key in wanted and not _allowed(key, allow_unexpected)]
    require_fit(
        source,
        type(module).__name__,
        [f"{key} {tuple(own[key].shape)}" for key in missing if not _allowed(key, allow_missing)],
        [f"{key} {tuple(state_dict[key].shape)}" for key in refused],
        misshaped,
    )
    if unusable:
        raise CheckpointError(
            f"{source}: unusable weights: {', '.join(unusable)}; restore the file or train again"
        )
    module.load_state_dict({key: state_dict[key] for key in matched}, strict=False)
    return report


def require_fit(
    source: object, model: str, missing: Sequence[str], unexpected: Sequence[str], misshaped: Sequence[str]
) -> None:
    """Raise `CheckpointError` if any weights are missing, unexpected or mis-shaped, naming all of them."""
    kinds = {"missing": missing, "unexpected": unexpected, "mis-shaped": misshaped}
    if complaints := [f"{kind} {', '.join(keys)}" for kind, keys in kinds.items() if keys]:
        raise CheckpointError(
            f"{source}: weights do not fit {model}: {'; '.join(complaints)}; give the config these weights were saved "
            "with"
        )


def unusable_values(stored: Tensor, own: Tensor) -> str:
    """Why values cannot serve as a module's tensor: their dtype, NaN or Infinity; empty if they can."""
    fault = wrong_dtype(stored, own)
    return fault or ("holds NaN or Infinity" if own.is_floating_point() and not is_finite(stored) else "")


def wrong_dtype(stored: Tensor, own: Tensor) -> str:
    """Why values of such a dtype cannot serve as a module's tensor; empty if they can. The values are not read."""
    if own.is_floating_point():
        if stored.dtype not in _FLOAT_TYPES:
            return (
                f"has dtype {str(stored.dtype).removeprefix('torch.')}, expected a float of 16, 32 or 64 bits"
            )
    elif own.dtype != stored.dtype:
        return f"has dtype {str(stored.dtype).removeprefix('torch.')}, expected {str(own.dtype).removeprefix('torch.')}"
    return ""


def is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite, in one pass and without a copy."""
    return not values.numel() or all(bool(end.isfinite()) for end in torch.aminmax(values.detach()))


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a state dict from a file or from a directory that holds one.

    Args:
        path: `*.safetensors`, or `*.pt`/`*.pth`/`*.bin` (read with `weights_only=True`), or a directory with
            `model.safetensors` or `pytorch_model.bin`.

    Returns:
        Name to tensor on the CPU, without what torch.compile, DistributedDataParallel, FSDP and activation
        checkpointing add to the names.

    Raises:
        CheckpointError: Nothing there, unreadable, no state dict, or values other than `write_weights` wrote.
    """
    return read_training_file(path)[0]


def read_training_file(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a state dict as `read_weights` does, and what a training script kept beside it (`cfg`, `config`, ...).

    Raises:
        CheckpointError: Nothing there, unreadable, or no state dict.
    """
    file = Path(path)
    if os.path.isdir(file):
        candidates = [file / name for name in _WEIGHT_FILES if (file / name).is_file()]
        if not candidates:
            raise CheckpointError(f"{file}: holds no weights; {' or '.join(_WEIGHT_FILES)} is expected")
        file = candidates[0]
    if not os.path.isfile(file):
        raise CheckpointError(f"{file}: no such weights file; check the path")
    loaded: Any
    try:
        if file.suffix == ".safetensors":
            loaded = load_file(file)
        else:
            # Training scripts leave their parsed arguments beside the weights: plain values in a Namespace.
            with torch.serialization.safe_globals([argparse.Namespace]):
                loaded = torch.load(file, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error_line(error, 200)}); get it again") from error
    except Exception as error:  # torch.load lets pickle's own error types through; none is worth a traceback
        raise CheckpointError(f"{file}: {_refused(error)}; save model.state_dict() alone") from error
    if file.suffix == ".safetensors":
        check_tensors(file, loaded)
    beside: dict[str, Any] = {}
    while isinstance(loaded, dict):
        inner = next((key for key in _STATE_DICT_KEYS if isinstance(loaded.get(key), dict)), None)
        if inner is None:
            loaded = {key: value for key, value in loaded.items() if key != _FAIRSEQ_AVERAGE}
            break
        beside |= {key: value for key, value in loaded.items() if key != inner}
        loaded = loaded[inner]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file}: holds no state dict (a name-to-tensor mapping is expected)")
    weights = {_strip_wrappers(key): value for key, value in loaded.items()}
    if len(weights) < len(loaded):
        raise CheckpointError(
            f"{file}: some weights are there twice, with and without a wrapper's prefix; save the plain module"
        )
    return weights, beside


def write_weights(
    path: str | os.PathLike[str], state_dict: Mapping[str, Tensor], notes: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file with a checksum of each tensor; it appears whole or not at all.

    Raises:
        CheckpointError: The place is not writable.
    """
    file = Path(path)
    try:
        plain = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
        metadata = {"format": "pt", ENTRY: json.dumps(checksums(plain)), **(notes or {})}
        with new_file(file) as partial:
            save_file(plain, partial, metadata=metadata)
            sort_metadata(partial)
            apply_umask(partial)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: cannot be written ({error_line(error, 200)})") from error


def looks_like_hub_id(source: str) -> bool:
    """Whether a string has the form `organisation/name` and no file of that name is here."""
    return _HUB_ID.fullmatch(source) is not None and not os.path.exists(source)


def resolve_source(
    source: str | os.PathLike[str],
    revision: str | None = None,
    patterns: Sequence[str] = _HUB_FILES,
    **hub: Any,
) -> Path:
    """Turn a directory, a weights file or a hub id into a local path, downloading a hub id's files if needed.

    Args:
        source: A local path, or `organisation/name`.
        revision: Hub branch, tag or commit.
        patterns: Which of the hub's files are needed.
        **hub: Further arguments of the download: `cache_dir`, `force_download`, `local_files_only`, `token`.

    Raises:
        CheckpointError: Neither there locally nor obtainable from the hub.
    """
    path = Path(source).expanduser()
    if os.path.exists(path):
        return path
    if not looks_like_hub_id(str(source)):
        raise CheckpointError(f"{source}: no such directory or weights file; check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=list(patterns), **hub))
    except Exception as error:  # the hub client raises a dozen unrelated types; all mean "not obtainable"
        raise CheckpointError(
            f"{source}: is not a local directory and could not be downloaded from the Hub ({type(error).__name__}); "
            "download it on a connected machine and give the directory"
        ) from error


def _allowed(key: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def _strip_wrappers(key: str) -> str:
    for wrapper in _WRAPPERS:
        key = key.replace(wrapper, "")
    while key.startswith(_OUTER_WRAPPER):
        key = key.removeprefix(_OUTER_WRAPPER)
    return key


def _refused(error: Exception) -> str:
    """Why torch refused a pickled file: the Python object in it, where the message names one."""
    found = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
    if found is not None:
        return (
            f"holds a Python object ({one_line(found[1])}), which is never loaded because it could run code"
        )
    return f"is not a plain state dict ({error_line(error, 200)})"
