"""What training does to the log-mel of an AudioMosaic encoder; a function of (seed, epoch, clip).

Axis letters: B batch, n windows, T frames, M mels, K kept tokens.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from alm.common.seeds import seed_from
from encoders import AudioMosaicEncoder
from train.finetune.settings import AugmentSettings
from train.pretrain.masks.base import generator_noise, visible_bands, visible_columns

_NOISE_LEVEL = 0.1  # `rand * rand / 10` on the normalised log-mel, in AST's and the official data loaders
_NOISE_SHIFT_FRAMES = 10


def clip_key(seed: int, epoch: int, name: str, occurrence: int) -> int:
    """A number below 2^62 that a clip's randomness in one epoch follows from."""
    return seed_from(f"{seed}:{epoch}:{name}:{occurrence}") >> 2


def augmented_clip_features(
    encoder: AudioMosaicEncoder,
    waveforms: Tensor,
    lengths: Tensor,
    clip_keys: Tensor,
    augment: AugmentSettings,
) -> Tensor:
    """Clip features of augmented log-mels with patches left out.

    Hidden stretches become 0 before normalisation, as padding is (the official recipe); noise comes after it.

    Args:
        encoder: Any AudioMosaic.
        waveforms: (B, S) float32.
        lengths: (B,) samples.
        clip_keys: (B,) long.
        augment: What to do.

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
    """Zeros where SpecAugment hides the log-mel, ones elsewhere: (T, M), drawn on the CPU."""
    frequency, time = _masking(augment.spec_freq, augment.spec_time)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)  # torch.manual_seed would set the device's generator too
        return time(frequency(torch.ones(1, n_mels, n_frames)))[0].T


@functools.cache
def _masking(width: int, length: int) -> tuple[torch.nn.Module, torch.nn.Module]:
    from torchaudio.transforms import FrequencyMasking, TimeMasking

    return FrequencyMasking(width), TimeMasking(length)


def _noisy(mel: Tensor, key: int) -> Tensor:
    """Uniform noise of random strength, and a small circular shift in time: (T, M) -> (T, M)."""
    rng = np.random.default_rng(key)
    strength = rng.random() * _NOISE_LEVEL
    noise = torch.from_numpy(rng.random(tuple(mel.shape), dtype=np.float32)).to(mel) * strength
    return (mel + noise).roll(int(rng.integers(-_NOISE_SHIFT_FRAMES, _NOISE_SHIFT_FRAMES)), dims=0)


def _kept(key: int, grid: tuple[int, int], augment: AugmentSettings) -> Tensor:
    """Tokens (K,) in the time columns and frequency bands that are both kept."""
    noise = generator_noise(1, torch.Generator().manual_seed(key))
    columns = visible_columns(noise, grid, augment.mask_time)[0]
    bands = visible_bands(noise, grid, augment.mask_freq)[0]
    return columns[torch.isin(columns, bands)]
