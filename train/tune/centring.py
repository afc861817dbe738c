"""Subtract what all tokens of an encoder share, before a new projector sees them.

Encoders can add a large constant to every token: a constant does not change the loss of contrastive pretraining, so it
grows without limit. LayerNorm scales a token as a whole, so little is left of what differs from token to token, and the
projector learns to hear slowly or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import AudioError
from alm.data.records import AudioRef, Record
from alm.generation import pick_device
from alm.model import AudioLanguageModel
from alm.processor import AudioLanguageProcessor
from encoders import AudioEncoder
from encoders.audio import pad_batch
from train.data.augmented_clips import ClipAugmenter
from train.processes import say
from train.settings import TrainSettings
from train.tune.conversations import ClipFeatures, ClipWaveforms

_MOST_RECORDS, _CLIPS_AT_ONCE = 64, 8
# Where the part that all tokens share is so many times larger than their deviation from it, it is subtracted.
_LARGEST_SHARE = 2.0


def centre_tokens(
    settings: TrainSettings,
    model: AudioLanguageModel,
    processor: AudioLanguageProcessor,
    records: Sequence[Record],
    clips: ClipWaveforms,
    augmenter: ClipAugmenter,
) -> None:
    """Let a new projector subtract the mean of the encoder's tokens on training clips, where it dominates them.

    `projector_options.centred` decides if it is given.

    Args:
        settings: Of a stage that builds a new projector.
        model: Its model.
        processor: The model's processor, which knows the projector's config.
        records: The training records.
        clips: Where clips or their cached tokens come from.
        augmenter: Of the training clips.
    """
    wanted = settings.projector_options.get("centred")
    if wanted is False:
        return
    places = np.unique(np.linspace(0, len(records) - 1, min(_MOST_RECORDS, len(records))).round().astype(int))
    # A clip counts once per record: whether two records have the same clip depends on how it is stored.
    refs = [augmenter(ref, 0) for place in places for ref in records[int(place)].audio]
    found = list(_tokens(model.encoder, refs, clips))
    if not found:
        return
    tokens = torch.cat(found).double()  # (n, D)
    mean = tokens.mean(dim=0)
    size, deviation = float(mean.norm()), float((tokens - mean).square().sum(dim=1).mean().sqrt())
    if wanted or size > _LARGEST_SHARE * deviation:
        model.centre_projector(mean.float())
        processor.feature_extractor.projector = model.config.projector
        say(
            f"{settings.stage}: the mean of the encoder's tokens (norm {size:.3g}; tokens deviate from it by "
            f"{deviation:.3g}) is subtracted before the projector (projector_options.centred)"
        )


@torch.no_grad()
def _tokens(encoder: AudioEncoder, refs: Sequence[AudioRef], clips: ClipWaveforms) -> list[Tensor]:
    """The tokens (n_i, D) of some clips, on the CPU; training names the clips that cannot be used."""
    if isinstance(clips, ClipFeatures):
        return [clips.features[ref].values.float() for ref in refs if ref not in clips.bad]
    device = pick_device()
    modes = {module: module.training for module in encoder.modules()}
    encoder.to(device).eval()
    found: list[Tensor] = []
    for start in range(0, len(refs), _CLIPS_AT_ONCE):
        waveforms = []
        for ref in refs[start : start + _CLIPS_AT_ONCE]:
            try:
                waveform = clips.waveform(ref)
                encoder.config.n_time_for(len(waveform))
            except AudioError:
                continue
            waveforms.append(waveform)
        if waveforms:
            padded, lengths = pad_batch(waveforms)
            out = encoder(padded.to(device), lengths)
            found += [row[kept].float().cpu() for row, kept in zip(out.tokens, out.mask, strict=True)]
    for module, mode in modes.items():
        module.training = mode
    return found
