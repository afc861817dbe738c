"""Lhotse cuts: `cuts.jsonl` or `cuts.jsonl.gz`; needs the package `lhotse`.

A cut is a segment of a recording; the text of its supervisions is the answer to `prompt` (by default a request to
transcribe).
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alm.common.errors import ConfigError, ManifestError
from alm.data.readers.base import DataSource, Reader, Row, first_value
from alm.data.readers.kaldi import PROMPT


class LhotseReader(Reader):
    """Cuts with their supervisions."""

    takes = ("prompt",)

    def recognises(self, path: Path) -> bool:
        """JSON Lines, perhaps compressed, whose first object is a cut."""
        if path.name.endswith(".jsonl.gz"):
            return b"Cut" in _unzipped(path) and b"recording" in _unzipped(path)
        value = first_value(path, lines=True)
        return value is not None and str(value.get("type", "")).endswith("Cut") and "id" in value

    def rows(self, source: DataSource) -> Iterator[Row]:
        """See the base class."""
        try:
            import lhotse
        except ImportError as error:
            raise ConfigError(
                f"{source.path}: Lhotse cuts need the package lhotse; run pip install lhotse"
            ) from error
        cuts = iter(lhotse.CutSet.from_jsonl_lazy(source.path))
        number = 0
        while True:
            number += 1
            where = f"{source.path}:{number}"
            try:
                cut = next(cuts, None)
                if cut is None:
                    return
                values = _values(cut, source.prompt, where)
            except (ManifestError, ConfigError):
                raise
            except Exception as error:  # the library documents none of its own
                text = " ".join(f"{type(error).__name__}: {error}".split())
                raise ManifestError(f"{where}: not a cut ({text:.200}); write the cuts again") from error
            yield Row(where, values, Path())


def _values(cut: Any, prompt: str | None, where: str) -> dict[str, Any]:
    recording = getattr(cut, "recording", None)
    sources = [] if recording is None else recording.sources
    if recording is None or len(sources) != 1 or sources[0].type != "file":
        raise ManifestError(
            f"{where}: cut {cut.id!r} is not a segment of one file; save the audio of the cuts first"
        )
    audio = {"path": sources[0].source, "start_s": cut.start, "end_s": cut.start + cut.duration}
    whole = cut.start == 0 and abs(cut.duration - recording.duration) < 1e-6
    values: dict[str, Any] = {"id": cut.id, "audio": sources[0].source if whole else audio, "clip": cut.id}
    texts = [part.text for part in cut.supervisions if part.text]
    if texts:
        values |= {"question": prompt or PROMPT, "answer": " ".join(texts), "kind": "transcription"}
    return values


def _unzipped(path: Path) -> bytes:
    try:
        with gzip.open(path) as stream:
            return stream.read(1 << 16)
    except (OSError, EOFError):
        return b""


READER = LhotseReader()
