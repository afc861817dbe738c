"""Looking through data before training does: what cannot be used, and what there is."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from alm.common.errors import UserError
from alm.common.files import sha256_of
from alm.data.manifest import read_manifest
from alm.data.records import AudioRef, Record
from alm.data.shards import CLIPS, RECORDS, ShardedRecords, read_range
from alm.data.sources import open_source

_SILENT_PEAK = 1e-4  # -80 dBFS
_SAMPLE_RATE_HZ = 16_000  # only to decode everything once


@dataclass
class Findings:
    """What `verify` found.

    Attributes:
        records: How many were looked at.
        clips: How many different clips were decoded.
        problems: `(where, what)`, in the order found.
    """

    records: int = 0
    clips: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def verify(path: str, progress: Callable[[int], None] = lambda n: None) -> Findings:
    """Decode every record's audio; of shards also compare every hash.

    Args:
        path: A manifest or a shard directory.
        progress: Told of each record done.

    Returns:
        What is wrong; a clip that several records use is named once.

    Raises:
        ManifestError: The manifest itself cannot be read (a duplicate id, a broken line, a missing shard).
    """
    records: Sequence[Record] = open_source(path, audio_only=True)
    found = Findings()
    if isinstance(records, ShardedRecords):
        _verify_hashes(records, found)
    seen: set[AudioRef] = set()
    ids: dict[str, int] = {}
    for number in range(len(records)):
        found.records += 1
        try:
            record = records[number]
        except UserError as error:
            found.problems.append((f"record {number}", str(error)))
            continue
        if record.id in ids:
            found.problems.append((record.source, f"id {record.id!r} is record {ids[record.id]}'s too"))
        ids[record.id] = number
        for ref in record.audio:
            if ref not in seen:
                seen.add(ref)
                _verify_clip(ref, record, found)
        progress(1)
    found.clips = len(seen)
    return found


def _verify_clip(ref: AudioRef, record: Record, found: Findings) -> None:
    try:
        waveform = ref.load(_SAMPLE_RATE_HZ)
    except UserError as error:
        found.problems.append((record.source, str(error)))
        return
    if float(np.abs(waveform).max()) < _SILENT_PEAK:
        found.problems.append((record.source, f"{ref.path}: is silent; nothing can be heard in it"))


def _verify_hashes(records: ShardedRecords, found: Findings) -> None:
    for name in (RECORDS, CLIPS):
        if sha256_of(records.folder / name) != records.contents["tables"][name]:
            found.problems.append((name, f"{records.folder / name}: is not what was written; copy it again"))
    bad = {
        number
        for number, (path, shard) in enumerate(zip(records.shards, records.contents["shards"], strict=True))
        if sha256_of(path) != shard["sha256"]
    }
    for number in sorted(bad):
        what = f"{records.shards[number]}: its bytes are not those that were written; copy it again"
        found.problems.append((records.shards[number].name, what))
    for clip in np.flatnonzero(np.isin(records.clips["shard"], list(bad))):
        row = records.clips[clip]
        path = records.shards[row["shard"]]
        data = read_range(path, int(row["at"]), int(row["size"]), f"clip {clip}")
        if hashlib.sha256(data).digest()[:16] != row["sha256"].tobytes():
            record = records.source(int(row["record"]))
            found.problems.append((record, f"{path}: clip {clip} changed since it was written"))


def statistics(path: str) -> dict[str, Any]:
    """Counts and lengths of a manifest or shard directory; audio headers are read, audio is not decoded.

    Returns:
        `records`, `clips`, `hours`, `clip_s` and `answer_words` (min, median, mean, max), `kinds`
        (records of each), `sample_rates` (clips of each), `unreadable` (clips whose header cannot be read).

    Raises:
        ManifestError: The data cannot be read.
    """
    records = read_manifest(path, audio_only=True)
    kinds: Counter[str] = Counter()
    rates: Counter[int] = Counter()
    words: list[int] = []
    lengths: dict[AudioRef, float] = {}
    unreadable = 0
    for record in records:
        kinds[record.kind] += 1
        words += [len(answer.split()) for answer in record.references]
        for ref in record.audio:
            if ref in lengths:
                continue
            try:
                duration, rate = _header(ref)
            except (UserError, soundfile.SoundFileError, OSError):
                duration, rate, unreadable = float("nan"), 0, unreadable + 1
            rates[rate] += 1
            start = ref.start_s or 0.0
            lengths[ref] = (min(duration, ref.end_s) if ref.end_s is not None else duration) - start
    seconds = [value for value in lengths.values() if np.isfinite(value)]
    return {
        "records": len(records),
        "clips": len(lengths),
        "hours": round(sum(seconds) / 3600, 4),
        "clip_s": _spread(seconds),
        "answer_words": _spread(words),
        "kinds": dict(kinds.most_common()),
        "sample_rates": {str(rate): count for rate, count in rates.most_common() if rate},
        "unreadable": unreadable,
    }


def _header(ref: AudioRef) -> tuple[float, int]:
    """Duration of the whole file in seconds, and its rate in Hz."""
    source: Any = ref.path if type(ref) is AudioRef else io.BytesIO(ref.read_bytes())
    info = soundfile.info(str(source) if isinstance(source, Path) else source)
    return info.frames / info.samplerate, info.samplerate


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    figures = {
        "min": min(values),
        "median": float(np.median(values)),
        "mean": float(np.mean(values)),
        "max": max(values),
    }
    return {name: round(value, 3) for name, value in figures.items()}
