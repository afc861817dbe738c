"""Manifest records as training batches: audio or cached encoder tokens, text, labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from alm.data.sources import first_unanswered, parts_of
from alm.errors import ConfigError, UserError
from alm.manifest import AudioRef, Record
from alm.processor import AudioLanguageProcessor
from alm.progress import progress
from encoders import AudioEncoder
from encoders.audio import pad_batch
from encoders.checkpoint import read_weights, write_weights
from train.order import SampleOrder
from train.packing import pack
from train.ranks import is_main


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

    def waveform(self, ref: AudioRef) -> np.ndarray:
        """(S,) float32 mono."""
        return ref.load(self.sample_rate)

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
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        refs: Sequence[AudioRef],
        limit_gb: float,
        device: torch.device,
        folder: Path | None = None,
        batch_size: int = 32,
    ) -> None:
        super().__init__(encoder.config.sample_rate)
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
        waveforms, lengths = pad_batch([self.waveform(ref) for ref in refs])
        out = encoder(waveforms.to(device), lengths)
        for ref, tokens, mask, n in zip(refs, out.tokens, out.mask, lengths.tolist(), strict=True):
            self.tokens[ref] = tokens[mask].cpu()  # (n_valid, D), time-major
            self.lengths[ref] = n

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
                "tokens": torch.cat([self.tokens[ref] for ref in refs]),
                "n_tokens": torch.tensor([len(self.tokens[ref]) for ref in refs]),
                "n_samples": torch.tensor([self.lengths[ref] for ref in refs]),
            },
        )

    def _read(self, file: Path, refs: Sequence[AudioRef]) -> None:
        kept = read_weights(file)
        rows = kept["tokens"].split(kept["n_tokens"].tolist())
        self.tokens = dict(zip(refs, rows, strict=True))
        self.lengths = dict(zip(refs, kept["n_samples"].tolist(), strict=True))

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Lengths in samples, and padded cached tokens in place of waveforms."""
        rows = [self.tokens[ref] for ref in refs]
        longest = max(len(row) for row in rows)
        features = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            features[i, : len(row)] = row
            mask[i, : len(row)] = True
        return [self.lengths[ref] for ref in refs], {"features": features, "features_mask": mask}


def _features_key(encoder: AudioEncoder, refs: Sequence[AudioRef]) -> str:
    """What the tokens depend on: the encoder's config and weights, and the clips' files as they are now."""
    digest = hashlib.sha256(json.dumps(encoder.config.to_dict(), sort_keys=True, default=str).encode())
    for name, value in encoder.state_dict().items():
        digest.update(
            name.encode() + value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        )
    for ref in refs:
        stat = ref.path.stat()
        digest.update(
            f"{ref.path.resolve()}:{ref.start_s}:{ref.end_s}:{stat.st_size}:{stat.st_mtime_ns}".encode()
        )
    return digest.hexdigest()


class ConversationDataset(Dataset):
    """Records as (conversation, clips); a captioning record shows another of its captions each epoch.

    Args:
        records: The records; each must end with an assistant's answer. Those of shards are read when asked for.
        seed: Seed of the choice of captions.
    """

    def __init__(self, records: Sequence[Record], seed: int = 0) -> None:
        source = first_unanswered(records)
        if source is not None:
            raise UserError(f"{source}: the record has no answer to learn; add one or leave it out")
        self.records = records
        self.seed = seed
        self.epoch = 0
        self.order = SampleOrder([len(part) for part in parts_of(records)])

    def set_epoch(self, epoch: int) -> None:
        """Tell the dataset which epoch is being drawn."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

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
        packed: Put several samples into one row (:mod:`train.packing`).
        supervise: What is labelled: ``assistant`` turns or ``all`` text.
    """

    def __init__(
        self,
        processor: AudioLanguageProcessor,
        clips: ClipAudio,
        max_length: int = 2048,
        packed: bool = False,
        supervise: str = "assistant",
    ) -> None:
        self.processor = processor
        self.clips = clips
        self.max_length = max_length
        self.packed, self.supervise = packed, supervise

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
                supervise=self.supervise,
                max_length=self.max_length,
            )
        except UserError as error:
            raise UserError(f"{', '.join(sample['source'] for sample in samples)}: {error}") from error
        if self.packed:
            batch, order = pack(batch, self.processor.tokenizer.pad_token_id)
            samples = [samples[i] for i in order]
        if refs:
            index = torch.tensor([row[ref] for sample in samples for ref in sample["audio"]])
            batch |= audio | {"audio_index": index}
        return batch
