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

from alm.common.errors import AudioError, UserError
from alm.data.records import AudioRef, Record
from alm.data.sources import first_unanswered
from alm.processor import AudioLanguageProcessor
from encoders import AudioEncoder
from encoders.audio import pad_batch
from train.data.feature_cache import Feature, encoded_once
from train.data.order import SampleOrder
from train.data.quarantine import check_audible
from train.tune.packing import pack


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
        return ref.load(self.sample_rate) if held is None else held

    def check(self, ref: AudioRef) -> None:
        """Read a clip and hold it for the batch it is about to be part of.

        Raises:
            AudioError: It cannot be read, or is silent throughout.
        """
        waveform = self.waveform(ref)
        check_audible(waveform, ref.path)
        self._held[ref] = waveform

    def check_sample(self, sample: dict[str, Any]) -> None:
        """Check all clips of a dataset's item; see `check`."""
        for ref in sample["audio"]:
            self.check(ref)

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Lengths in samples, and the model's audio inputs, of some different clips."""
        waveforms = [self.waveform(ref) for ref in refs]
        padded, lengths = pad_batch(waveforms)
        return [len(w) for w in waveforms], {"waveforms": padded, "waveform_lengths": lengths}


class ClipFeatures(ClipAudio):
    """Clips as tokens of a frozen encoder, each computed once (`train.data.feature_cache`).

    Args:
        encoder: The frozen encoder.
        refs: All clips that will be asked for.
        limit_gb: Refuse to hold more than this.
        device: Where to encode.
        folder: Keep the tokens there too, for other runs with the same encoder; None keeps nothing.
        batch_size: Clips per forward pass.
        keep_going: Remember clips that cannot be used instead of raising; `check` then says which they are.
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
        self.encoder, self.device, self.keep_going = encoder.eval(), device, keep_going
        self.bad: dict[AudioRef, AudioError] = {}
        self.features = encoded_once(encoder, refs, self._encode, batch_size, limit_gb, folder)

    def _encode(self, refs: Sequence[AudioRef]) -> list[Feature | None]:
        usable = self._usable(refs) if self.keep_going else list(refs)
        if not usable:
            return [None] * len(refs)
        waveforms, lengths = pad_batch([self.waveform(ref) for ref in usable])
        out = self.encoder(waveforms.to(self.device), lengths)
        rows = zip(usable, out.tokens, out.mask, lengths.tolist(), strict=True)
        # (n_valid, D), time-major
        found = {ref: Feature(tokens[mask].cpu(), n) for ref, tokens, mask, n in rows}
        return [found.get(ref) for ref in refs]

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

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Lengths in samples, and padded cached tokens in place of waveforms."""
        for ref in refs:
            self.check(ref)
        rows = [self.features[ref].values for ref in refs]
        longest = max(len(row) for row in rows)
        features = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
        mask = torch.zeros(len(rows), longest, dtype=torch.bool)
        for i, row in enumerate(rows):
            features[i, : len(row)] = row
            mask[i, : len(row)] = True
        return [self.features[ref].n_samples for ref in refs], {"features": features, "features_mask": mask}


class ConversationDataset(Dataset):
    """Records as (conversation, clips); a captioning record shows another of its captions each epoch.

    Args:
        records: The records; each must end with an assistant's answer. Those of shards are read when asked for.
        seed: Seed of the choice of captions.
        order: An order of its own (`train.data.sampling.EpochBatches` asks for it); None: all once an epoch.
    """

    def __init__(self, records: Sequence[Record], seed: int = 0, order: SampleOrder | None = None) -> None:
        source = first_unanswered(records)
        if source is not None:
            raise UserError(f"{source}: the record has no answer to learn; add one or leave it out")
        self.records = records
        self.seed = seed
        self.epoch = 0
        self.order = order

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
        packed: Put several samples into one row (`train.tune.packing`).
        supervise: What is labelled: `assistant` turns or `all` text.
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
        """Collate dataset items; see `AudioLanguageProcessor.tokenize` for the text side."""
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
