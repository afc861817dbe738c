"""Checks and statistics of a data set: unusable clips, durations and counts."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alm.common.errors import UserError
from alm.common.files import sha256_of
from alm.data.readers.base import DataSource
from alm.data.records import AudioRef, Record
from alm.data.shards import CLIPS, RECORDS, ShardedRecords, ShardError, read_shard
from alm.data.sources import open_source
from encoders.audio import SILENT_PEAK, check_seconds

_SAMPLE_RATE_HZ = 16_000  # only to decode everything once


@dataclass
class Findings:
    """The result of `verify`.

    Attributes:
        records: Number of records checked.
        clips: Number of distinct clips decoded.
        problems: `(where, what)` of each problem, in the order found.
    """

    records: int = 0
    clips: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)


def verify(source: str | DataSource, progress: Callable[[int], None] = lambda n: None) -> Findings:
    """Decode every record's audio, and compare the hashes of shards.

    A clip that cannot be read is a problem like any other: the check continues with the next one.

    Args:
        source: Data in any format, as a path or with settings.
        progress: Called with 1 after each record.

    Returns:
        The problems; a clip that several records use is named once.

    Raises:
        ManifestError: The manifest or the shards' index cannot be read (a duplicate id, a broken line, a missing
            shard).
    """
    records: Sequence[Record] = open_source(source, audio_only=True)
    found = Findings()
    if isinstance(records, ShardedRecords):
        _verify_hashes(records, found)
    seen: set[AudioRef] = set()
    ids: dict[str, int] = {}
    for number in range(len(records)):
        found.records += 1
        progress(1)
        try:
            record = records[number]
        except UserError as error:
            found.problems.append((f"record {number}", str(error)))
            continue
        if record.id in ids:
            found.problems.append(
                (record.source, f"id {record.id!r} is also the id of record {ids[record.id]}")
            )
        ids[record.id] = number
        for ref in record.audio:
            if ref not in seen:
                seen.add(ref)
                _verify_clip(ref, record, found)
    found.clips = len(seen)
    return found


def _verify_clip(ref: AudioRef, record: Record, found: Findings) -> None:
    try:
        waveform = ref.load(_SAMPLE_RATE_HZ)
    except UserError as error:
        found.problems.append((record.source, str(error)))
        return
    if float(np.abs(waveform).max()) < SILENT_PEAK:
        found.problems.append((record.source, f"{ref.path}: is silent"))


def _verify_hashes(records: ShardedRecords, found: Findings) -> None:
    for name, expected in records.contents["tables"].items():
        table = records.folder / name
        if name in (RECORDS, CLIPS) and sha256_of(table) != expected:
            what = f"{table}: its bytes are not those that were written; copy the directory again"
            found.problems.append((name, what))
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
        try:
            data = read_shard(path, int(row["at"]), int(row["size"]), f"clip {clip}")
        except ShardError as error:
            found.problems.append((records.shards[row["shard"]].name, str(error)))
            continue
        if hashlib.sha256(data).digest()[:16] != row["sha256"].tobytes():
            record = records.source(int(row["record"]))
            found.problems.append((record, f"{path}: clip {clip} changed since it was written"))


def statistics(source: str | DataSource) -> dict[str, Any]:
    """Counts and lengths of a manifest or shard directory; audio headers are read, audio is not decoded.

    Returns:
        `records`, `clips`, `hours`, `clip_s` and `answer_words` (min, median, mean, max), `kinds` (records of
        each), `sample_rates` (clips of each), `unreadable` (clips whose header cannot be read, that are too long or
        empty, and records that cannot be read from their shard).

    Raises:
        ManifestError: The manifest or the shards' index cannot be read.
    """
    records = open_source(source, audio_only=True)
    kinds: Counter[str] = Counter()
    rates: Counter[int] = Counter()
    words: list[int] = []
    seconds: dict[AudioRef, float] = {}
    unreadable: set[AudioRef | int] = set()
    for number in range(len(records)):
        try:
            record = records[number]
        except UserError:
            unreadable.add(number)
            continue
        kinds[record.kind] += 1
        words += [len(answer.split()) for answer in record.references]
        for ref in record.audio:
            if ref in seconds or ref in unreadable:
                continue
            try:
                header = ref.header()
                end_s = header.seconds if ref.end_s is None else min(header.seconds, ref.end_s)
                length_s = end_s - (ref.start_s or 0.0)
                check_seconds(length_s, str(ref.path))
            except UserError:
                unreadable.add(ref)
                continue
            if length_s <= 0:  # a segment that begins after the end of the file
                unreadable.add(ref)
                continue
            rates[header.rate_hz] += 1
            seconds[ref] = length_s
    return {
        "records": len(records),
        "clips": len(seconds) + sum(isinstance(item, AudioRef) for item in unreadable),
        "hours": round(sum(seconds.values()) / 3600, 4),
        "clip_s": _spread(list(seconds.values())),
        "answer_words": _spread(words),
        "kinds": dict(kinds.most_common()),
        "sample_rates": {str(rate): count for rate, count in rates.most_common()},
        "unreadable": len(unreadable),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    numbers = {
        "min": min(values),
        "median": float(np.median(values)),
        "mean": float(np.mean(values)),
        "max": max(values),
    }
    return {name: round(value, 3) for name, value in numbers.items()}
