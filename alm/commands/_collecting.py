"""The garbage collector, which imports of large libraries keep busy for nothing."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Iterator[None]:
    """Import modules and load a model without looking for garbage.

    They make millions of objects that all stay. The collector would visit them again and again: a quarter of the time
    of `import transformers`. Afterwards it leaves them alone.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
