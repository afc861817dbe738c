"""Prevents peft from importing bitsandbytes before anything is quantised.

peft imports bitsandbytes, which compiles and warns of kernels that are not installed, whenever peft itself is imported
and whenever it makes an adapter. Both take longer than the rest of `import transformers`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_NAME = "bitsandbytes"


class _OnUse(ModuleType):
    """A placeholder for a module, which is imported when an attribute of it is first used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system asks for these
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


@contextmanager
def bitsandbytes_on_use() -> Iterator[None]:
    """Make `import bitsandbytes` inside the block lazy: the module is imported on first use."""
    spec = None if _NAME in sys.modules else importlib.util.find_spec(_NAME)
    if spec is None:  # imported already, or not installed
        yield
        return
    stand_in = _OnUse(_NAME)
    stand_in.__spec__ = spec
    sys.modules[_NAME] = stand_in
    try:
        yield
    finally:
        if sys.modules.get(_NAME) is stand_in:
            del sys.modules[_NAME]


@contextmanager
def adapters_without_bitsandbytes() -> Iterator[None]:
    """Make peft skip its search for quantised layers: there are none before bitsandbytes is imported."""
    from peft.tuners.lora import model

    names = ("is_bnb_available", "is_bnb_4bit_available")
    before = {name: getattr(model, name) for name in names if hasattr(model, name)}
    if _NAME not in sys.modules:
        vars(model).update(dict.fromkeys(before, lambda: False))
    try:
        yield
    finally:
        vars(model).update(before)
