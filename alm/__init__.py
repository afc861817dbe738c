"""The audio-language model. `import alm` is fast: the names below import their libraries on first use.

The import also registers the model with the Auto classes of `transformers`.
"""

from __future__ import annotations

import importlib

from alm.auto import register

# Stands for `typing.TYPE_CHECKING`: `python -m alm` imports this file while the working directory is still on the
# import path, and must not import a `typing.py` from there.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from alm.configuration import AudioLanguageConfig
    from alm.model import AudioLanguageModel
    from alm.processor import AudioLanguageProcessor

__version__ = "0.1.0"

_HOME = {
    "AudioLanguageConfig": "alm.configuration",
    "AudioLanguageModel": "alm.model",
    "AudioLanguageProcessor": "alm.processor",
}

__all__ = ["AudioLanguageConfig", "AudioLanguageModel", "AudioLanguageProcessor", "load"]


def load(
    source: str | Path, device: str | None = None, trust_remote_code: bool = False
) -> tuple[AudioLanguageModel, AudioLanguageProcessor]:
    """Load a trained model and its processor.

    Args:
        source: Model directory or Hub id.
        device: Where to put it; None takes an accelerator (CUDA, XPU, NPU, MPS) where there is one.
        trust_remote_code: Run Python code in the directory of the LLM that the model refers to.

    Returns:
        The model in eval mode, and its processor.

    Raises:
        alm.common.errors.CheckpointError: Something is missing, mis-shaped or changed.
    """
    from alm.checkpoint import load_model, load_processor
    from encoders.devices import pick_device

    model: Any = load_model(source, trust_remote_code=trust_remote_code)
    return model.to(device or pick_device()), load_processor(source, trust_remote_code=trust_remote_code)


register()


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'alm' has no attribute '{name}'")
