"""Published corpora: `alm/data/corpora/<name>.py` assigns `CORPUS`, a subclass of `Corpus`, and is all that is needed.

One reader serves `alm data convert <name>`, `data.dataset: <name>` of fine-tuning, and the benchmarks in
`eval/benchmarks`. A file of the same form in a plug-in folder adds a corpus.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alm.common.plugins import Registry
from alm.data.corpora.audio_files import AudioFiles, Clip
from alm.data.corpora.base import Corpus, Entry

__all__ = ["CORPORA", "AudioFiles", "Clip", "Corpus", "Entry", "open_corpus"]


def _is_corpus(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Corpus)


CORPORA: Registry[type[Corpus]] = Registry(
    "corpus", "CORPUS", __name__, accepts=_is_corpus, expected="a subclass of alm.data.corpora.Corpus"
)


def open_corpus(name: str, root: str | Path) -> Corpus:
    """The corpus of a name with its default options.

    Args:
        name: One of `CORPORA.names()`.
        root: Folder of the corpus, or its one table.

    Raises:
        ConfigError: No corpus has that name; names the nearest.
    """
    return CORPORA.get(name)(root=str(root))
