"""Finds clips of a benchmark that were also in the training data, by the ids of their recordings, never by text.

A clip is identified by its file name, and by the YouTube or Freesound id that data sets put into names: `Yabc….wav`,
`abc…_30.wav`, `[abc…]-[30-40].wav`, `1-17367-A-rain.ogg` (ESC), `37199.wav` (FSD50K).
"""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from alm.data.readers.base import DataSource, as_source
from alm.data.records import Record
from alm.data.sources import open_source

_YOUTUBE = re.compile(r"^\[?Y?([\w-]{11})(?:\]|$|_\d)")
_FREESOUND = re.compile(r"^(?:\d-)?(\d{3,7})(?:-[A-Z]-|$)")


def source_ids(path: Path) -> set[str]:
    """Identifiers of a recording: its file name without suffix, and the ids in it."""
    stem = path.stem
    found = {f"name:{stem.lower()}"}
    if match := _FREESOUND.match(stem):
        found.add(f"freesound:{match[1]}")
    elif (match := _YOUTUBE.match(stem)) and (stem.startswith("[") or not match[1].isdigit()):
        found.add(f"youtube:{match[1]}")
    return found


def contaminated(records: Sequence[Record], manifests: Iterable[str | Path | DataSource]) -> dict[str, Any]:
    """Compare a benchmark's clips with training manifests.

    Returns:
        `n_clips` and `n_shared` of the benchmark, `shared` (its clips that were trained on, sorted), and `manifests`.

    Raises:
        ManifestError: Training data cannot be read.
    """
    sources = [as_source(str(one) if isinstance(one, Path) else one) for one in manifests]
    trained = {
        one
        for source in sources
        for record in open_source(source)
        for ref in record.audio
        for one in source_ids(ref.path)
    }
    clips: dict[str, set[str]] = {}
    for record in records:
        ids = {one for ref in record.audio for one in source_ids(ref.path)}
        clips.setdefault(record.clip, set()).update(ids)
    shared = sorted(clip for clip, ids in clips.items() if ids & trained)
    return {
        "n_clips": len(clips),
        "n_shared": len(shared),
        "shared": shared,
        "manifests": [Path(source.path).name for source in sources],
    }


def contamination_note(found: dict[str, Any]) -> str:
    """One line for the report."""
    where = ", ".join(found["manifests"])
    if not found["n_shared"]:
        return f"No clip of {found['n_clips']} is in the training manifests {where}, by name, YouTube or Freesound id."
    first = ", ".join(found["shared"][:3])
    return f"{found['n_shared']} of {found['n_clips']} clips are in the training manifests {where}: {first} …"
