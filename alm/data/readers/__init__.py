"""Formats of training data: `alm/data/readers/<name>.py` assigns `READER`, an instance of a subclass of `Reader`.

A reader yields rows. This package turns them into records, which training, evaluation, checks and conversion use. A
file of the same form in a plug-in folder adds a format. Published corpora are in `alm/data/corpora`.
"""

from __future__ import annotations

from alm.common.plugins import Registry
from alm.data.readers.base import Reader

READERS: Registry[Reader] = Registry(
    "data format",
    "READER",
    __name__,
    accepts=lambda found: isinstance(found, Reader),
    expected="<an instance of a subclass of alm.data.readers.base.Reader>",
)
