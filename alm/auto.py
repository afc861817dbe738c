"""Registers the model with the Auto classes of `transformers`, and writes the file by which they load a directory.

This module is imported while the working directory is still on the import path. To import no file of that directory by
mistake, it imports only modules that Python has loaded already.
"""

import importlib
import importlib.machinery
import sys

TYPE_CHECKING = False  # stands for `typing.TYPE_CHECKING`: `typing` must not be imported yet
if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import ModuleType
    from typing import Any

STUB = "modeling_alm.py"
"""File of a saved directory that imports the classes of the installed toolkit."""

STUB_TEXT = '''"""Loads this model with the installed alm-toolkit, which holds its code."""

try:
    from alm.configuration import AudioLanguageConfig
    from alm.processing.feature_extraction import AudioLanguageFeatureExtractor
    from alm.model import AudioLanguageModel
    from alm.processor import AudioLanguageProcessor
except ImportError as error:
    raise ImportError(f"this model needs the alm-toolkit: pip install alm-toolkit ({error})") from error
'''

AUTO_MAP = {
    auto: f"{STUB.removesuffix('.py')}.{name}"
    for auto, name in (
        ("AutoConfig", "AudioLanguageConfig"),
        ("AutoFeatureExtractor", "AudioLanguageFeatureExtractor"),
        ("AutoModel", "AudioLanguageModel"),
        ("AutoModelForCausalLM", "AudioLanguageModel"),
        ("AutoModelForMultimodalLM", "AudioLanguageModel"),
        ("AutoProcessor", "AudioLanguageProcessor"),
    )
}
"""The `auto_map` of a saved directory: for each Auto class the class of the stub."""

# Which of our modules registers its classes when a module of transformers is imported. The model's module is not here:
# reading the model's config imports it (`alm.configuration`).
_REGISTERS = {
    "transformers.models.auto.configuration_auto": "alm.configuration",
    "transformers.models.auto.feature_extraction_auto": "alm.processing.feature_extraction",
    "transformers.models.auto.processing_auto": "alm.processor",
}


class _Registering:
    """Import finder: as soon as an Auto class of transformers is imported, ours are registered with it.

    It also imports peft without bitsandbytes; see `alm.common.peft_import`.
    """

    @staticmethod
    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in _REGISTERS and name != "peft":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            loader: Any = spec.loader
            execute = loader.exec_module

            def execute_and_register(module: "ModuleType") -> None:
                execute(module)
                importlib.import_module(_REGISTERS[name])

            def execute_alone(module: "ModuleType") -> None:
                from alm.common.peft_import import bitsandbytes_on_use

                with bitsandbytes_on_use():
                    execute(module)

            loader.exec_module = execute_alone if name == "peft" else execute_and_register
        return spec


def write_stub(folder: "Path") -> None:
    """Put the stub into a saved directory."""
    from alm.common.errors import CheckpointError
    from alm.common.files import write_bytes_atomic

    write_bytes_atomic(folder / STUB, STUB_TEXT.encode(), CheckpointError)


def register() -> None:
    """Register our classes with the Auto classes as soon as these are imported; imports nothing itself."""
    if _Registering not in sys.meta_path:
        sys.meta_path.insert(0, _Registering)
    for name, ours in _REGISTERS.items():
        if name in sys.modules:
            importlib.import_module(ours)
