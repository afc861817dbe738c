"""torch.compile of an LLM, block by block and in place.

Equal blocks are compiled once, in seconds; compiling the whole LLM would take minutes. Names in the state dict
stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from alm.common.errors import ConfigError
from alm.common.text import error_line
from train.engine.groups import repeated_blocks

_KEY = "run.compile"
_VARIANTS = 32


def check_compiler() -> None:
    """Refuse `run.compile` on a machine without a working C++ compiler; on a GPU, Triton needs one, too.

    Raises:
        ConfigError: There is no C++ compiler that works.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            f"{_KEY}: torch.compile needs a C++ compiler, and none was found; install g++, name yours in the variable "
            f"CXX, or set {_KEY}=false"
        ) from error


def compile_blocks(llm: Any) -> None:
    """Compile the repeated blocks of an LLM in place; lengths of batches may change without compiling again.

    Args:
        llm: A causal LLM of `transformers`, with its adapters.

    Raises:
        ConfigError: The LLM is quantised, or has no list of blocks.
    """
    if getattr(llm, "hf_quantizer", None) is not None:
        raise ConfigError(f"{_KEY}: the LLM is quantised, and its packed layers are not compiled; remove one")
    import torch._dynamo.config as dynamo_config

    _, blocks = repeated_blocks(llm)
    if len(blocks) == 0:
        raise ConfigError(f"{_KEY}: {type(llm).__name__} has no list of blocks; set {_KEY}=false")
    # Training, validation, batches of one row and rows without padding are variants of each kind of block.
    dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, _VARIANTS)
    torch.compiler.reset()  # the compiler keeps a limited number of variants, those of earlier stages included
    for block in blocks:
        # Dropout as without the compiler: its own random numbers would be others.
        block.compile(dynamic=True, options={"fallback_random": True})


@contextmanager
def compiler_errors(compiled: bool) -> Iterator[None]:
    """Turn what the compiler raises in the block into one line.

    Args:
        compiled: Whether `run.compile` is set.

    Raises:
        ConfigError: The compiler failed.
    """
    if not compiled:
        yield
        return
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        raise ConfigError(
            f"{_KEY}: the compiler failed: {error_line(error, 300)}; set {_KEY}=false"
        ) from error
