"""Manifest records as training batches: audio or cached encoder tokens, text, labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import AudioError, UserError
from alm.common.fields import located
from alm.common.seeds import seed_from
from alm.data.records import AudioRef, Record
from alm.data.sources import first_unanswered
from alm.processing.batch import Collate
from alm.processing.feature_extraction import collate_waveforms
from alm.processor import AudioLanguageProcessor
from encoders import AudioEncoder
from encoders.audio import pad_batch
from train.data.augmented_clips import NO_AUGMENTATION, ClipAugmenter
from train.data.feature_cache import Feature, encoded_once
from train.data.order import SampleOrder
from train.data.protocols import TrainingDataset
from train.data.quarantine import check_audible
from train.tune.packing import pack
from train.tune.sharing import samples_of_groups, share


def clips_of(records: Sequence[Record]) -> list[AudioRef]:
    """All different clips of some records, in order of first use."""
    return list(dict.fromkeys(ref for record in records for ref in record.audio))


class ClipWaveforms:
    """Clips as waveforms, decoded when a batch needs them."""

    def __init__(self, sample_rate: int) -> None:
        self.sample_rate = sample_rate
        self._checked: dict[AudioRef, np.ndarray] = {}

    def waveform(self, ref: AudioRef) -> np.ndarray:
        """Decode a clip, unless `check` has just done so: (S,) float32 mono."""
        checked = self._checked.pop(ref, None)
        return ref.load(self.sample_rate) if checked is None else checked

    def check(self, ref: AudioRef) -> int:
        """Decode a clip and hold its waveform for the batch that it becomes part of.

        Returns:
            Its length in samples.

        Raises:
            AudioError: It cannot be decoded, or is silent throughout.
        """
        waveform = self.waveform(ref)
        check_audible(waveform, ref.path)
        self._checked[ref] = waveform
        return len(waveform)

    def forget(self, refs: Sequence[AudioRef]) -> None:
        """Drop the waveforms that `check` holds, because the sample will not be part of a batch."""
        for ref in refs:
            self._checked.pop(ref, None)

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Return lengths in samples, and the model's audio inputs, of some different clips."""
        return collate_waveforms([self.waveform(ref) for ref in refs])


class ClipFeatures(ClipWaveforms):
    """Clips as tokens of a frozen encoder, each computed once (`train.data.feature_cache`).

    Args:
        encoder: The frozen encoder.
        refs: All clips that will be needed.
        limit_gb: Refuse to hold more than this.
        device: Where to encode.
        folder: Cache the tokens there too, for other runs with the same encoder; None caches in memory alone.
        batch_size: Clips per forward pass.
        collect_bad: Collect clips that cannot be used in `bad` instead of raising; `check` then raises for them.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        refs: Sequence[AudioRef],
        limit_gb: float,
        device: torch.device,
        folder: Path | None = None,
        batch_size: int = 32,
        collect_bad: bool = False,
    ) -> None:
        super().__init__(encoder.config.sample_rate)
        self.encoder, self.device, self.collect_bad = encoder.eval(), device, collect_bad
        self.bad: dict[AudioRef, AudioError] = {}
        self.features = encoded_once(encoder, refs, self._encode, batch_size, limit_gb, folder)

    def _encode(self, refs: Sequence[AudioRef]) -> list[Feature | None]:
        usable: dict[AudioRef, np.ndarray] = {}
        for ref in refs:
            try:
                usable[ref] = self._usable_waveform(ref)
            except AudioError as error:
                if not self.collect_bad:
                    raise
                self.bad[ref] = error
        if not usable:
            return [None] * len(refs)
        waveforms, lengths = pad_batch(list(usable.values()))
        out = self.encoder(waveforms.to(self.device), lengths)
        rows = zip(usable, out.tokens, out.mask, lengths.tolist(), strict=True)
        # (n_valid, D), time-major
        found = {ref: Feature(tokens[mask].cpu(), n) for ref, tokens, mask, n in rows}
        return [found.get(ref) for ref in refs]

    def _usable_waveform(self, ref: AudioRef) -> np.ndarray:
        """Decode a clip that is long enough for the encoder and, where bad clips are collected, not silent."""
        waveform = self.waveform(ref)
        if self.collect_bad:
            check_audible(waveform, ref.path)
        with located(ref.path, AudioError):
            self.encoder.config.n_time_for(len(waveform))
        return waveform

    def check(self, ref: AudioRef) -> int:
        """Return a clip's length in samples if its tokens were computed.

        Raises:
            AudioError: It could not be encoded.
        """
        if ref in self.bad:
            raise self.bad[ref]
        return self.features[ref].n_samples

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Return lengths in samples, and padded cached tokens in place of waveforms."""
        lengths = [self.check(ref) for ref in refs]
        rows = [self.features[ref].values for ref in refs]
        features = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # (B, N, D)
        n_tokens = torch.tensor([len(row) for row in rows])
        mask = torch.arange(features.shape[1])[None] < n_tokens[:, None]
        return lengths, {"features": features, "features_mask": mask}


class ConversationDataset(TrainingDataset):
    """Records as (conversation, clips); a captioning record uses another of its captions in each epoch.

    Args:
        records: The records; each must end with an assistant's answer. Those of shards are read on access.
        seed: Seed of the choice of captions.
        order: The order of the samples; None visits all once an epoch, in random order.
        augmenter: Changes the clips from epoch to epoch.
    """

    def __init__(
        self,
        records: Sequence[Record],
        seed: int = 0,
        order: SampleOrder | None = None,
        augmenter: ClipAugmenter = NO_AUGMENTATION,
    ) -> None:
        source = first_unanswered(records)
        if source is not None:
            raise UserError(f"{source}: the record has no answer to train on; add one or remove the record")
        self.records = records
        self.seed = seed
        self._order = order
        self.augmenter = augmenter

    def __len__(self) -> int:
        return len(self.records)

    def name(self, index: int) -> str:
        """Return a sample's id."""
        return self.records[index].id

    def order(self, seed: int, epoch: int) -> np.ndarray:
        """Return the samples of an epoch in order; see `TrainingDataset.order`."""
        return super().order(seed, epoch) if self._order is None else self._order(seed, epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        first = seed_from(self.seed, record.id, n_bytes=4)
        messages = record.conversation(first + self.epoch)  # the number picks a caption
        audio = tuple(self.augmenter(ref, self.epoch) for ref in record.audio)
        return {"messages": messages, "audio": audio, "source": record.source}


class ConversationCollator:
    """Collates samples into model inputs; a clip that several samples share is encoded once.

    Args:
        processor: The model's processor.
        clips: Where clips come from.
        max_length: Longest sample in tokens.
        packed: Put several samples into one row (`train.tune.packing`).
        supervise: What is labelled: `assistant` turns or `all` text.
        shared: Put the samples of a group into one row, after their common prefix (`train.tune.sharing`).

    Attributes:
        audio_s: Seconds of audio in the last batch; a clip that several samples share counts once.
    """

    audio_s = 0.0

    def __init__(
        self,
        processor: AudioLanguageProcessor,
        clips: ClipWaveforms,
        max_length: int = 2048,
        packed: bool = False,
        supervise: str = "assistant",
        shared: bool = False,
    ) -> None:
        self.processor = processor
        self.clips = clips
        self.max_length = max_length
        self.packed, self.supervise, self.shared = packed, supervise, shared

    def check(self, sample: dict[str, Any]) -> None:
        """Check that a sample can be part of a batch: its clips can be used, its tokens are not too many.

        The tokens are stored in the sample itself as `encoded`, for the batch that it becomes part of.

        Raises:
            AudioError: A clip is missing, not decodable, silent, or too short for one token.
            UserError: The conversation does not fit its clips, or is too long.
        """
        try:
            lengths = {ref: self.clips.check(ref) for ref in sample["audio"]}
            self._encode(sample, lengths)
            self._build([sample], lambda refs: ([lengths[ref] for ref in refs], {}), lengths)
        except UserError:
            self.clips.forget(sample["audio"])
            raise

    def _encode(self, sample: dict[str, Any], lengths: dict[AudioRef, int]) -> None:
        n_samples = [lengths[ref] for ref in sample["audio"]]
        with located(sample["source"], UserError):
            sample["encoded"] = self.processor.encode_conversation(
                sample["messages"], n_samples, supervise=self.supervise
            )

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Collate dataset items, or groups of them; see `AudioLanguageProcessor.apply_chat_template`.

        Raises:
            UserError: A sample that cannot be part of a batch; the message names its record.
        """
        samples, sizes = samples_of_groups(samples)
        lengths: dict[AudioRef, int] = {}

        def collate(refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
            found, inputs = self.clips.collate(refs)
            lengths.update(zip(refs, found, strict=True))
            return found, inputs

        batch = self._build(samples, collate, lengths)
        self.audio_s = sum(lengths.values()) / self.processor.sample_rate
        if not (self.packed or self.shared):
            return batch
        padding = self.processor.tokenizer.pad_token_id
        if self.shared:
            packed, order = share(batch, sizes, self.processor.audio_token_id, padding, self.packed)
        else:
            packed, order = pack(batch, padding)
        audio = {
            key: value for key, value in batch.items() if key not in ("input_ids", "attention_mask", "labels")
        }
        if audio:
            clips = audio["audio_index"].split([len(sample["audio"]) for sample in samples])
            audio["audio_index"] = torch.cat([clips[i] for i in order])
        return packed | audio

    def _build(
        self, samples: Sequence[dict[str, Any]], collate: Collate, lengths: dict[AudioRef, int]
    ) -> dict[str, Tensor]:
        """Build the batch; an error names the first record that causes it, unless a clip could not be read."""
        try:
            batch = self.processor.apply_chat_template(
                [sample["messages"] for sample in samples],
                audio=[sample["audio"] for sample in samples],
                tokenize=True,
                return_dict=True,
                collate=collate,
                encoded=[sample.get("encoded") for sample in samples],
                output_labels=True,
                supervise=self.supervise,
                max_length=self.max_length,
            )
        except UserError as error:
            if any(ref not in lengths for sample in samples for ref in sample["audio"]):
                raise  # the clip's own error names its file
            if len(samples) > 1:
                for sample in samples:
                    self._build([sample], lambda refs: ([lengths[ref] for ref in refs], {}), lengths)
            raise type(error)(f"{', '.join(sample['source'] for sample in samples)}: {error}") from error
        return dict(batch)
