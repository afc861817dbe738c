"""Loading with `transformers`: one function, which runs no remote code, never prompts, and raises typed errors."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alm.auto import AUTO_MAP
from alm.common.errors import CheckpointError, UserError, shown
from alm.common.json_text import read_json_object
from alm.common.text import error_line

# Files that `from_pretrained` of models, tokenizers and processors reads. They are checked here, so that the error
# names the broken file; `transformers` would raise an unrelated error later.
_JSON_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "processor_config.json",
    "preprocessor_config.json",
    "adapter_config.json",
    "model.safetensors.index.json",
)
_MOST_LAYERS = 10_000
_LARGEST_SIZE = 10**11
_LARGEST_RANK = 65536
# Keys of adapter_config.json that peft reads as regular expressions; matching a hostile one can take years.
_ADAPTER_NAMES = ("target_modules", "exclude_modules", "layers_pattern", "rank_pattern", "alpha_pattern")
_MODULE_NAME = re.compile(r"[\w.]+")
_DTYPES = ("dtype", "torch_dtype")


def from_pretrained(
    loader: Any,
    source: str | os.PathLike[str] | None,
    *,
    role: str,
    trust_remote_code: bool = False,
    error: type[UserError] = CheckpointError,
    **options: Any,
) -> Any:
    """Call `loader.from_pretrained` without running Python code of the source, unless that is allowed.

    Args:
        loader: A class of `transformers`, for example `AutoTokenizer`.
        source: Directory or Hub id; None if `options` hold the weights themselves.
        role: What is loaded, for messages, for example `llm`.
        trust_remote_code: Run the source's own Python code where `transformers` has no class for it. Set it only
            from the user's own config.
        error: Type of the error to raise.
        **options: Passed to `from_pretrained`.

    Returns:
        What `from_pretrained` returns.

    Raises:
        UserError: Raised as `error`: the source is missing, broken, or needs Python code of its own.
    """
    folder = Path(source) if source is not None else None
    if folder is not None and os.path.isdir(folder):
        for name in _JSON_FILES:
            if (folder / name).exists():
                values = read_json_object(folder / name, error, constants=True, byte_order_mark=False)
                if name == "config.json":
                    check_sizes(values, str(folder / name), error)
                elif name == "adapter_config.json":
                    _check_adapter(values, folder, error)
                elif name == "model.safetensors.index.json":
                    _check_index(values, folder, error)
    with typed_errors(f"{role}: cannot load '{source}'", error, folder):
        with without_progress_bars():
            name_or_path = None if source is None else str(source)
            return loader.from_pretrained(name_or_path, trust_remote_code=trust_remote_code, **options)


@contextmanager
def typed_errors(
    prefix: str, error: type[UserError] = CheckpointError, folder: Path | None = None
) -> Iterator[None]:
    """Turn any exception of library code that reads a file of the user into a typed error of one line.

    On invalid files such code raises anything: KeyError, AttributeError, TypeError, RecursionError, a panic of a Rust
    extension. The original exception stays attached as the cause.

    Args:
        prefix: Start of the message: what was read and where it is.
        error: Type of the error to raise.
        folder: Directory whose JSON files are searched for `auto_map`, to explain a refused custom class.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as cause:
        if not isinstance(cause, Exception) and type(cause).__name__ != "PanicException":
            raise  # KeyboardInterrupt, SystemExit
        raise error(f"{prefix}: {_custom_code(folder) or error_line(cause)}") from cause


def check_sizes(values: Any, where: str, error: type[UserError] = CheckpointError) -> None:
    """Refuse config values that would need all memory or days of computation, and dtypes that are not strings.

    Args:
        values: The parsed file.
        where: Its path, for messages.
        error: Type of the error to raise.

    Raises:
        UserError: Raised as `error`; names the key.
    """
    items = (
        values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    )
    for key, value in items:
        limit = _MOST_LAYERS if "layer" in str(key) or key == "depth" else _LARGEST_SIZE
        if isinstance(value, int) and abs(value) > limit:
            raise error(f"{where}: {key} is {value}, expected at most {limit}; restore the file")
        if isinstance(value, float) and math.isnan(value):
            raise error(f"{where}: {key} is not a number (NaN); restore the file")
        if key in _DTYPES and not isinstance(value, str | dict | None):
            raise error(
                f"{where}: {key} is {shown(value, 80)}, expected the name of a dtype; restore the file"
            )
        check_sizes(value, where, error)


def _check_adapter(values: dict[str, Any], folder: Path, error: type[UserError]) -> None:
    """Refuse an adapter whose base model is not a local directory, or whose patterns may take forever to match."""
    where = folder / "adapter_config.json"
    base = values.get("base_model_name_or_path")
    if not os.path.isfile(folder / "config.json") and not (isinstance(base, str) and os.path.isdir(base)):
        raise error(
            f"{where}: the adapter's base model, {shown(base, 80)}, is not a directory here; merge the adapter into it "
            "(peft's merge_and_unload), and give the merged model"
        )
    for key in _ADAPTER_NAMES:
        given = values.get(key)
        names = (
            list(given)
            if isinstance(given, list | dict)
            else []
            if given in (None, "all-linear")
            else [given]
        )
        for name in names:
            if not isinstance(name, str) or _MODULE_NAME.fullmatch(name) is None:
                raise error(
                    f"{where}: {key} holds {shown(name, 80)}, expected names of modules, not a pattern"
                )
    rank = values.get("r")
    if rank is not None and not (type(rank) is int and 1 <= rank <= _LARGEST_RANK):
        raise error(f"{where}: r is {shown(rank, 80)}, expected a whole number from 1 to {_LARGEST_RANK}")


def _check_index(values: dict[str, Any], folder: Path, error: type[UserError]) -> None:
    """Refuse an index of weights that leads out of its directory."""
    where = folder / "model.safetensors.index.json"
    found = values.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise error(
            f"{where}: weight_map is {shown(found, 80)}, expected the file of each tensor; restore the file"
        )
    if not isinstance(values.get("metadata", {}), dict):
        raise error(
            f"{where}: metadata is {shown(values['metadata'], 80)}, expected an object; restore the file"
        )
    for name in {shown(name): name for name in found.values()}.values():
        if (
            not isinstance(name, str)
            or not name
            or Path(name).name != name
            or not os.path.isfile(folder / name)
        ):
            raise error(f"{where}: {shown(name, 80)} is not a file of this directory; copy it again")


def _custom_code(folder: Path | None) -> str:
    """Why a directory with classes of its own was refused; empty if it has none."""
    for name in _JSON_FILES if folder is not None else ():
        assert folder is not None
        values = read_json_object(folder / name, constants=True) if os.path.isfile(folder / name) else {}
        named = values.get("auto_map")
        ours = isinstance(named, dict) and all(AUTO_MAP.get(auto) == name for auto, name in named.items())
        if named is not None and not ours:
            return (
                f"{name} names Python code of its own (auto_map), which is not run; if you trust its author, set "
                "trust_remote_code: true"
            )
    return ""


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep `transformers` from drawing progress bars; warnings and errors stay visible."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
