"""Subtract the vector that all tokens of an encoder share, before a new projector gets them.

Encoders can add a large constant to every token: a constant does not change the loss of contrastive pretraining, so it
grows without limit. LayerNorm normalises each token as a whole, so the differences between tokens become very small,
and the model learns to use the audio slowly or not at all. In a fusion, the shared vector dominates its encoder's part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from alm.common.errors import AudioError
from alm.data.records import AudioRef, Record
from alm.model import AudioLanguageModel
from alm.processor import AudioLanguageProcessor
from encoders import AudioEncoder
from encoders.audio import pad_batch
from encoders.devices import pick_device
from train.data.augmented_clips import ClipAugmenter
from train.processes import say
from train.settings import TrainSettings
from train.tune.conversations import ClipFeatures, ClipWaveforms

_MOST_RECORDS, _CLIPS_AT_ONCE = 64, 8
# Where the part that all tokens share is so many times larger than their deviation from it, it is subtracted.
_LARGEST_SHARE = 2.0
_LEAST_DEVIATION = 1e-6  # as a share of the mean: less is rounding


def centre_tokens(
    settings: TrainSettings,
    model: AudioLanguageModel,
    processor: AudioLanguageProcessor,
    records: Sequence[Record],
    clips: ClipWaveforms,
    augmenter: ClipAugmenter,
) -> None:
    """Let a new projector subtract the mean of the encoder's tokens on training clips, if this mean dominates them.

    Each encoder of a fusion is measured separately. If a mean is subtracted, the encoders' parts are also scaled to
    equal deviation. `projector_options.centred` and `projector_options.scaled` override both decisions.

    Args:
        settings: Config of a stage that builds a new projector.
        model: Its model.
        processor: The model's processor, which knows the projector's config.
        records: The training records.
        clips: Where clips or their cached tokens come from.
        augmenter: Augments the training clips.
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
    dims = model.encoder.config.part_dims
    sizes = [float(part.norm()) for part in mean.split(dims)]
    deviations = [
        float(part.square().sum(dim=1).mean().sqrt()) for part in (tokens - mean).split(dims, dim=1)
    ]
    pairs = list(zip(sizes, deviations, strict=True))
    if not wanted and all(size <= _LARGEST_SHARE * deviation for size, deviation in pairs):
        return
    scale = None
    if settings.projector_options.get("scaled", len(dims) > 1):
        # An encoder that gives the same for every clip has nothing to be made as loud as the others.
        parts = [
            torch.full((dim,), dim**0.5 / deviation if deviation > _LEAST_DEVIATION * size else 1.0)
            for dim, (size, deviation) in zip(dims, pairs, strict=True)
        ]
        scale = torch.cat(parts)
    model.centre_projector(mean.float(), scale)
    processor.feature_extractor.projector = model.config.projector
    found_out = "; ".join(
        f"norm {size:.3g}, tokens deviate from it by {deviation:.3g}" for size, deviation in pairs
    )
    say(
        f"{settings.stage}: the mean of the encoder's tokens ({found_out}) is subtracted before the projector "
        "(projector_options.centred)"
        + ("" if scale is None else ", and its parts are scaled to equal deviation")
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
