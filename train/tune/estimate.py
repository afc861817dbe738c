"""The cost of an align or instruct stage besides its steps: loading the parts, encoding clips once, validation."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from alm.common.processes import world_size
from alm.data.records import AudioRef
from alm.data.sources import open_records
from alm.model import AudioLanguageModel
from encoders import AudioEncoder
from encoders.devices import pick_device
from train.data.feature_cache import missing_clips
from train.data.protocols import TrainingDataset
from train.engine.estimate import CostEstimate, estimate_cost
from train.settings import TrainSettings
from train.tune.controls import mean_loss, samples_of
from train.tune.conversations import ClipFeatures, ClipWaveforms, ConversationCollator, clips_of
from train.tune.stage import caches_features, clip_augmenter, model_to_train, training_clips_of, training_data

_PASSES_AT_THE_END = 2  # over the validation samples: with the right audio, and with another clip's


class SampledFeatures(ClipFeatures):
    """Encoder tokens of only those clips that a batch needs, and the time that encoding took.

    Attributes:
        seconds_a_clip: Time per clip in the fastest batch so far; the first batch also warms up.
    """

    def __init__(self, encoder: AudioEncoder, device: torch.device) -> None:
        super().__init__(encoder, [], limit_gb=float("inf"), device=device)
        self.seconds_a_clip = float("inf")

    def check(self, ref: AudioRef) -> int:
        """Encode the clip unless that has been done; see `ClipFeatures.check`."""
        self._encode_missing([ref])
        return super().check(ref)

    def collate(self, refs: Sequence[AudioRef]) -> tuple[list[int], dict[str, Tensor]]:
        """Encode the missing clips together; see `ClipFeatures.collate`."""
        self._encode_missing(refs)
        return super().collate(refs)

    @torch.no_grad()
    def _encode_missing(self, refs: Sequence[AudioRef]) -> None:
        missing = [ref for ref in refs if ref not in self.features]
        if not missing:
            return
        started = time.perf_counter()
        found = self._encode(missing)
        self.seconds_a_clip = min(self.seconds_a_clip, (time.perf_counter() - started) / len(missing))
        self.features |= {ref: one for ref, one in zip(missing, found, strict=True) if one is not None}


def parts_to_estimate(
    settings: TrainSettings,
) -> tuple[AudioLanguageModel, TrainingDataset, ConversationCollator]:
    """The model with its trainable parts, the samples, and a collator that encodes the clips of its batches alone."""
    records = open_records(settings.data.train)
    model, processor, _ = model_to_train(settings)
    clips = ClipWaveforms(processor.sample_rate)
    if caches_features(settings, model.encoder):
        clips = SampledFeatures(model.encoder.to(pick_device()), pick_device())
    return model, *training_data(settings, records, processor, clips)


def estimate_tuning(settings: TrainSettings) -> CostEstimate:
    """Try a few steps, encodings and a validation batch; no run directory is touched.

    Raises:
        UserError: Whatever would end the run before its first step.
    """
    started = time.perf_counter()
    model, dataset, collator = parts_to_estimate(settings)
    start_up = time.perf_counter() - started
    cost = estimate_cost(settings, model, dataset, collator).with_other(start_up=start_up)
    held_out, clips = open_records(settings.data.validation), collator.clips
    if isinstance(clips, SampledFeatures):
        folder = Path(settings.data.feature_folder) if settings.data.feature_folder else None
        augmenter = clip_augmenter(settings, collator.processor)
        refs = [
            *training_clips_of(settings, open_records(settings.data.train), augmenter),
            *clips_of(held_out),
        ]
        processes = world_size() if folder else 1
        missing = missing_clips(model.encoder, refs, folder)
        cost = cost.with_other(encoding_clips=len(missing) * clips.seconds_a_clip / processes)
    if not len(held_out):
        return cost
    size = settings.optim.batch_size
    few = samples_of([held_out[i] for i in range(min(size, len(held_out)))])
    mean_loss(model, collator, few, size)  # encodes
    started = time.perf_counter()
    mean_loss(model, collator, few, size)
    one_pass = (time.perf_counter() - started) * len(held_out) / len(few) / world_size()
    every = settings.run.eval_every
    passes = _PASSES_AT_THE_END + (cost.steps // every if every else 0)
    return cost.with_other(validation=passes * one_pass)
