"""Augmentation of the log-mel of an AudioMosaic encoder, as a function of (seed, epoch, clip).

Axis letters: B batch, n windows, T frames, M mels, K visible tokens.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alm.common.seeds import seed_from
from encoders import AudioMosaicEncoder
from train.pretrain.masks.base import generator_noise, visible_bands, visible_columns
from train.settings.finetune import AugmentSettings

_NOISE_LEVEL = 0.1  # `rand * rand / 10` on the normalised log-mel, in AST's and the official data loaders
_NOISE_SHIFT_FRAMES = 10


def augmentation_key(seed: int, epoch: int, name: str, occurrence: int) -> int:
    """Hash what a clip's random numbers in one epoch depend on, to a number below 2^62."""
    return seed_from(f"{seed}:{epoch}:{name}:{occurrence}") >> 2


def augmented_clip_features(
    encoder: AudioMosaicEncoder,
    waveforms: Tensor,
    lengths: Tensor,
    clip_keys: Tensor,
    augment: AugmentSettings,
) -> Tensor:
    """Compute clip features of augmented log-mels, with some patches dropped.

    Masked stretches become 0 before normalisation, as padding is (the official recipe); noise is added after it.

    Args:
        encoder: Any AudioMosaic.
        waveforms: (B, S) float32.
        lengths: (B,) samples.
        clip_keys: (B,) long.
        augment: The augmentation.

    Returns:
        (B, D').
    """
    windows, frames = encoder.log_mel_windows(waveforms, lengths)
    clip, number = frames.nonzero(as_tuple=True)
    keys = (clip_keys.to(clip.device)[clip] + number).tolist()
    mel = windows[frames > 0]  # (n, T, M)
    if augment.spec_freq or augment.spec_time:
        visible = torch.stack([_visible(key, mel.shape[1], mel.shape[2], augment) for key in keys])
        mel = mel * visible.to(mel)
    mel = encoder.normalise(mel)
    if augment.noise:
        mel = torch.stack([_noisy(row, key) for row, key in zip(mel, keys, strict=True)])
    keep = None
    if augment.mask_time or augment.mask_freq:
        rows = [_kept(key, encoder.config.grid, augment) for key in keys]
        keep = torch.stack(rows).to(mel.device)  # (n, K)
    return encoder.pool_windows(encoder.forward_mel(mel, keep), frames)


def _visible(key: int, n_frames: int, n_mels: int, augment: AugmentSettings) -> Tensor:
    """Draw a SpecAugment mask on the CPU: (T, M), 0 where the log-mel is masked, else 1."""
    generator = torch.Generator().manual_seed(key)
    bands = _stretch(augment.spec_freq, n_mels, generator)
    frames = _stretch(augment.spec_time, n_frames, generator)
    return (~(frames[:, None] | bands[None])).float()


def _stretch(longest: int, size: int, generator: torch.Generator) -> Tensor:
    """Draw a masked stretch as torchaudio's FrequencyMasking and TimeMasking do: (size,) bool, True inside of it."""
    if longest < 1:
        return torch.zeros(size, dtype=torch.bool)
    width = torch.rand(1, generator=generator) * longest
    start = (torch.rand(1, generator=generator) * (size - width)).long()
    places = torch.arange(size)
    return (places >= start) & (places < start + width.long())


def _noisy(mel: Tensor, key: int) -> Tensor:
    """Add uniform noise of random strength and shift by a few frames: (T, M) -> (T, M)."""
    rng = np.random.default_rng(key)
    strength = rng.random() * _NOISE_LEVEL
    noise = torch.from_numpy(rng.random(tuple(mel.shape), dtype=np.float32)).to(mel) * strength
    return (mel + noise).roll(int(rng.integers(-_NOISE_SHIFT_FRAMES, _NOISE_SHIFT_FRAMES)), dims=0)


def _kept(key: int, grid: tuple[int, int], augment: AugmentSettings) -> Tensor:
    """Draw the visible tokens (K,): those in visible time columns and visible frequency bands."""
    noise = generator_noise(1, torch.Generator().manual_seed(key))
    columns = visible_columns(noise, grid, augment.mask_time)[0]
    bands = visible_bands(noise, grid, augment.mask_freq)[0]
    return columns[torch.isin(columns, bands)]
