"""Cache of a frozen encoder's features: each clip is encoded once for all runs that share a folder.

The folder holds shards: safetensors files that never change, with one tensor per clip. A clip's name in them (its cache
key) is a hash of everything that its features depend on: code, config and weights of the encoder, which output is
cached, the clip's file, span, size and modification time, and its augmentation. A shard's header is its index and holds
a checksum per clip; there is no separate index that could disagree with the shards.

There are no locks. A shard is renamed into place when it is complete, and a reader's memory map stays valid when
another run removes the file. Two runs that compute the same clips at the same time write a file or some clips twice,
which is harmless. A shard's modification time is its last use; above the size limit, the least
recently used shards are removed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alm.common.errors import AudioError, CheckpointError, ConfigError
from alm.common.files import remove_leftovers
from alm.common.fingerprint import code_hash
from alm.common.json_text import parse_json
from alm.common.processes import rank, world_size
from alm.common.storage.cache import remove_least_used
from alm.common.terminal import progress
from alm.data.records import AudioRef
from alm.data.shards import ShardRef
from encoders import AudioEncoder
from encoders.audio import AudioOptions
from encoders.checkpoint import write_weights
from encoders.checksums import checksum
from train.data.augmented_clips import AugmentedRef
from train.processes import barrier, say

SHARD_BYTES = 64 << 20  # a killed run loses at most this much: the clips that are not yet in a shard
_NOTES = "clips"


def encoder_digest(encoder: AudioEncoder) -> Any:
    """A hash of what an encoder's features depend on (code, config, weights), to be updated with the clips."""
    config = json.dumps(encoder.config.to_dict(), sort_keys=True, default=str)
    digest = hashlib.sha256(f"{code_hash()}{config}".encode())
    for name, value in encoder.state_dict().items():
        flat = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(name.encode())
        digest.update(flat.numpy().data)
    return digest


@dataclass(frozen=True)
class Feature:
    """The features of a clip.

    Attributes:
        values: Features of any shape.
        n_samples: Length of the clip at the encoder's rate.
    """

    values: Tensor
    n_samples: int

    @property
    def n_bytes(self) -> int:
        """Size of the values."""
        return self.values.numel() * self.values.element_size()


class FeatureFolder:
    """Shards of features.

    Args:
        folder: The folder; it is created with the first shard.
        limit_gb: Size limit; above it, the least recently used shards are removed.
    """

    def __init__(self, folder: Path, limit_gb: float) -> None:
        self.folder, self.limit_bytes = folder, limit_gb * 2**30

    def read(self, names: Iterable[str]) -> dict[str, Feature]:
        """Return the cached features among some names, memory-mapped; a damaged shard is reported and removed."""
        wanted, found = set(names), dict[str, Feature]()
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                here = _read_shard(file, wanted - found.keys())
            except FileNotFoundError:  # another run has just removed it
                continue
            except (SafetensorError, CheckpointError, ValueError, KeyError, TypeError) as error:
                say(f"{file}: the shard is damaged ({error}); its clips are encoded again")
                with suppress(OSError):
                    file.unlink()
                continue
            if here:
                with suppress(OSError):  # removed by another run, or a read-only folder
                    file.touch()
            found |= here
        return found

    def write(self, features: Mapping[str, Feature]) -> None:
        """Write a shard and remove old ones above the limit; report if it cannot be written."""
        name = hashlib.sha256("".join(sorted(features)).encode()).hexdigest()[:32]
        notes = {name: [kept.n_samples, checksum(kept.values)] for name, kept in features.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{name}.safetensors"
            write_weights(
                file, {name: kept.values for name, kept in features.items()}, {_NOTES: json.dumps(notes)}
            )
            remove_leftovers(self.folder / "any", all_names=True)  # files that killed runs left
            remove_least_used(self.folder.glob("*.safetensors"), self.limit_bytes)
        except (OSError, CheckpointError) as error:
            say(f"{self.folder}: features are not cached for other runs ({error})")


def _read_shard(file: Path, wanted: set[str]) -> dict[str, Feature]:
    """Read the wanted clips of a shard.

    Raises:
        ValueError: A clip's checksum is wrong.
    """
    with safe_open(file, "pt") as shard:
        names = wanted.intersection(shard.keys())
        notes = parse_json(shard.metadata()[_NOTES], str(file), CheckpointError)
        found = {name: Feature(shard.get_tensor(name), int(notes[name][0])) for name in names}
    wrong = [name for name, kept in found.items() if checksum(kept.values) != notes[name][1]]
    if wrong:
        raise ValueError(f"the checksums of {len(wrong)} clips are wrong")
    return found


def encoded_once(
    encoder: AudioEncoder,
    clips: Sequence[AudioRef],
    encode: Callable[[Sequence[AudioRef]], Sequence[Feature | None]],
    batch_size: int,
    limit_gb: float,
    folder: Path | None = None,
    kept: str = "tokens",
) -> dict[AudioRef, Feature]:
    """Return the features of all clips: from the cache, else computed; every process must call this.

    With a folder, the processes share the work.

    Args:
        encoder: The frozen encoder; its digest (`encoder_digest`) identifies its features.
        clips: All different clips that will be needed.
        encode: Called with a batch of clips; returns their features, None for a clip that cannot be used.
        batch_size: Clips per batch.
        limit_gb: Size limit of this run's features and of the folder.
        folder: Where to cache them for other runs; None caches them in memory alone.
        kept: Name of the encoder's output that is cached.

    Returns:
        Features by clip, without the clips that cannot be used.

    Raises:
        ConfigError: They take more than the limit.
        AudioError: From `encode`.
    """
    work = _Encoding(clips, encode, batch_size, limit_gb)
    if folder is not None:
        work.folder, work.names = FeatureFolder(folder, limit_gb), _names(encoder, clips, kept)
        work.read_cached()
        if world_size() > 1:
            barrier()  # all processes have read before one adds a shard, so that they share the same list
            with suppress(AudioError, ConfigError):  # every process will raise it below
                work.compute(work.missing()[rank() :: world_size()])
            barrier()
            work.read_cached()
    work.compute(work.missing())
    return work.done


def missing_clips(
    encoder: AudioEncoder, clips: Sequence[AudioRef], folder: Path | None, kept: str = "tokens"
) -> list[AudioRef]:
    """The clips whose features are not in a folder, in order; reads names only, and changes nothing.

    Args:
        encoder: The frozen encoder.
        clips: All clips that will be needed.
        folder: The folder of cached features; None: all are missing.
        kept: Name of the encoder's output that is cached.
    """
    if folder is None or not folder.is_dir():
        return list(clips)
    found = set[str]()
    for file in folder.glob("*.safetensors"):
        with suppress(OSError, SafetensorError), safe_open(file, "pt") as shard:
            found.update(shard.keys())
    names = _names(encoder, clips, kept)
    return [clip for clip in clips if names.get(clip) not in found]


@dataclass
class _Encoding:
    """The state of encoding some clips: features `done`, their size, and those `pending` for the next shard."""

    clips: Sequence[AudioRef]
    encode: Callable[[Sequence[AudioRef]], Sequence[Feature | None]]
    batch_size: int
    limit_gb: float
    folder: FeatureFolder | None = None
    names: dict[AudioRef, str] = field(default_factory=dict)
    done: dict[AudioRef, Feature] = field(default_factory=dict)
    held: int = 0
    pending: dict[str, Feature] = field(default_factory=dict)

    def missing(self) -> list[AudioRef]:
        """Return the clips without features, in order."""
        return [clip for clip in self.clips if clip not in self.done]

    def read_cached(self) -> None:
        """Read the missing clips that the folder has."""
        assert self.folder is not None
        by_name = {self.names[clip]: clip for clip in self.missing() if clip in self.names}
        for name, found in self.folder.read(by_name).items():
            self._take(by_name[name], found)
        self._check_size(len(self.done))

    def compute(self, todo: Sequence[AudioRef]) -> None:
        """Encode some clips."""
        if not todo:
            return
        tried = len(self.done)
        with progress("encode clips", len(todo), "clip") as advance, torch.no_grad():
            for start in range(0, len(todo), self.batch_size):
                batch = todo[start : start + self.batch_size]
                for clip, found in zip(batch, self.encode(batch), strict=True):
                    if found is not None:
                        self._take(clip, found)
                        self.pending |= {self.names[clip]: found} if clip in self.names else {}
                tried += len(batch)
                self._check_size(tried)
                if sum(kept.n_bytes for kept in self.pending.values()) >= SHARD_BYTES:
                    self._flush()
                advance(len(batch))
        self._flush()

    def _flush(self) -> None:
        if self.pending and self.folder is not None:
            self.folder.write(self.pending)
        self.pending = {}

    def _take(self, clip: AudioRef, found: Feature) -> None:
        self.done[clip] = found
        self.held += found.n_bytes

    def _check_size(self, tried: int) -> None:
        """Raise as soon as the size of the clips so far shows that the features of all clips exceed the limit."""
        expected_gb = self.held / 2**30 * max(1.0, len(self.clips) / max(tried, 1))
        if expected_gb > self.limit_gb:
            raise ConfigError(
                f"data.cache_limit_gb={self.limit_gb}: the features of {len(self.clips)} clips take about "
                f"{expected_gb:.1f} GB; raise the limit or turn the cache off (data.cache_features or finetune.cache)"
            )


def _names(encoder: AudioEncoder, clips: Sequence[AudioRef], kept: str) -> dict[AudioRef, str]:
    """Compute each clip's cache key; a clip whose file is missing has none."""
    known = encoder_digest(encoder)
    known.update(kept.encode())
    if changes := AudioOptions.current().changes():
        known.update(json.dumps(changes, sort_keys=True).encode())
    files: dict[Path, str] = {}
    names = {}
    for clip in clips:
        with suppress(OSError):
            if clip.path not in files:
                stat = clip.path.stat()
                files[clip.path] = f"{clip.path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
            itself = clip.clip if isinstance(clip, AugmentedRef) else clip
            member = f"{itself.at}:{itself.size}" if isinstance(itself, ShardRef) else ""
            own = known.copy()
            own.update(f"{files[clip.path]}:{member}:{clip.start_s}:{clip.end_s}".encode())
            if isinstance(clip, AugmentedRef):
                own.update(clip.fingerprint.encode())
            names[clip] = own.hexdigest()[:32]
    return names
