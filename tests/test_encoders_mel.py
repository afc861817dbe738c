"""The batched filter bank equals torchaudio's kaldi one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchaudio.compliance import kaldi

from encoders.audio import load_audio, pad_batch
from encoders.mel import LOG_FLOOR, KaldiFbank, hz_to_mel, mel_to_hz

# torchaudio's own float32 error against a float64 run of it is of this size.
WORST, TYPICAL = 3e-3, 5e-5


def reference(waveform: Tensor, sample_rate: int = 16000, n_mels: int = 128) -> Tensor:
    return kaldi.fbank(
        (waveform - waveform.mean())[None],
        htk_compat=True,
        sample_frequency=sample_rate,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=n_mels,
        dither=0.0,
        frame_shift=10,
    )


def tone(hz: float, n: int = 16000) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(n) / 16000)).astype(np.float32)


def noise(n: int, seed: int = 0, amplitude: float = 0.1) -> np.ndarray:
    return (amplitude * np.random.default_rng(seed).standard_normal(n)).astype(np.float32)


def agree(clips: list[np.ndarray], sample_rate: int = 16000, n_mels: int = 128) -> None:
    fbank = KaldiFbank(sample_rate, n_mels)
    mel, n_frames = fbank(*pad_batch(clips))
    for row, clip in enumerate(clips):
        wanted = reference(torch.from_numpy(clip), sample_rate, n_mels)
        assert n_frames[row] == len(wanted) == fbank.n_frames_for(len(clip))
        difference = (mel[row, : len(wanted)] - wanted).abs()
        assert difference.max() <= WORST and difference.mean() <= TYPICAL
        assert (mel[row, len(wanted) :] == 0).all()


def test_noise_of_mixed_lengths() -> None:
    agree([noise(n, seed=n) for n in (48000, 400, 401, 559, 560, 31337)])


def test_tones_and_offset() -> None:
    mix = 0.2 * (tone(100) + tone(1000) + tone(7000)) + noise(16000, amplitude=1e-3)
    agree([mix, mix + np.float32(0.25)])


def test_other_rates_and_sizes() -> None:
    agree([noise(12000)], sample_rate=8000, n_mels=40)
    agree([noise(30000)], sample_rate=32000, n_mels=64)


def test_speech(shared_dir: Path) -> None:
    files = sorted((shared_dir / "data" / "fsdd" / "audio").glob("*.wav"))[:6]
    agree([load_audio(file, 16000) for file in files])


def test_quiet_tones_stay_near_the_reference() -> None:
    """A pure tone leaves the far bands to rounding error, which floors both at about the same place."""
    for hz in (440.0, 3000.0):
        mel, _ = KaldiFbank()(*pad_batch([tone(hz)]))
        wanted = reference(torch.from_numpy(tone(hz)))
        loud = wanted > LOG_FLOOR + 8
        assert loud.any() and (mel[0] - wanted)[loud].abs().max() < WORST


def test_silence_is_the_floor() -> None:
    mel, _ = KaldiFbank()(torch.zeros(1, 800), torch.tensor([800]))
    assert torch.allclose(mel, torch.full_like(mel, LOG_FLOOR))


def test_padding_is_never_looked_at() -> None:
    fbank, clip = KaldiFbank(), torch.from_numpy(noise(5000))
    padded = torch.cat([clip, torch.full((3000,), torch.nan)])[None]
    mel, n_frames = fbank(padded, torch.tensor([5000]))
    alone, _ = fbank(clip[None], torch.tensor([5000]))
    assert n_frames.tolist() == [29] and torch.equal(mel, alone)


def test_too_short_and_empty() -> None:
    mel, n_frames = KaldiFbank()(torch.zeros(2, 399), torch.tensor([399, 0]))
    assert mel.shape == (2, 0, 128) and n_frames.tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_whatever_the_model_is_cast_to(dtype: torch.dtype) -> None:
    fbank, batch = KaldiFbank(), pad_batch([noise(8000)])
    expected, _ = fbank(*batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mel, _ = torch.nn.Sequential(fbank).to(dtype)[0](*batch)
    assert mel.dtype == torch.float32 and torch.equal(mel, expected)


def test_mel_scale_inverts() -> None:
    hz = torch.linspace(20, 8000, 50, dtype=torch.float64)
    assert torch.allclose(mel_to_hz(hz_to_mel(hz)), hz)
