"""Manifest records as training batches: audio or cached encoder tokens, text, labels."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alm.errors import AudioError, ConfigError, UserError
from alm.manifest import AudioRef, Record, read_manifest
from alm.processor import AudioLanguageProcessor
from alm.progress import progress
from encoders import AudioEncoder
from encoders.audio import load_audio, pad_batch
from encoders.checkpoint import read_weights, write_weights
from train.quarantine import check_audible
from train.ranks import is_main
from train.rundir import encoder_digest


def read_manifests(paths: Sequence[str], audio_only: bool = False) -> list[Record]:
    """The records of several manifests, with ids unique across them.

    Args:
        paths: JSONL files.
        audio_only: Take records that say nothing about their audio.
    """
    records: list[Record] = []
    seen: dict[str, str] = {}
    for path in paths:
        for record in read_manifest(path, audio_only=audio_only):
            if record.id in seen:
                raise ConfigError(f"{record.source}: id '{record.id}' was already used at {seen[record.id]}")
            seen[record.id] = record.source
            records.append(record)
    return records


def clips_of(records: Sequence[Record]) -> list[AudioRef]:
    """All different clips of some records, in order of first use."""
    return list(dict.fromkeys(ref for record in records for ref in record.audio))


class ClipAudio:
    """Clips as waveforms, read when asked for.

    Args:
        sample_rate: Rate in Hz to deliver.
    """

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._held: dict[AudioRef, np.ndarray] = {}

    def waveform(self, ref: AudioRef) -> np.ndarray:
        """(S,) float32 mono."""
        held = self._held.pop(ref, None)
        return load_audio(ref.path, self.sample_rate, ref.start_s, ref.end_s) if held is None else held

    def check(self, ref: AudioRef) -> None:
        """Read a clip and hold it for the batch it is about to be part of.

        Raises:
            AudioError: It cannot be read, or is silent throughout.
        """
        waveform = self.waveform(ref)
        check_audible(waveform, ref.path)
        self._held[ref] = waveform

    def check_sample(self, sample: dict[str, Any]) -> None:
        """Check all clips of a dataset's item; see :meth:`check`."""
        for ref in sample["audio"]:
            self.check(ref)

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Lengths in samples, and the model's audio inputs, of some different clips."""
        waveforms = [self.waveform(ref) for ref in refs]
        padded, lengths = pad_batch(waveforms)
        return [len(w) for w in waveforms], {"waveforms": padded, "waveform_lengths": lengths}


class ClipFeatures(ClipAudio):
    """Clips as tokens of a frozen encoder, each computed once and kept in memory.

    Args:
        encoder: The frozen encoder.
        refs: All clips that will be asked for.
        limit_gb: Refuse to hold more than this.
        device: Where to encode.
        folder: Keep the tokens there too, for the next stage with the same encoder and clips; None keeps nothing.
        batch_size: Clips per forward pass.
        keep_going: Remember clips that cannot be used instead of raising; :meth:`check` then says which they are.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        refs: Sequence[AudioRef],
        limit_gb: float,
        device: torch.device,
        folder: Path | None = None,
        batch_size: int = 32,
        keep_going: bool = False,
    ) -> None:
        super().__init__(encoder.config.sample_rate)
        self.keep_going = keep_going
        self.bad: dict[AudioRef, AudioError] = {}
        self.limit_gb = limit_gb
        self.tokens: dict[AudioRef, Tensor] = {}
        self.lengths: dict[AudioRef, int] = {}
        file = folder / f"{_features_key(encoder, refs)}.safetensors" if folder is not None else None
        if file is not None and file.is_file():
            self._read(file, refs)
            return
        encoder.eval()
        with progress("encode clips", len(refs), "clip") as advance, torch.no_grad():
            for start in range(0, len(refs), batch_size):
                self._encode(encoder, refs[start : start + batch_size], device)
                self._check_size(start + batch_size, len(refs))
                advance(min(batch_size, len(refs) - start))
        if file is not None and is_main():
            self._write(file, refs)

    def _encode(self, encoder: AudioEncoder, refs: Sequence[AudioRef], device: torch.device) -> None:
        if self.keep_going:
            refs = self._usable(refs)
        if not refs:
            return
        waveforms, lengths = pad_batch([self.waveform(ref) for ref in refs])
        out = encoder(waveforms.to(device), lengths)
        for ref, tokens, mask, n in zip(refs, out.tokens, out.mask, lengths.tolist(), strict=True):
            self.tokens[ref] = tokens[mask].cpu()  # (n_valid, D), time-major
            self.lengths[ref] = n

    def _usable(self, refs: Sequence[AudioRef]) -> list[AudioRef]:
        """The clips that can be read and hold sound; the others are remembered."""
        for ref in refs:
            try:
                super().check(ref)
            except AudioError as error:
                self.bad[ref] = error
        return [ref for ref in refs if ref not in self.bad]

    def check(self, ref: AudioRef) -> None:
        """Whether a clip's tokens are there.

        Raises:
            AudioError: It could not be encoded.
        """
        if ref in self.bad:
            raise self.bad[ref]

    def _check_size(self, done: int, total: int) -> None:
        """Stop as soon as the clips so far show that the whole will not fit."""
        held = sum(tokens.numel() * tokens.element_size() for tokens in self.tokens.values()) / 2**30
        expected_gb = held * max(1.0, total / done)
        if expected_gb > self.limit_gb:
            raise ConfigError(
                f"data.cache_limit_gb={self.limit_gb}: the encoder's tokens of {total} clips take about "
                f"{expected_gb:.1f} GB; raise the limit or set data.cache_features=false"
            )

    def _write(self, file: Path, refs: Sequence[AudioRef]) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_weights(
            file,
            {
                "tokens": torch.cat([self.tokens[ref] for ref in refs if ref not in self.bad]),
                "n_tokens": torch.tensor([len(self.tokens.get(ref, ())) for ref in refs]),
                "n_samples": torch.tensor([self.lengths.get(ref, 0) for ref in refs]),
            },
        )

    def _read(self, file: Path, refs: Sequence[AudioRef]) -> None:
        kept = read_weights(file)
        rows = kept["tokens"].split(kept["n_tokens"].tolist())
        self.tokens = dict(zip(refs, rows, strict=True))
        self.lengths = dict(zip(refs, kept["n_samples"].tolist(), strict=True))
        empty = [ref for ref, n_tokens in zip(refs, kept["n_tokens"].tolist(), strict=True) if not n_tokens]
        for ref in empty:  # left out when the file was written: read again, for the reason
            super().check(ref) if not self.keep_going else self._usable([ref])

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Lengths in samples, and padded cached tokens in place of waveforms."""
        for ref in refs:
            self.check(ref)
        rows = [self.tokens[ref] for ref in refs]
        longest = max(len(row) for row in rows)
        features = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            features[i, : len(row)] = row
            mask[i, : len(row)] = True
        return [self.lengths[ref] for ref in refs], {"features": features, "features_mask": mask}


def _features_key(encoder: AudioEncoder, refs: Sequence[AudioRef]) -> str:
    """What the tokens depend on: the code, the encoder's config and weights, the clips' files as they are now."""
    digest = encoder_digest(encoder)
    for ref in refs:
        stat = ref.path.stat()
        digest.update(
            f"{ref.path.resolve()}:{ref.start_s}:{ref.end_s}:{stat.st_size}:{stat.st_mtime_ns}".encode()
        )
    return digest.hexdigest()


class ConversationDataset(Dataset):
    """Records as (conversation, clips); a captioning record shows another of its captions each epoch.

    Args:
        records: The records; each must end with an assistant's answer.
        seed: Seed of the choice of captions.
    """

    def __init__(self, records: Sequence[Record], seed: int = 0) -> None:
        for record in records:
            if record.messages[-1]["role"] != "assistant":
                raise UserError(
                    f"{record.source}: the record has no answer to learn; add one or leave it out"
                )
        self.records = list(records)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset which epoch is being drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """A sample's id."""
        return self.records[index].id

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        pick = int.from_bytes(hashlib.sha256(f"{self.seed}/{record.id}".encode()).digest()[:4]) + self.epoch
        return {"messages": record.conversation(pick), "audio": record.audio, "source": record.source}


class ConversationCollator:
    """Samples to model inputs; a clip that several samples share is encoded once.

    Args:
        processor: The model's processor.
        clips: Where clips come from.
        max_length: Longest sample in tokens.
    """

    def __init__(self, processor: AudioLanguageProcessor, clips: ClipAudio, max_length: int = 2048) -> None:
        self.processor = processor
        self.clips = clips
        self.max_length = max_length

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate dataset items; see :meth:`AudioLanguageProcessor.tokenize` for the text side."""
        refs = list(dict.fromkeys(ref for sample in samples for ref in sample["audio"]))
        row = {ref: i for i, ref in enumerate(refs)}
        lengths, audio = self.clips.collate(refs) if refs else ([], {})
        try:
            batch = self.processor.tokenize(
                [sample["messages"] for sample in samples],
                [[lengths[row[ref]] for ref in sample["audio"]] for sample in samples],
                with_labels=True,
                max_length=self.max_length,
            )
        except UserError as error:
            raise UserError(f"{', '.join(sample['source'] for sample in samples)}: {error}") from error
        if refs:
            index = torch.tensor([row[ref] for sample in samples for ref in sample["audio"]])
            batch |= audio | {"audio_index": index}
        return batch
