"""Features of a frozen encoder, each clip's computed once for all runs that share a folder.

The folder holds shards: safetensors files that never change, one tensor per clip. A clip's name in them is a hash of
all its features depend on: code, config and weights of the encoder, what is kept of its output, and the clip's file,
span, size and time of change. A shard's header is its index (where each clip lies) and holds a checksum per clip, so
there is no index beside the shards to disagree with them.

Nobody locks: a shard appears whole, by a rename, and readers keep what they have mapped when another run removes the
file. Two runs that compute the same clips at once write one file twice, or the clips twice; neither does harm. A
shard's time of change is when it was last used; beyond the size limit, those unused for longest are removed.
"""

from __future__ import annotations

import hashlib
import json
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from alm.common.errors import AudioError, CheckpointError, ConfigError
from alm.common.fingerprint import code_hash
from alm.common.processes import rank, world_size
from alm.common.progress import progress
from alm.data.records import AudioRef
from alm.data.shards import ShardRef
from encoders import AudioEncoder
from encoders.checkpoint import write_weights
from train.engine.processes import barrier, say

SHARD_BYTES = 64 << 20  # what a kill can cost: the clips that are not yet in a shard
_UNFINISHED_S = 3600.0  # a temporary file this old was left by a killed run
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
    """What an encoder makes of a clip.

    Attributes:
        values: Of any shape.
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
        folder: Where they are; made when the first one is written.
        limit_gb: Size above which those unused for longest are removed.
    """

    def __init__(self, folder: Path, limit_gb: float) -> None:
        self.folder, self.limit_bytes = folder, limit_gb * 2**30

    def read(self, names: Iterable[str]) -> dict[str, Feature]:
        """Those that are there, memory-mapped; a damaged shard is removed, and said to be."""
        wanted, found = set(names), dict[str, Feature]()
        for file in sorted(self.folder.glob("*.safetensors")):
            try:
                here = _read_shard(file, wanted - found.keys())
            except FileNotFoundError:  # another run has just removed it
                continue
            except (SafetensorError, ValueError, KeyError, TypeError) as error:
                say(f"{file}: is damaged ({error}); its clips are encoded again")
                with suppress(OSError):
                    file.unlink()
                continue
            if here:
                with suppress(OSError):  # removed by now, or a folder that is only read
                    file.touch()
            found |= here
        return found

    def write(self, features: Mapping[str, Feature]) -> None:
        """Add a shard, and make room for it; where that is impossible, say so."""
        name = hashlib.sha256("".join(sorted(features)).encode()).hexdigest()[:32]
        notes = {name: [kept.n_samples, _checksum(kept.values)] for name, kept in features.items()}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            file = self.folder / f"{name}.safetensors"
            write_weights(
                file, {name: kept.values for name, kept in features.items()}, {_NOTES: json.dumps(notes)}
            )
            self._make_room()
        except (OSError, CheckpointError) as error:
            say(f"{self.folder}: features are not kept for other runs ({error})")

    def _make_room(self) -> None:
        """Remove what was used longest ago until the rest is within the limit, and what killed runs left."""
        shards = []
        for file in self.folder.iterdir():
            with suppress(FileNotFoundError):
                stat = file.stat()
                if file.suffix == ".safetensors":
                    shards.append((stat.st_mtime, stat.st_size, file))
                elif file.suffix == ".tmp" and time.time() - stat.st_mtime > _UNFINISHED_S:
                    file.unlink(missing_ok=True)
        total = sum(size for _, size, _ in shards)
        for _, size, file in sorted(shards):
            if total <= self.limit_bytes:
                break
            file.unlink(missing_ok=True)
            total -= size


def _read_shard(file: Path, wanted: set[str]) -> dict[str, Feature]:
    """The wanted clips of a shard.

    Raises:
        ValueError: A clip's bytes are not those that were written.
    """
    with safe_open(file, "pt") as shard:
        names = wanted.intersection(shard.keys())
        notes = json.loads(shard.metadata()[_NOTES])
        found = {name: Feature(shard.get_tensor(name), int(notes[name][0])) for name in names}
    wrong = [name for name, kept in found.items() if _checksum(kept.values) != notes[name][1]]
    if wrong:
        raise ValueError(f"{len(wrong)} of its clips have another checksum than when they were written")
    return found


def _checksum(values: Tensor) -> int:
    return zlib.crc32(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def encoded_once(
    encoder: AudioEncoder,
    clips: Sequence[AudioRef],
    encode: Callable[[Sequence[AudioRef]], Sequence[Feature | None]],
    batch_size: int,
    limit_gb: float,
    folder: Path | None = None,
    kept: str = "tokens",
) -> dict[AudioRef, Feature]:
    """Features of all clips: read where they are kept, computed otherwise; every process must call this.

    With a folder, several processes share the computing.

    Args:
        encoder: The frozen encoder; its digest (`encoder_digest`) identifies its features.
        clips: All different clips that will be asked for.
        encode: Called with a batch of clips; gives their features, or None for one that cannot be used.
        batch_size: Clips per batch.
        limit_gb: Refuse to hold more than this, and keep no more in the folder.
        folder: Where to keep them for other runs; None holds them in memory alone.
        kept: What is kept of the encoder's output.

    Returns:
        By clip; without those that cannot be used.

    Raises:
        ConfigError: They take more than the limit.
        AudioError: As `encode` raises it.
    """
    work = _Encoding(clips, encode, batch_size, limit_gb)
    if folder is not None:
        work.folder = FeatureFolder(folder, limit_gb)
        work.names = _names(encoder, clips, kept)
        work.look()
        if world_size() > 1:
            barrier()  # every process has looked before the first one adds a shard, so their shares are of one list
            with suppress(AudioError, ConfigError):  # which all processes will meet below
                work.compute(work.missing()[rank() :: world_size()])
            barrier()
            work.look()
    work.compute(work.missing())
    return work.done


class _Encoding:
    """Clips, and what is known of them."""

    folder: FeatureFolder | None = None

    def __init__(
        self,
        clips: Sequence[AudioRef],
        encode: Callable[[Sequence[AudioRef]], Sequence[Feature | None]],
        batch_size: int,
        limit_gb: float,
    ) -> None:
        self.clips, self.encode, self.batch_size, self.limit_gb = list(clips), encode, batch_size, limit_gb
        self.names: dict[AudioRef, str] = {}
        self.done: dict[AudioRef, Feature] = {}
        self.held = 0
        self._pending: dict[str, Feature] = {}

    def missing(self) -> list[AudioRef]:
        """Clips without features, in their order."""
        return [clip for clip in self.clips if clip not in self.done]

    def look(self) -> None:
        """Take what the folder holds of the missing clips."""
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
                        self._pending |= {self.names[clip]: found} if clip in self.names else {}
                tried += len(batch)
                self._check_size(tried)
                if sum(kept.n_bytes for kept in self._pending.values()) >= SHARD_BYTES:
                    self._flush()
                advance(len(batch))
        self._flush()

    def _flush(self) -> None:
        if self._pending and self.folder is not None:
            self.folder.write(self._pending)
        self._pending = {}

    def _take(self, clip: AudioRef, found: Feature) -> None:
        self.done[clip] = found
        self.held += found.n_bytes

    def _check_size(self, tried: int) -> None:
        """Stop as soon as the clips so far show that the whole will not fit."""
        expected_gb = self.held / 2**30 * max(1.0, len(self.clips) / max(tried, 1))
        if expected_gb > self.limit_gb:
            raise ConfigError(
                f"data.cache_limit_gb={self.limit_gb}: the features of {len(self.clips)} clips take about "
                f"{expected_gb:.1f} GB; raise the limit or turn the cache off (data.cache_features or finetune.cache)"
            )


def _names(encoder: AudioEncoder, clips: Sequence[AudioRef], kept: str) -> dict[AudioRef, str]:
    """What each clip's features are kept under; a file that is not there has no name."""
    known = encoder_digest(encoder)
    known.update(kept.encode())
    files: dict[Path, str] = {}
    names = {}
    for clip in clips:
        with suppress(OSError):
            if clip.path not in files:
                stat = clip.path.stat()
                files[clip.path] = f"{clip.path.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
            member = f"{clip.at}:{clip.size}" if isinstance(clip, ShardRef) else ""
            own = known.copy()
            own.update(f"{files[clip.path]}:{member}:{clip.start_s}:{clip.end_s}".encode())
            names[clip] = own.hexdigest()[:32]
    return names
