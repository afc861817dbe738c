"""Clips for pretraining, from manifests, label tables or folders of audio files.

Axis letters: B batch, S samples.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, tensor

from alm.common.errors import AudioError, ConfigError
from alm.common.fields import located
from alm.data.readers.base import DataSource
from alm.data.records import AudioRef, LazySequence
from alm.data.scenes.events import read_labels
from alm.data.shards import ShardedRecords
from alm.data.sources import Chain, is_records_source, open_records, parts_of
from encoders.audio import AUDIO_SUFFIXES, pad_batch, search
from encoders.mel import frames_or_error
from train.data.clip_cache import ClipCache
from train.data.clip_random import clip_key
from train.data.protocols import TrainingDataset


@dataclass(frozen=True)
class NamedClip:
    """A clip and its name, which keys its random numbers.

    Attributes:
        name: The record's id, or the path within the folder; the same on every machine. If a label table names a file
            outside of its folder, the name is the whole path.
        ref: Location of the audio.
    """

    name: str
    ref: AudioRef


def read_clips(sources: Sequence[str | DataSource]) -> Sequence[NamedClip]:
    """Return all different clips of some sources, in order of first use.

    Args:
        sources: Sources in any format (records may hold audio alone), label tables (`.csv`,
            ESC-50's columns), or folders, which are searched for audio files at any depth.

    Raises:
        UserError: A source that cannot be read or holds no audio.
    """
    clips: dict[AudioRef, NamedClip] = {}
    manifests = [source for source in sources if is_records_source(source)]
    shards: list[Sequence[NamedClip]] = []
    for part in parts_of(open_records(manifests, audio_only=True)):
        if isinstance(part, ShardedRecords):
            shards.append(ShardClips(part))
            continue
        for record in part:
            for index, ref in enumerate(record.audio):
                name = record.id if len(record.audio) == 1 else f"{record.id}#{index}"
                clips.setdefault(ref, NamedClip(name, ref))
    for source in sources:
        if source not in manifests:
            source = str(source)
            folder = Path(source) if os.path.isdir(source) else Path(source).parent
            for path in _files_of(Path(source)):
                named = path.relative_to(folder) if path.is_relative_to(folder) else path
                clips.setdefault(AudioRef(path), NamedClip(named.as_posix(), AudioRef(path)))
    return Chain([list(clips.values()), *shards]) if shards else list(clips.values())


class ShardClips(LazySequence[NamedClip]):
    """The different clips of a shard directory, each looked up on access."""

    def __init__(self, records: ShardedRecords) -> None:
        self.records = records

    def __len__(self) -> int:
        return len(self.records.clips)

    def item(self, index: int) -> NamedClip:
        """A clip, named after the first record about it."""
        return NamedClip(*self.records.named_clip(index))


def listing(sources: Sequence[str | DataSource]) -> str:
    """Hash the names and sizes of the audio files in the folders among some sources."""
    digest = hashlib.sha256()
    for source in map(str, sources):
        if os.path.isdir(source) and not is_records_source(source):
            for path in _files_of(Path(source)):
                digest.update(f"{path.relative_to(source).as_posix()}:{path.stat().st_size}\n".encode())
    return digest.hexdigest()


def _files_of(source: Path) -> list[Path]:
    """List the audio files of a folder or label table, in a fixed order."""
    if not source.is_dir():
        return [clip.path for clip in read_labels(source)]
    found = search(source)
    if not found.audio:
        note = f"; skipped {found.note()}" if found.note() else ""
        raise ConfigError(
            f"data: {source} holds no audio files ({', '.join(AUDIO_SUFFIXES)}){note}; name another folder"
        )
    return found.audio


class ClipDataset(TrainingDataset):
    """Clips as waveforms.

    Args:
        clips: The clips.
        sample_rate: Rate in Hz to deliver.
        frame_shift_ms: The encoder's frame shift; a clip shorter than one frame is an error.
    """

    def __init__(self, clips: Sequence[NamedClip], sample_rate: int, frame_shift_ms: float = 10.0) -> None:
        self.clips = clips
        self.sample_rate = sample_rate
        self.frame_shift_ms = frame_shift_ms
        self._audio = ClipCache(sample_rate)
        self.own_order: Callable[[int, int], np.ndarray] | None = None
        """The order of an epoch as a function of (seed, epoch); None visits all clips in random order."""

    def __len__(self) -> int:
        return len(self.clips)

    def name(self, index: int) -> str:
        """Return a clip's name."""
        return self.clips[index].name

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the clips of an epoch in order; see `TrainingDataset.order`."""
        return super().order(seed, epoch) if self.own_order is None else self.own_order(seed, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the clip's waveform (S,) float32 and its key.

        Raises:
            AudioError: The file cannot be read, or is shorter than one frame.
        """
        clip, ref = self.clips[index], self.clips[index].ref
        waveform = self._audio.read(ref)
        with located(ref.path, AudioError):
            frames_or_error(len(waveform), self.sample_rate, self.frame_shift_ms)
        return {"waveform": waveform, "clip_key": clip_key(clip.name)}


def collate_clips(samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    """Collate waveforms (B, S), or (B, 2, S) where each sample holds two views, lengths (B,) and clip keys (B,)."""
    waves = [sample["waveform"] for sample in samples]
    if waves[0].ndim == 2:
        rows, lengths = pad_batch([view for views in waves for view in views])
        waveforms, lengths = rows.unflatten(0, (len(waves), 2)), lengths[::2]
    else:
        waveforms, lengths = pad_batch(waves)
    keys = tensor([sample["clip_key"] for sample in samples])
    return {"waveforms": waveforms, "lengths": lengths, "clip_keys": keys}


class ClipCollator:
    """`collate_clips`, which also counts the audio.

    Args:
        sample_rate: Sample rate of the waveforms in Hz.

    Attributes:
        audio_s: Seconds of audio in the last batch.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self.audio_s = 0.0

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate clips; see `collate_clips`."""
        batch = collate_clips(samples)
        self.audio_s = float(batch["lengths"].sum()) / self.sample_rate
        return batch
