"""Published corpora: one file each, `alm/data/corpora/<name>.py`, which assigns `CORPUS`, a subclass of `Corpus`.

One reader serves `alm data convert <name>`, `data.dataset: <name>` of fine-tuning, and the benchmarks in
`eval/benchmarks`. A file of the same form in a plug-in folder adds a corpus.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alm.common.plugins import Registry
from alm.common.settings import parse_settings
from alm.data.corpora.audio_files import AudioFiles, Clip, is_file, segment_names
from alm.data.corpora.base import (
    TRANSCRIBE,
    Corpus,
    Entries,
    Entry,
    check_classes,
    check_option,
    choice_question,
    in_its_folder,
    transcribed,
)  # fmt: skip
from alm.data.corpora.rows import Row, csv_rows, grouped, named_lines, object_rows, table_rows

__all__ = [
    "CORPORA", "TRANSCRIBE", "AudioFiles", "Clip", "Corpus", "Entries", "Entry", "Row", "check_classes", "check_option",
    "choice_question", "csv_rows", "grouped", "in_its_folder", "is_file", "named_lines", "object_rows", "open_corpus",
    "segment_names", "table_rows", "transcribed",
]  # fmt: skip


def _is_corpus(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Corpus)


CORPORA: Registry[type[Corpus]] = Registry(
    "corpus", "CORPUS", __name__, accepts=_is_corpus, expected="a subclass of alm.data.corpora.Corpus"
)


def open_corpus(name: str, root: str | Path, options: Mapping[str, Any] | None = None) -> Corpus:
    """The corpus of a name.

    Args:
        name: One of `CORPORA.names()`.
        root: Folder of the corpus, or its one table.
        options: Its options; those that are not given have their defaults.

    Raises:
        ConfigError: No corpus has that name, or it has no such option; names the nearest.
    """
    corpus = CORPORA.get(name)
    return parse_settings(corpus, {**options, "root": str(root)}, name) if options else corpus(root=str(root))
