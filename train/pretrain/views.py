"""Two augmented views of every clip, made in batches on whatever device holds the waveforms (`augment: fast`).

The official loader augments waveforms, which takes 140 ms of CPU per clip. Here one filter bank pass serves both views,
and the augmentations act on its log-mel, which takes a few milliseconds per clip. The augmentations on a log-mel:

- circular roll: roll of the clip's own frames; gain: a constant added; polarity inversion: nothing (a power spectrum
  has no sign), so no random number is drawn for it;
- Gaussian noise at a signal-to-noise ratio: powers add, with the log-mel of real white noise. The cross terms are
  ignored: where clip and noise are about equally strong, the sum fluctuates a little less than a real one;
- high-pass and band-stop: their power response at each mel's centre, added;
- time stretch and pitch shift: bilinear warps of the time and of the frequency axis.

Three more augmentations are off by default. They are not in the published recipe, but short runs on short clips need
them (see `ViewConfig`): `crop` instead of the roll, an equaliser, and other clips in the background.

Random numbers are keyed by clip: a function of (seed, epoch, clip id, view) alone, so that batch size, worker and
resuming do not change them. The choice of the background clips is a function of the data. Axis letters: B batch, S
samples, T frames, M mels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from encoders.mel import LOG_FLOOR, KaldiFbank, hz_to_mel
from train.data.clip_random import ClipKeys, ClipRandom, key_list, uniform
from train.settings.pretrain import ViewConfig

# White noise that excerpts are taken from, long enough that two excerpts of 10 s hardly ever overlap.
_NOISE_BANK_S = 120
_NOISE_SEED = 20260514


@torch.no_grad()
def make_views(
    mel: Tensor,
    n_frames: Tensor,
    keys: ClipKeys,
    fbank: KaldiFbank,
    config: ViewConfig,
    *,
    seed: int = 0,
    epoch: int = 0,
    background: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Make two views of every clip, as log-mels that are not normalised yet.

    Args:
        mel: (B, T, M) log-mel, a front end's output.
        n_frames: (B,) valid frames.
        keys: B clip ids, integers or strings.
        fbank: The encoder's front end.
        config: The augmentation.
        seed: Seed of the run.
        epoch: Which pass over the data.
        background: Tape (frames, M) of `background_tape`, on the mel's device; needed if `background_p` is not 0.

    Returns:
        mel0, mel1, each (B, config.n_frames, M) float32; ready for `encoder.normalise`.
    """
    if len(keys) != len(mel):
        raise ValueError(f"{len(keys)} keys for {len(mel)} clips")
    if config.augment == "waveform":
        raise ValueError(
            "augment is 'waveform': the loader makes the views (train.pretrain.augment_waveform)"
        )
    if config.augment == "none":
        view = fit_frames(mel, config.n_frames)
        return view, view.clone()
    if config.background_p and background is None:
        raise ValueError("views.background_p needs a background (background_tape)")
    listed = key_list(keys)  # once: a tensor of keys may lie on a device
    # The warps are matrix products, which autocast would compute in bf16.
    with torch.autocast(mel.device.type, enabled=False):
        first, second = (
            _augment(
                mel,
                n_frames.cpu(),
                ClipRandom(uniform(f"{seed}/{epoch}/{view}", listed, N_DRAWS)),
                fbank,
                config,
                background,
            )
            for view in (0, 1)
        )
    return first, second


def fit_frames(mel: Tensor, n_frames: int) -> Tensor:
    """Cut or zero-pad a log-mel (B, T, M) to (B, n_frames, M)."""
    return functional.pad(mel, (0, 0, 0, n_frames - mel.shape[1]))


def _augment(
    mel: Tensor,
    n_frames: Tensor,
    draws: ClipRandom,
    fbank: KaldiFbank,
    config: ViewConfig,
    background: Tensor | None,
) -> Tensor:
    """Make one view of a batch (B, T, M) -> (B, config.n_frames, M).

    All random decisions are made on the CPU. So every augmentation is computed for its clips alone, and no device waits
    for the host.
    """
    device = mel.device
    speed = torch.where(draws.bernoulli(config.time_stretch_p), draws.between(*config.time_stretch), 1.0)
    at = draws.unit()
    if config.crop:
        view, real, ended = _crop_and_stretch(mel, n_frames, at, speed, config.n_frames)
    else:
        view = _roll_and_stretch(mel, n_frames, (at * n_frames).floor() * config.roll, speed, config.n_frames)
        real = _real_frames(n_frames, config.n_frames)
        ended = ~real
    gain = draws.roll_gain(config.roll_gain_beta)  # (B,) natural log of the power gain
    noisy, snr_db, start = draws.bernoulli(config.noise_p), draws.between(*config.noise_snr_db), draws.unit()
    if len(rows := noisy.nonzero()[:, 0]):
        bank, _ = _noise_bank(fbank.sample_rate, fbank.n_mels, fbank.frame_shift_ms, device)
        view[rows] = _add_noise(view[rows], real[rows].to(device), snr_db[rows], start[rows], bank, fbank)
    gain += (
        torch.where(draws.bernoulli(config.gain_p), draws.between(*config.gain_db), 0.0) * math.log(10) / 10
    )
    gains = gain[:, None] + _filter_gains(draws, fbank, config)
    if config.equaliser_db:
        gains += _equaliser_gains(draws, fbank.n_mels, config.equaliser_db)
    view += gains.to(device)[:, None]
    view.clamp_(min=LOG_FLOOR)  # or the pitch warp would smear a notch's depth over its neighbours
    pitched, semitones = draws.bernoulli(config.pitch_p), draws.between(*config.pitch_semitones)
    if len(rows := pitched.nonzero()[:, 0]):
        view[rows] = _shift_pitch(view[rows], semitones[rows], fbank)
    mixed, snr_db, start = (
        draws.bernoulli(config.background_p),
        draws.between(*config.background_snr_db),
        draws.unit(),
    )
    if background is not None and len(rows := mixed.nonzero()[:, 0]):
        view[rows] = _add_noise(
            view[rows], real[rows].to(device), snr_db[rows], start[rows], background, fbank
        )
    return _fill_frames(view, ended, 0.0)


# Random numbers per view; drawing more raises an error.
N_DRAWS = 24


def _real_frames(n_frames: Tensor, n_out: int) -> Tensor:
    """Mark each clip's own frames: (B, n_out) bool."""
    return torch.arange(n_out)[None] < n_frames[:, None]


def _fill_frames(view: Tensor, where: Tensor, value: float) -> Tensor:
    """Set some frames of a view (B, T, M) to a value; `where` (B, T) bool is on the CPU and mostly False."""
    clip, frame = where.nonzero(as_tuple=True)
    view[clip.to(view.device), frame.to(view.device)] = value
    return view


def _roll_and_stretch(mel: Tensor, n_frames: Tensor, shift: Tensor, speed: Tensor, n_out: int) -> Tensor:
    """Read each clip's frames at `speed`, starting at `shift` and wrapping around; silence follows its last frame."""
    place = torch.arange(n_out)[None] * speed[:, None]  # (B, n_out) in the rolled clip
    last = (n_frames - 1)[:, None]
    every = mel.flatten(0, 1)  # (B * T, M): whole rows are copied fastest

    def frames(rows: Tensor, at: Tensor) -> Tensor:
        index = (at.long().minimum(last[rows]) + shift[rows, None].long()) % n_frames[rows, None]
        index += rows[:, None] * mel.shape[1]
        picked = every.index_select(0, index.flatten().to(mel.device))
        rows_of_mel: Tensor = picked.unflatten(0, index.shape)  # (rows, n_out, M)
        return rows_of_mel

    below = place.floor()
    out = frames(torch.arange(len(mel)), below)
    if len(rows := (speed != 1).nonzero()[:, 0]):
        weight = (place - below)[rows, :, None].to(mel.device)
        out[rows] = torch.lerp(out[rows], frames(rows, below[rows] + 1), weight)
    return _fill_frames(out, place > last, LOG_FLOOR)


def _crop_and_stretch(
    mel: Tensor, n_frames: Tensor, at: Tensor, speed: Tensor, n_out: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Read each clip at `speed` and place it in (or crop it to) `n_out` frames, at the relative position `at`.

    Returns:
        The view (B, n_out, M), silent before the clip; two masks (B, n_out) bool: the clip's own frames, and the frames
        after its end.
    """
    free = n_out - n_frames / speed  # below 0: frames to cut
    place = (torch.arange(n_out)[None] - (at * free)[:, None]) * speed[:, None]  # (B, n_out) in the clip
    last = (n_frames - 1)[:, None]
    before, ended = place < 0, place > last
    place = place.clamp(min=0).minimum(last)
    below = place.long()
    clip = torch.arange(len(mel))[:, None].to(mel.device)
    first, second = (mel[clip, frame.to(mel.device)] for frame in (below, (below + 1).minimum(last)))
    view = torch.lerp(first, second, (place - below)[:, :, None].to(first))
    return _fill_frames(view, before, LOG_FLOOR), ~(before | ended), ended


def _add_noise(
    view: Tensor, real: Tensor, snr_db: Tensor, start: Tensor, bank: Tensor, fbank: KaldiFbank
) -> Tensor:
    """Add an excerpt of a bank (frames, M) of unit power at a ratio to the view's own mean power.

    The view's mean power is estimated from its mels: each is divided by the mel of white noise, which cancels
    pre-emphasis and the triangles' areas, and weighted by its bandwidth.
    """
    _, white = _noise_bank(fbank.sample_rate, fbank.n_mels, fbank.frame_shift_ms, view.device)
    power = view.exp()
    edges = fbank.edges_hz().to(view.device)
    # The lowest triangles may contain no FFT bin.
    band = (edges[2:] - edges[:-2]) * (white > 10 * math.exp(LOG_FLOOR))
    mean = ((power @ (band / band.sum() / white)) * real).sum(dim=1) / real.sum(dim=1).clamp(min=1)  # (B,)
    level = mean * 10 ** (-snr_db.to(view.device) / 10)
    first = (start * (len(bank) - view.shape[1])).long()
    excerpt = (first[:, None] + torch.arange(view.shape[1])).flatten().to(view.device)  # (B * T,)
    noise = bank.index_select(0, excerpt).view_as(power)
    return power.addcmul_(noise, level[:, None, None]).log_()


def background_tape(clips: Iterable[Tensor], fbank: KaldiFbank, n_frames: int) -> Tensor:
    """Concatenate clips, each scaled to unit power, as a source of background excerpts.

    Args:
        clips: At least one waveform (S,) float32 at the front end's rate, on the CPU, none of them silent.
        fbank: The encoder's front end.
        n_frames: Frames of a view; a shorter tape is repeated until it is longer than a view.

    Returns:
        Mel powers (frames, M) float32 on the CPU.
    """
    parts = []
    for clip in clips:
        level = clip.double().square().mean().sqrt()
        mel, _ = fbank((clip / level).float()[None], torch.tensor([len(clip)]))
        parts.append(mel[0].exp())
    tape = torch.cat(parts)
    return tape.repeat(n_frames // len(tape) + 1, 1)


@lru_cache(maxsize=4)
def _noise_bank(
    sample_rate: int, n_mels: int, frame_shift_ms: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Compute mel powers (frames, M) of white noise of unit power, and their mean (M,)."""
    generator = torch.Generator().manual_seed(_NOISE_SEED)
    noise = torch.randn(1, _NOISE_BANK_S * sample_rate, generator=generator)
    mel, _ = KaldiFbank(sample_rate, n_mels, frame_shift_ms)(noise, torch.tensor([noise.shape[1]]))
    bank = mel[0].exp().to(device)
    return bank, bank.mean(dim=0)


def _filter_gains(draws: ClipRandom, fbank: KaldiFbank, config: ViewConfig) -> Tensor:
    """Compute natural-log power gains (B, M) of high-pass and band-stop at the mels' centres.

    Both are Butterworth magnitude responses, 6 dB per octave and order.
    """
    hz = fbank.edges_hz()[1:-1][None]  # (1, M)
    low, high = (round(db / 6) for db in config.rolloff_db)

    def order() -> Tensor:
        return (low + (draws.unit() * (high - low + 1)).floor())[:, None]

    used, cutoff, steep = (
        draws.bernoulli(config.high_pass_p),
        draws.between_hz(*config.high_pass_hz)[:, None],
        order(),
    )
    # softplus(x) is log(1 + e^x) without the power itself, which overflows where a filter is deepest
    high_pass = -functional.softplus(2 * steep * (cutoff / hz).log())
    gains = high_pass * used[:, None]
    used, centre = draws.bernoulli(config.band_stop_p), draws.between_hz(*config.band_stop_hz)[:, None]
    width, steep = centre * draws.between(*config.band_stop_width)[:, None], order()
    lower, upper = (centre - width / 2).clamp(min=1.0), centre + width / 2
    distance = (hz.square() - lower * upper).abs().clamp(min=1e-3) / (hz * (upper - lower))  # 1 at both edges
    # A band-stop of order n falls off n * 6 dB per octave on either side of the edge (two poles each).
    band_stop = -functional.softplus(-2 * steep * distance.log())
    return gains + band_stop * used[:, None]


# Half waves of the equaliser over the mel axis: with three, its hills and dips are half an octave wide or more.
_EQUALISER_WAVES = 3


def _equaliser_gains(draws: ClipRandom, n_mels: int, deviation_db: float) -> Tensor:
    """Compute natural-log power gains (B, M): a random sum of half waves, weaker the shorter they are."""
    waves = torch.arange(1, _EQUALISER_WAVES + 1)
    shapes = torch.cos(torch.linspace(0, math.pi, n_mels) * waves[:, None]) / waves[:, None]  # (waves, M)
    shapes *= deviation_db * math.log(10) / 10 / shapes.square().sum(dim=0).mean().sqrt()
    sizes = torch.stack([draws.normal() for _ in waves], dim=1)  # (B, waves)
    return sizes.to(shapes) @ shapes


def _shift_pitch(view: Tensor, semitones: Tensor, fbank: KaldiFbank) -> Tensor:
    """Shift the spectrum by semitones: every mel reads the value at its frequency divided by the ratio."""
    hz = fbank.edges_hz()[1:-1]
    mels = hz_to_mel(hz)  # (M,) evenly spaced
    source = hz_to_mel(hz[None] / torch.exp2(semitones / 12)[:, None])  # (B, M)
    place = (source - mels[0]) / (mels[1] - mels[0])  # in mels
    above = place > fbank.n_mels - 1  # nothing lies above Nyquist
    place = place.clamp(0, fbank.n_mels - 1)
    weights = (1 - (place[:, None] - torch.arange(fbank.n_mels)[:, None]).abs()).clamp(min=0)  # (B, from, to)
    weights.masked_fill_(above[:, None], 0.0)
    floor = torch.where(above, LOG_FLOOR, 0.0)[:, None]  # (B, 1, M)
    return torch.baddbmm(floor.to(view.device), view, weights.to(view.device))
