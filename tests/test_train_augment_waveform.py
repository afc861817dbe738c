"""The published augmentations on the waveform: each does what it says, drawn for the clip alone."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from alm.data.records import AudioRef
from encoders.audio import save_wav
from train.data.clip_random import generator_of
from train.data.effects import phase_vocoder, shift_pitch, stretch_time
from train.finetune.augment import _visible
from train.pretrain.augment_waveform import WaveformViews, augment
from train.pretrain.clips import NamedClip
from train.settings.finetune import AugmentSettings
from train.settings.pretrain import ViewConfig

RATE = 16000
OFF = ViewConfig(
    roll=False, roll_gain_beta=0, polarity_p=0, time_stretch_p=0, noise_p=0, gain_p=0, high_pass_p=0,
    band_stop_p=0, pitch_p=0,
)  # fmt: skip


def tone(hz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hz * np.arange(round(RATE * seconds)) / RATE)).astype(np.float32)


def view_of(samples: np.ndarray, key: int = 0, **options: object) -> np.ndarray:
    config = dataclasses.replace(OFF, **options)  # type: ignore[arg-type]
    return augment(samples, RATE, config, generator_of("test", key))


def power_at(samples: np.ndarray, hz: float) -> float:
    """Mean power in dB within 3 % of a frequency."""
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    near = np.abs(np.fft.rfftfreq(len(samples), 1 / RATE) / hz - 1) < 0.03
    return float(10 * np.log10(spectrum[near].sum()))


def peak_hz(samples: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * RATE / len(samples))


def test_nothing_asked_changes_nothing_and_the_input_is_left_alone() -> None:
    samples = tone(440)
    before = samples.copy()
    assert np.array_equal(view_of(samples), samples)
    for key in range(5):
        augment(samples, RATE, ViewConfig(), generator_of("test", key))
    assert np.array_equal(samples, before)


def test_every_view_is_finite_and_keeps_its_length() -> None:
    always = ViewConfig(
        polarity_p=1, time_stretch_p=1, noise_p=1, gain_p=1, high_pass_p=1, band_stop_p=1, pitch_p=1
    )
    for samples in (tone(440, 0.5), np.zeros(8000, np.float32), tone(440, 0.025)):
        for key in range(4):
            view = augment(samples, RATE, always, generator_of("test", key))
            assert view.shape == samples.shape and view.dtype == np.float32 and np.isfinite(view).all()
    assert len(augment(tone(440), RATE, always, generator_of("test", 0), 5000)) == 5000


def test_draws_belong_to_scope_and_clip() -> None:
    samples = tone(440, 0.5)
    first = augment(samples, RATE, ViewConfig(), generator_of("s/0/0", 5))
    assert np.array_equal(first, augment(samples, RATE, ViewConfig(), generator_of("s/0/0", 5)))
    for scope, key in (("s/0/1", 5), ("s/1/0", 5), ("s/0/0", 6)):
        assert not np.array_equal(first, augment(samples, RATE, ViewConfig(), generator_of(scope, key)))


def test_seed_epoch_clip_and_view_each_give_a_view_of_their_own(tmp_path: Path) -> None:
    """All pairs differ, also two views of one clip; each can be drawn again. Both clips hold the same sound."""
    clips = []
    for name in ("a", "b"):
        save_wav(tmp_path / f"{name}.wav", tone(440, 0.3), RATE)
        clips.append(NamedClip(name, AudioRef(tmp_path / f"{name}.wav")))

    def views() -> dict[tuple[int, int, int, int], bytes]:
        found = {}
        for seed in (0, 1):
            dataset = WaveformViews(clips, RATE, 10.0, ViewConfig(), 4000, seed)
            for epoch in (0, 1):
                dataset.set_epoch(epoch)
                for index in (0, 1):
                    both = dataset[index]["waveform"]
                    assert both.shape == (2, 4000)
                    found |= {(seed, epoch, index, view): both[view].tobytes() for view in (0, 1)}
        return found

    once = views()
    assert len(once) == len(set(once.values())) == 16 and views() == once


@pytest.mark.parametrize("speed", [0.7, 1.3])
def test_stretch_moves_events_and_keeps_pitch(speed: float) -> None:
    samples = tone(900, 2.0)
    samples[:16000] *= 0.01
    stretched = stretch_time(samples, speed)
    assert len(stretched) == round(len(samples) / speed)
    assert peak_hz(stretched) == pytest.approx(900, rel=0.01)
    onset = np.flatnonzero(np.abs(stretched) > 0.1)[0] / RATE
    assert onset == pytest.approx(1.0 / speed, abs=0.05)


@pytest.mark.parametrize("semitones", [-4.0, 3.0])
def test_pitch_moves_tones_and_keeps_length(semitones: float) -> None:
    samples = tone(900, 2.0)
    shifted = shift_pitch(samples, semitones)
    assert len(shifted) == len(samples)
    assert peak_hz(shifted) == pytest.approx(900 * 2 ** (semitones / 12), rel=0.01)
    assert np.std(shifted) == pytest.approx(np.std(samples), rel=0.15)


def test_noise_gain_polarity_and_roll() -> None:
    samples = tone(440)
    noise = view_of(samples, noise_p=1, noise_snr_db=(20.0, 20.0)) - samples
    assert 20 * np.log10(np.std(samples) / np.std(noise)) == pytest.approx(20, abs=0.2)
    assert np.allclose(view_of(samples, gain_p=1, gain_db=(-6.0, -6.0)), samples * 10 ** (-6 / 20))
    assert np.array_equal(view_of(samples, polarity_p=1), -samples)
    ramp = np.arange(1000, dtype=np.float32)
    rolled = view_of(ramp, roll=True)
    assert not np.array_equal(rolled, ramp) and np.array_equal(np.roll(rolled, int(rolled[0])), ramp)
    gains = [view_of(samples, key, roll_gain_beta=10.0)[7] / samples[7] for key in range(200)]
    assert min(gains) >= 0.5 and max(gains) <= 1.5 and np.std(gains) == pytest.approx(0.109, abs=0.025)


def test_filters_cut_what_they_name() -> None:
    samples = tone(150) + tone(4000)
    passed = view_of(samples, high_pass_p=1, high_pass_hz=(600.0, 600.0), rolloff_db=(12.0, 12.0))
    assert power_at(passed, 150) - power_at(samples, 150) == pytest.approx(
        -24, abs=2
    )  # two octaves, 12 dB each
    assert power_at(passed, 4000) - power_at(samples, 4000) == pytest.approx(0, abs=0.2)
    samples = tone(1000) + tone(5000)
    stopped = view_of(samples, band_stop_p=1, band_stop_hz=(1000.0, 1000.0), band_stop_width=(0.5, 0.5))
    assert power_at(stopped, 1000) - power_at(samples, 1000) < -25
    assert power_at(stopped, 5000) - power_at(samples, 5000) == pytest.approx(0, abs=0.2)


def test_probabilities_hold() -> None:
    samples = tone(440, 0.05)
    changed = [not np.array_equal(view_of(samples, key, gain_p=0.3), samples) for key in range(400)]
    assert np.mean(changed) == pytest.approx(0.3, abs=0.07)


@pytest.mark.parametrize("speed", [0.5, 0.83, 1.37, 2.0])
def test_the_phase_vocoder_is_torchaudios(speed):
    functional = pytest.importorskip("torchaudio.functional")
    spectrum = torch.randn(65, 40, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    advance = torch.linspace(0, 100.0, 65)[:, None]
    assert torch.equal(
        phase_vocoder(spectrum, speed, advance), functional.phase_vocoder(spectrum, speed, advance)
    )


@pytest.mark.parametrize("widths", [(16, 32), (0, 20), (5, 0), (1, 1), (64, 96)])
def test_masked_stretches_are_torchaudios(widths):
    transforms = pytest.importorskip("torchaudio.transforms")
    frequency, time = transforms.FrequencyMasking(widths[0]), transforms.TimeMasking(widths[1])
    for key in (0, 5, 2**61 + 3, *range(100, 120)):
        torch.manual_seed(key)
        expected = time(frequency(torch.ones(1, 64, 96)))[0].T
        found = _visible(key, 96, 64, AugmentSettings(spec_freq=widths[0], spec_time=widths[1]))
        assert torch.equal(found, expected)
