"""Views do on the log-mel what the official augmentations do on the waveform, from stateless randomness."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
import pytest
import torch
from scipy import signal
from torch import Tensor

from alm.common.errors import ConfigError
from encoders.mel import LOG_FLOOR, KaldiFbank
from train.data.clip_random import ClipRandom, uniform
from train.pretrain import views
from train.pretrain.views import background_tape
from train.settings.pretrain import ViewConfig

RATE = 16000
FBANK = KaldiFbank()
OFF = ViewConfig(
    n_frames=198, roll=False, roll_gain_beta=0, time_stretch_p=0, noise_p=0, gain_p=0, high_pass_p=0,
    band_stop_p=0, pitch_p=0,
)  # fmt: skip


def only(**options: object) -> ViewConfig:
    return dataclasses.replace(OFF, **options)  # type: ignore[arg-type]


def make_views(
    waves: Tensor, lengths: Tensor, keys: Sequence, fbank: KaldiFbank, config: ViewConfig, **options: object
) -> tuple[Tensor, Tensor]:
    return views.make_views(*fbank(waves, lengths), keys, fbank, config, **options)  # type: ignore[arg-type]


def coloured(seconds: float = 2.0, seed: int = 0) -> np.ndarray:
    """Noise whose level changes over time and falls with frequency."""
    n = round(RATE * seconds)
    white = np.random.default_rng(seed).standard_normal(n)
    pink = signal.lfilter([0.05], [1, -0.95], white)
    return (pink * (0.3 + 0.2 * np.sin(np.linspace(0, 9, n)))).astype(np.float32)


def mel_of(samples: np.ndarray) -> Tensor:
    wave = torch.from_numpy(samples.astype(np.float32))[None]
    return FBANK(wave, torch.tensor([wave.shape[1]]))[0][0]


def view_of(samples: np.ndarray, config: ViewConfig, key: int = 0) -> Tensor:
    wave = torch.from_numpy(samples.astype(np.float32))[None]
    return make_views(wave, torch.tensor([wave.shape[1]]), [key], FBANK, config)[0][0]


def batch() -> tuple[Tensor, Tensor, list[str]]:
    waves = torch.stack([torch.from_numpy(coloured(2.0, seed)) for seed in range(5)])
    return waves, torch.tensor([32000, 16000, 31999, 400, 20000]), ["a", "b", "c", "d", "e"]


def test_autocast_changes_nothing() -> None:
    waves, lengths, keys = batch()
    config = ViewConfig(n_frames=150, pitch_p=1.0, noise_p=1.0)
    expected = make_views(waves, lengths, keys, FBANK, config)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = make_views(waves, lengths, keys, FBANK, config)
    for view, wanted in zip(found, expected, strict=True):
        assert view.dtype == torch.float32 and torch.equal(view, wanted)


@pytest.mark.parametrize("extra", [{}, {"crop": True, "equaliser_db": 3.0, "background_p": 0.7}])
def test_randomness_belongs_to_the_clip(extra: dict) -> None:
    waves, lengths, keys = batch()
    config = ViewConfig(n_frames=150, **extra)
    views_of = partial(make_views, background=background_tape(waves[:2], FBANK, 150))
    together = views_of(waves, lengths, keys, FBANK, config, seed=1, epoch=2)
    order = [3, 0, 4]
    some = views_of(waves[order], lengths[order], [keys[i] for i in order], FBANK, config, seed=1, epoch=2)
    for whole, part in zip(together, some, strict=True):
        assert torch.allclose(whole[order], part, atol=1e-4)
    again = views_of(waves, lengths, keys, FBANK, config, seed=1, epoch=2)
    assert torch.equal(together[0], again[0]) and torch.equal(together[1], again[1])
    assert not torch.allclose(together[0], together[1])
    for other in ({"seed": 2, "epoch": 2}, {"seed": 1, "epoch": 3}):
        assert not torch.allclose(together[0], views_of(waves, lengths, keys, FBANK, config, **other)[0])
    renamed = views_of(waves, lengths, torch.arange(5), FBANK, config, seed=1, epoch=2)
    assert not torch.allclose(together[0], renamed[0])


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    make_views(*batch(), FBANK, ViewConfig())
    assert torch.equal(torch.rand(2), expected)


def test_frames_are_cut_and_padded() -> None:
    waves, lengths, keys = batch()
    mel, n_frames = FBANK(waves, lengths)
    every = ViewConfig(
        n_frames=120, time_stretch_p=1, noise_p=1, gain_p=1, high_pass_p=1, band_stop_p=1, pitch_p=1
    )
    for config in (every, only(n_frames=120), ViewConfig(n_frames=120, augment="none")):
        for view in make_views(waves, lengths, keys, FBANK, config):
            assert view.shape == (5, 120, 128) and view.isfinite().all()
            for row, n in enumerate(n_frames.tolist()):
                assert (view[row, n:] == 0).all() and (view[row, : min(n, 120)] != 0).any()
    untouched, _ = make_views(waves, lengths, keys, FBANK, only(n_frames=120))
    for row, n in enumerate(n_frames.tolist()):
        assert torch.equal(untouched[row, :n], mel[row, : min(n, 120)])
    kept = views.make_views(mel, n_frames, keys, FBANK, every)
    assert torch.equal(kept[0], make_views(waves, lengths, keys, FBANK, every)[0])


def test_roll_is_a_roll() -> None:
    samples = coloured()
    mel, view = mel_of(samples), view_of(samples, only(roll=True))
    shifts = [s for s in range(198) if torch.equal(mel.roll(-s, dims=0), view)]
    assert len(shifts) == 1
    rolled = mel_of(np.roll(samples, -160 * shifts[0]))
    before_seam = (
        198 - shifts[0]
    )  # behind it the waveform's roll is off by the part of a frame that was left over
    assert (rolled - view)[:before_seam].abs().max() < 1e-3
    assert len({view_of(samples, only(roll=True), key)[0, 0].item() for key in range(20)}) > 15


def test_gain_is_a_gain() -> None:
    samples = coloured()
    view = view_of(samples, only(gain_p=1, gain_db=(-6.0, -6.0)))
    assert (view - mel_of(samples * 10 ** (-6 / 20))).abs().max() < 1e-3
    amplitudes = [
        ((view_of(samples, only(roll_gain_beta=10.0), key) - mel_of(samples)).mean() / 2).exp().item()
        for key in range(60)
    ]
    assert 0.5 < min(amplitudes) and max(amplitudes) < 1.5 and abs(np.mean(amplitudes) - 1) < 0.06
    assert 0.06 < np.std(amplitudes) < 0.16  # Beta(10, 10): 0.109


@pytest.mark.parametrize("snr_db", [5.0, 20.0])
def test_noise_has_its_ratio(snr_db: float) -> None:
    samples = signal.lfilter([1, 0.5], [1], np.random.default_rng(3).standard_normal(32000)) * 0.1
    view = view_of(samples, only(noise_p=1, noise_snr_db=(snr_db, snr_db)))
    sigma = np.sqrt(np.mean(samples**2)) / 10 ** (snr_db / 20)
    wanted = mel_of(samples + sigma * np.random.default_rng(4).standard_normal(len(samples)))
    spectrum, wanted_spectrum = view.exp().mean(dim=0).log(), wanted.exp().mean(dim=0).log()
    assert (spectrum - wanted_spectrum).abs().mean() < 0.15  # 0.65 dB
    assert (view.std(dim=0) / wanted.std(dim=0)).nanmedian() == pytest.approx(1, abs=0.3)  # no cross terms


def test_filters_follow_butterworth() -> None:
    white = np.random.default_rng(5).standard_normal(64000) * 0.1
    config = only(n_frames=398, high_pass_p=1, high_pass_hz=(1000.0, 1000.0), rolloff_db=(12.0, 12.0))
    wanted = mel_of(signal.sosfilt(signal.butter(2, 1000, "highpass", fs=RATE, output="sos"), white))
    difference = (view_of(white, config) - wanted).mean(dim=0)
    assert difference[30:].abs().mean() < 0.1 and difference[30:].abs().max() < 0.4
    config = only(
        n_frames=398,
        band_stop_p=1,
        band_stop_hz=(2000.0, 2000.0),
        band_stop_width=(1.0, 1.0),
        rolloff_db=(12.0, 12.0),
    )
    wanted = mel_of(signal.sosfilt(signal.butter(2, [1000, 3000], "bandstop", fs=RATE, output="sos"), white))
    difference = (view_of(white, config) - wanted).mean(dim=0)
    assert difference.abs().mean() < 0.25 and difference.abs().median() < 0.1


def clicks(seconds: list[float]) -> np.ndarray:
    samples = 1e-3 * np.random.default_rng(6).standard_normal(2 * RATE)
    for at in seconds:
        samples[round(at * RATE) : round(at * RATE) + 400] += 0.5 * np.random.default_rng(7).standard_normal(
            400
        )
    return samples


@pytest.mark.parametrize("speed", [0.7, 1.3])
def test_stretch_moves_events(speed: float) -> None:
    view = view_of(clicks([0.3, 0.9]), only(time_stretch_p=1, time_stretch=(speed, speed)))
    loudness = view.mean(dim=1).numpy()
    peaks, _ = signal.find_peaks(loudness, prominence=3)
    assert len(peaks) == 2
    assert np.abs(peaks - np.array([0.3, 0.9]) / speed * 100).max() <= 2
    if speed > 1:
        assert (view[round(198 / speed) + 1 :] == LOG_FLOOR).all()  # silence after the end


@pytest.mark.parametrize("semitones", [-4.0, 3.0])
def test_pitch_moves_tones(semitones: float) -> None:
    seconds = np.arange(2 * RATE) / RATE
    view = view_of(
        0.3 * np.sin(2 * np.pi * 900 * seconds), only(pitch_p=1, pitch_semitones=(semitones, semitones))
    )
    wanted = mel_of(0.3 * np.sin(2 * np.pi * 900 * 2 ** (semitones / 12) * seconds))
    assert (view.mean(dim=0).argmax() - wanted.mean(dim=0).argmax()).abs() <= 1


def test_probabilities_hold() -> None:
    samples, config = coloured(), only(gain_p=0.3, gain_db=(-9.0, -3.0))
    mel = mel_of(samples)
    changed = [not torch.equal(view_of(samples, config, key), mel) for key in range(200)]
    assert 0.2 < np.mean(changed) < 0.4


def test_bad_arguments() -> None:
    with pytest.raises(ConfigError, match="expected 'fast', 'waveform' or 'none'"):
        ViewConfig(augment="slow")
    waves, lengths, keys = batch()
    with pytest.raises(ValueError, match="4 keys for 5 clips"):
        make_views(waves, lengths, keys[:4], FBANK, ViewConfig())


def test_a_band_stop_centred_on_a_mel_stays_finite():
    """The response of a steep filter underflows at its centre; that must not become an infinity."""
    fbank = KaldiFbank()
    middle = float(fbank.edges_hz()[61])
    centre = middle / (1 - 0.25**2) ** 0.5  # a band half its centre wide is deepest where that gives `middle`
    config = ViewConfig(
        band_stop_p=1.0,
        band_stop_hz=(centre, centre),
        band_stop_width=(0.5, 0.5),
        rolloff_db=(60.0, 60.0),
        pitch_p=1.0,
        noise_p=0.0,
    )
    waveform = torch.randn(8, 16000) * 0.1
    for view in make_views(waveform, torch.full((8,), 16000), list(range(8)), fbank, config):
        assert torch.isfinite(view).all()


def test_a_crop_lays_short_clips_anywhere_and_stretches_their_length() -> None:
    samples = coloured(0.5)  # 48 frames
    mel, starts, ends = mel_of(samples), set(), set()
    for key in range(20):
        view = view_of(samples, only(crop=True, n_frames=120), key)
        start = int((view == LOG_FLOOR).all(dim=1).sum())
        own = view[start : start + 47]  # the clip lies between two frames, so that each is a mix of two
        assert (view[start + 48 :] == 0).all() and own.shape == (47, 128)
        assert bool((own <= torch.maximum(mel[:-1], mel[1:]) + 1e-4).all())
        assert bool((own >= torch.minimum(mel[:-1], mel[1:]) - 1e-4).all())
        starts.add(start)
    assert len(starts) > 10 and max(starts) <= 73
    for key in range(20):
        config = only(crop=True, n_frames=120, time_stretch_p=1.0, time_stretch=(0.5, 1.5))
        view = view_of(samples, config, key)
        ends.add(int(((view != 0).any(dim=1) & (view != LOG_FLOOR).any(dim=1)).sum()))
    assert min(ends) < 40 < 60 < max(ends)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_a_stretched_clip_in_a_crop_keeps_its_length_over_its_speed(speed: float) -> None:
    """From the first to the last of 48 frames: 59 or 38, wherever they are; silence is before them, nothing after."""
    starts = set()
    for key in range(20):
        config = only(crop=True, n_frames=120, time_stretch_p=1.0, time_stretch=(speed, speed))
        view = view_of(coloured(0.5), config, key)
        silent, ended = (view == LOG_FLOOR).all(dim=1), (view == 0).all(dim=1)
        own = (~silent & ~ended).nonzero()[:, 0]
        assert abs(len(own) - 47 / speed) <= 1 and int(own[-1] - own[0]) == len(own) - 1
        assert bool(silent[: own[0]].all()) and bool(ended[own[-1] + 1 :].all())
        starts.add(int(own[0]))
    assert min(starts) < 20 and 120 - 48 / speed - 20 < max(starts) <= 120 - 48 / speed + 1


def test_a_crop_cuts_long_clips_anywhere() -> None:
    samples = coloured()
    mel = mel_of(samples)
    views = [view_of(samples, only(crop=True, n_frames=60), key) for key in range(20)]
    assert all(view.shape == (60, 128) and bool((view != 0).all()) for view in views)
    nearest = [int((mel - view[30]).square().sum(dim=1).argmin()) for view in views]
    assert min(nearest) < 60 < 120 < max(nearest)


def test_other_clips_are_in_the_background_at_their_ratio() -> None:
    samples, others = coloured(), [torch.from_numpy(coloured(3.0, seed)) for seed in (7, 8)]
    tape = background_tape(others, FBANK, n_frames=198)
    assert tape.shape == (2 * 298, 128)
    louder = background_tape([other * 5 for other in others], FBANK, n_frames=198)
    torch.testing.assert_close(tape[50:100], louder[50:100], rtol=1e-3, atol=1e-3)
    wave = torch.from_numpy(samples)[None].expand(40, -1)
    lengths, keys = torch.full((40,), len(samples)), list(range(40))
    power = mel_of(samples).exp()

    def added(snr_db: float) -> Tensor:
        config = only(background_p=1.0, background_snr_db=(snr_db, snr_db))
        view, _ = make_views(wave, lengths, keys, FBANK, config, background=tape)
        return view.exp() - power

    here = added(0.0)
    ratios = 10 * torch.log10(power[:, 20:].mean() / here[..., 20:].mean(dim=(1, 2)))
    assert abs(float(ratios.median())) < 2.0  # excerpts are softer and louder than the clips they are of
    torch.testing.assert_close(added(-10.0)[0], 10 * here[0], rtol=1e-2, atol=1e-3)
    excerpts = {int((here[row] / here[row].norm()).flatten().argmax()) for row in range(40)}
    assert len(excerpts) > 10
    found = (tape.unfold(0, 198, 1).transpose(1, 2).flatten(1) @ here[0].flatten()).argmax()
    shape = tape[found : found + 198]
    scale = here[0].sum() / shape.sum()
    torch.testing.assert_close(here[0], scale * shape, rtol=1e-2, atol=1e-2 * float(here[0].mean()))


def test_a_background_must_be_there_and_long_enough() -> None:
    waves, lengths, keys = batch()
    with pytest.raises(ValueError, match="background_tape"):
        make_views(waves, lengths, keys, FBANK, only(background_p=1.0))
    tape = background_tape([torch.from_numpy(coloured(0.3))], FBANK, n_frames=198)
    assert len(tape) > 198
    every = ViewConfig(n_frames=198, crop=True, equaliser_db=3.0, background_p=1.0)  # all there is to draw
    for view in make_views(waves, lengths, keys, FBANK, every, background=tape):
        assert view.isfinite().all()


def test_an_equaliser_is_smooth_and_as_strong_as_asked() -> None:
    samples = coloured()
    mel = mel_of(samples)
    heard = slice(16, None)  # below, some triangles hold no bin and lie at the floor
    gains = torch.stack([view_of(samples, only(equaliser_db=6.0), key) - mel for key in range(200)])[
        ..., heard
    ]
    assert gains.std(dim=1).median() < 1e-3  # the same in every frame
    db = gains.median(dim=1).values * 10 / np.log(10)
    assert abs(float(db.square().mean().sqrt()) - 6.0) < 1.2 and abs(float(db.mean())) < 1.0
    assert float(db.diff(dim=1).abs().max()) < 1.5


def test_short_hills_of_an_equaliser_are_weaker_than_long_ones() -> None:
    """Its gains are a sum of one, two and three half waves; the deviation of each falls with its number."""
    draws = ClipRandom(uniform("equaliser", list(range(4000)), 3))
    gains = views._equaliser_gains(draws, 64, 6.0) * 10 / np.log(10)  # (4000, 64) dB
    waves = torch.cos(torch.linspace(0, np.pi, 64) * torch.arange(1, 4)[:, None])  # (3, 64)
    sizes = torch.linalg.lstsq(waves.T, gains.T).solution  # (3, 4000)
    torch.testing.assert_close(sizes.T @ waves, gains, atol=1e-3, rtol=1e-3)
    deviations = sizes.std(dim=1)
    assert (deviations / deviations[0]).tolist() == pytest.approx([1, 1 / 2, 1 / 3], rel=0.05)
    assert float(gains.square().mean().sqrt()) == pytest.approx(6.0, rel=0.05)


def test_waveform_views_refuse_what_only_log_mels_do() -> None:
    for options in ({"crop": True}, {"equaliser_db": 3.0}, {"background_p": 0.5}):
        for augment in ("waveform", "none"):
            with pytest.raises(ConfigError, match="augment to 'fast'"):
                ViewConfig(augment=augment, **options)  # type: ignore[arg-type]
