"""Writing shards: manifests into WebDataset-format tar files with an offset index (see `alm.data.shards`)."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alm.common.errors import AudioError, ConfigError
from alm.common.files import new_folder, sha256_of, write_text_atomic
from alm.data.index import id_hash
from alm.data.records import AudioRef, Record, format_choices
from alm.data.shards import CLIP_ROW, CLIPS, FORMAT, INDEX, RECORD_ROW, RECORDS
from encoders.audio import read_header

_BLOCK = tarfile.BLOCKSIZE
_SUFFIX = re.compile(r"\.[a-z0-9_-]{1,16}")  # suffix of a member; tar limits its whole name to 100 bytes


def write_shards(
    records: Sequence[Record],
    out: str | os.PathLike[str],
    shard_mb: float = 500.0,
    shuffle_seed: int | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Write records and their audio as shards; the directory appears complete or not at all.

    Records about the same clips share one sample, so audio is stored once. Files are copied byte by byte; records
    about a segment of a file keep its times. Equal input gives equal bytes.

    Args:
        records: The records, with unique ids.
        out: The directory to make; must not exist, or be empty.
        shard_mb: Start a new shard when one has this many megabytes.
        shuffle_seed: Seed of a random order of the samples, for readers that read shards from front to end; None
            keeps the order.
        progress: Called after each sample with the number of its records.

    Returns:
        The index, as written.

    Raises:
        UserError: The directory holds something or cannot be written, or an audio file cannot be read.
    """
    out = Path(out)
    if not 0 < shard_mb < 1e9:
        raise ConfigError(f"--shard-mb: got {shard_mb}, expected more than 0")
    samples: dict[tuple[str, ...], list[int]] = {}
    for number, record in enumerate(records):
        samples.setdefault(tuple(dict.fromkeys(ref.whole for ref in record.audio)), []).append(number)
    groups = list(samples.values())
    if shuffle_seed is not None:
        order = np.random.default_rng(shuffle_seed).permutation(len(groups))
        groups = [groups[i] for i in order]
    with new_folder(out) as folder:
        writer = _Writer(folder, int(shard_mb * 1e6))
        for key, group in enumerate(groups):
            writer.add(f"{key:09d}", [records[number] for number in group])
            progress(len(group))
        return writer.close()


class _Writer:
    """Writes samples one by one into tar files, and then the index."""

    def __init__(self, folder: Path, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.rows: list[tuple[Any, ...]] = []
        self.clips: list[tuple[Any, ...]] = []
        self.shards: list[dict[str, Any]] = []
        self.tar: tarfile.TarFile | None = None

    def add(self, key: str, records: Sequence[Record]) -> None:
        """Write one sample: records about the same audio files, and these files."""
        if self.tar is None or self.tar.offset >= self.shard_bytes:
            self._next()
        first_clip, names = len(self.clips), {}
        files: dict[str, tuple[Any, ...]] = {}
        refs = {ref.whole: ref for record in records for ref in record.audio}
        for place, (file, ref) in enumerate(refs.items()):
            data, frames, rate = _read(ref, records[0])
            suffix = Path(ref.file_name).suffix.lower()
            suffix = suffix if _SUFFIX.fullmatch(suffix) else ".wav"
            names[file] = f"{key}{f'.{place}' if len(refs) > 1 else ''}{suffix}"
            at = self._member(names[file], data)
            files[file] = (len(self.shards), at, len(data), frames, rate), hashlib.sha256(data).digest()[:16]
        segments: dict[tuple[Any, ...], int] = {}  # file and times -> which of the sample's clips
        clips: list[list[int]] = []
        for place, record in enumerate(records):
            clips.append([])
            for ref in record.audio:
                part = (ref.whole, ref.start_s, ref.end_s)
                if part not in segments:
                    segments[part] = len(segments)
                    where, digest = files[ref.whole]
                    self.clips.append((*where, len(self.rows) + place, digest))
                clips[-1].append(segments[part])
        values = {"records": [_plain(record, names) for record in records], "clips": clips}
        data = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
        at = self._member(f"{key}.json", data)
        for place, record in enumerate(records):
            text = sum(len(message["content"]) for message in record.messages)
            answered = bool(record.messages) and record.messages[-1]["role"] == "assistant"
            row = (len(self.shards), at, len(data), place, first_clip)
            seconds = sum(_segment_s(ref, record, *files[ref.whole][0][3:]) for ref in record.audio)
            self.rows.append((*row, id_hash(record.id), text, seconds, answered, bool(record.messages)))

    def close(self) -> dict[str, Any]:
        """Finish the last shard and write the index."""
        self._finish()
        rows, clips = np.array(self.rows, RECORD_ROW), np.array(self.clips, CLIP_ROW)
        np.save(self.folder / RECORDS, rows)
        np.save(self.folder / CLIPS, clips)
        tables = {name: sha256_of(self.folder / name) for name in (RECORDS, CLIPS)}
        index = {
            "format": FORMAT,
            "records": len(rows),
            "clips": len(clips),
            "tables": tables,
            "shards": self.shards,
        }
        write_text_atomic(self.folder / INDEX, json.dumps(index, indent=1) + "\n")
        return index

    def _next(self) -> None:
        self._finish()
        path = self.folder / f"shard-{len(self.shards):06d}.tar"
        self.tar = tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)

    def _finish(self) -> None:
        if self.tar is None:
            return
        self.tar.close()
        path = Path(str(self.tar.name))
        self.shards.append({"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)})
        self.tar = None

    def _member(self, name: str, data: bytes) -> int:
        """Add a member; returns where its bytes begin."""
        assert self.tar is not None
        info = tarfile.TarInfo(name)  # no times, no owners: equal input gives equal bytes
        info.size = len(data)
        at = self.tar.offset + _BLOCK
        self.tar.addfile(info, io.BytesIO(data))
        return at


def _segment_s(ref: AudioRef, record: Record, frames: int, rate: int) -> float:
    """Seconds of a clip: of the segment, or of the whole file."""
    if ref.start_s is not None and ref.start_s * rate >= frames:
        raise AudioError(
            f"{record.source}: {ref.path}: start_s is {ref.start_s} but the clip ends at {frames / rate:.3f} s"
        )
    return (ref.end_s if ref.end_s is not None else frames / rate) - (ref.start_s or 0.0)


def _read(ref: AudioRef, record: Record) -> tuple[bytes, int, int]:
    """A file, its length in frames and its rate in Hz."""
    try:
        data = ref.read_bytes()
        header = read_header(data, str(ref.path), exact=True)
    except AudioError as error:
        raise AudioError(f"{record.source}: {error}") from error
    return data, header.frames, header.rate_hz


def _plain(record: Record, names: dict[str, str]) -> dict[str, Any]:
    """A record in the manifest's form, its audio named as members of the shard."""
    audio: list[Any] = []
    for ref in record.audio:
        times = {"start_s": ref.start_s, "end_s": ref.end_s}
        times = {key: value for key, value in times.items() if value is not None}
        audio.append({"path": names[ref.whole], **times} if times else names[ref.whole])
    values: dict[str, Any] = {"id": record.id, "audio": audio, "clip": record.clip, **record.meta}
    if not record.messages:
        return values
    values["kind"] = record.kind
    if record.captions:
        return values | {"captions": list(record.captions), "prompt": record.messages[0]["content"]}
    if record.choices:
        question = record.messages[0]["content"].removesuffix(format_choices("", record.choices))
        return values | {"question": question, "answer": record.answer, "choices": list(record.choices)}
    return values | {"messages": list(record.messages)}
