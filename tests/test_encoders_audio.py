"""Every format, rate and channel count reads; every broken file is one clear line."""

import os
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from alm.common.errors import AudioError, UserError
from encoders.audio import load_audio, pad_batch, resample, save_wav


def tone(rate: int, seconds: float = 1.0, hz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


def strongest_hz(waveform: np.ndarray, rate: int) -> float:
    return float(np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform))


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", [8000, 44100, 48000])
@pytest.mark.parametrize(
    ("suffix", "subtype"),
    [
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("flac", "PCM_16"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_formats(tmp_path: Path, suffix: str, subtype: str, rate: int, channels: int) -> None:
    file = tmp_path / f"clip.{suffix}"
    samples = tone(rate)
    # The second channel is silent, so averaging must halve the level.
    frames = samples if channels == 1 else np.stack([samples, np.zeros_like(samples)], axis=1)
    soundfile.write(file, frames, rate, subtype=subtype)
    waveform = load_audio(file, 16000)
    assert waveform.dtype == np.float32 and waveform.ndim == 1
    assert abs(len(waveform) - 16000) <= (2500 if suffix == "mp3" else 2)  # mp3 pads to whole frames
    assert abs(strongest_hz(waveform, 16000) - 440) < 3
    level = np.sqrt(np.mean(waveform[4000:12000] ** 2))
    assert level == pytest.approx(0.5 / channels / np.sqrt(2), rel=0.1)


def test_segment_is_the_segment(tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    samples = np.concatenate([np.full(8000, level, dtype=np.float32) for level in (0.1, 0.2, 0.3, 0.4)])
    soundfile.write(file, samples, 16000, subtype="FLOAT")
    assert np.array_equal(load_audio(file, 16000, start_s=0.5, end_s=1.5), samples[8000:24000])
    assert np.array_equal(load_audio(file, 16000, start_s=1.75), samples[28000:])
    assert np.array_equal(load_audio(file, 16000, end_s=9.0), samples)


def test_segment_of_a_compressed_file(tmp_path: Path) -> None:
    for suffix in ("ogg", "flac", "mp3"):
        file = tmp_path / f"clip.{suffix}"
        soundfile.write(file, np.concatenate([tone(16000, 1, 300), tone(16000, 1, 1500)]), 16000)
        assert abs(strongest_hz(load_audio(file, 16000, start_s=1.2, end_s=1.8), 16000) - 1500) < 5


def test_real_recordings(shared_dir: Path) -> None:
    ogg = load_audio(shared_dir / "data" / "esc10" / "audio" / "1-100032-A-dog.ogg", 16000)
    assert len(ogg) == pytest.approx(80000, abs=160) and 0.01 < np.abs(ogg).max() <= 1
    wav = load_audio(next((shared_dir / "data" / "fsdd" / "audio").glob("*.wav")), 16000)
    assert len(wav) > 1600 and np.abs(wav).max() > 0.01


def test_samples_past_full_scale_are_clipped(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "hot.wav", 2.4 * tone(16000), 16000, subtype="FLOAT")
    waveform = load_audio(tmp_path / "hot.wav", 16000)
    assert np.abs(waveform).max() == 1.0


def refuse(file: Path, *words: str, **segment: float) -> None:
    with pytest.raises(AudioError) as caught:
        load_audio(file, 16000, **segment)
    message = str(caught.value)
    assert isinstance(caught.value, UserError)
    assert message.startswith(str(file)) and "\n" not in message
    for word in words:
        assert word in message


def test_missing(tmp_path: Path) -> None:
    refuse(tmp_path / "none.wav", "no such file")


def test_directory(tmp_path: Path) -> None:
    refuse(tmp_path, "is a directory")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_empty_file(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"empty.{suffix}").touch()
    refuse(tmp_path / f"empty.{suffix}", "empty (0 bytes)")


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_not_audio(tmp_path: Path, suffix: str) -> None:
    (tmp_path / f"text.{suffix}").write_text("This is a shopping list, not a recording.\n" * 20)
    refuse(tmp_path / f"text.{suffix}")


def test_corrupt(tmp_path: Path) -> None:
    for suffix in ("wav", "flac", "ogg"):
        file = tmp_path / f"broken.{suffix}"
        soundfile.write(file, tone(16000), 16000)
        whole = file.read_bytes()
        file.write_bytes(whole[:12] + os.urandom(len(whole) - 12))
        refuse(file)


def test_zero_length(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "nothing.wav", np.zeros(0, dtype=np.float32), 16000)
    refuse(tmp_path / "nothing.wav", "holds no samples")
    soundfile.write(tmp_path / "nothing.flac", np.zeros(0, dtype=np.float32), 16000)
    refuse(tmp_path / "nothing.flac", "empty")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(tmp_path: Path, bad: float) -> None:
    samples = tone(16000)
    samples[100] = bad
    soundfile.write(tmp_path / "bad.wav", samples, 16000, subtype="FLOAT")
    refuse(tmp_path / "bad.wav", "NaN or infinite")


def test_integer_scaled_float(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "scaled.wav", 32768 * tone(16000), 16000, subtype="FLOAT")
    refuse(tmp_path / "scaled.wav", "full scale is 1")


@pytest.mark.parametrize("part", [0.999, 0.5, 0.1])
def test_truncated_wav(tmp_path: Path, part: float) -> None:
    file = tmp_path / "cut.wav"
    soundfile.write(file, tone(16000), 16000)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    refuse(file, "truncated", "its header promises 32000 bytes")


def test_wav_cut_before_its_data(tmp_path: Path) -> None:
    file = tmp_path / "cut.wav"
    soundfile.write(file, tone(16000), 16000)
    file.write_bytes(file.read_bytes()[:36])
    refuse(file, "no data chunk")


def test_truncated_flac(tmp_path: Path) -> None:
    file = tmp_path / "cut.flac"
    soundfile.write(file, np.random.default_rng(0).normal(0, 0.1, 32000), 16000)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    refuse(file)


def test_streamed_wav_of_unknown_length_reads(tmp_path: Path) -> None:
    """Encoders that write to a pipe leave the size open; that is no truncation."""
    file = tmp_path / "stream.wav"
    soundfile.write(file, tone(16000), 16000)
    whole = bytearray(file.read_bytes())
    at = whole.index(b"data") + 4
    whole[4:8] = whole[at : at + 4] = struct.pack("<I", 0xFFFFFFFF)
    file.write_bytes(whole)
    assert len(load_audio(file, 16000)) == 16000


def test_bad_segments(tmp_path: Path) -> None:
    file = tmp_path / "clip.wav"
    soundfile.write(file, tone(16000), 16000)
    refuse(file, "start_s is 3.0", "1.000 s", start_s=3.0)
    refuse(file, "end_s is 0.2", start_s=0.5, end_s=0.2)
    refuse(file, "start_s is -1", start_s=-1.0)


def test_save_wav_round_trip(tmp_path: Path) -> None:
    samples = np.clip(1.2 * tone(22050, 0.3), -2, 2)
    save_wav(tmp_path / "out.wav", samples, 22050)
    assert soundfile.info(tmp_path / "out.wav").subtype == "PCM_16"
    assert np.abs(load_audio(tmp_path / "out.wav", 22050) - np.clip(samples, -1, 1)).max() < 1e-4
    assert os.listdir(tmp_path) == ["out.wav"]  # no temporary file stays behind


def test_save_wav_refuses(tmp_path: Path) -> None:
    for bad in (np.zeros(0), np.array([0.0, np.nan]), np.zeros((2, 100))):
        with pytest.raises(AudioError):
            save_wav(tmp_path / "out.wav", bad, 16000)
    with pytest.raises(AudioError, match="cannot be written"):
        save_wav(tmp_path / "no" / "folder" / "out.wav", tone(16000), 16000)
    assert not os.listdir(tmp_path)


def test_resample_keeps_pitch_and_length() -> None:
    for rate in (8000, 11025, 22050, 44100, 48000):
        down = resample(tone(rate, 0.5), rate, 16000)
        assert len(down) == pytest.approx(8000, abs=1) and abs(strongest_hz(down, 16000) - 440) < 3
    samples = tone(16000)
    assert resample(samples, 16000, 16000) is samples


def test_pad_batch() -> None:
    clips = [tone(16000, 0.1), tone(16000, 0.05), tone(16000, 0.2)[::2]]
    batch, lengths = pad_batch(clips)
    assert batch.shape == (3, 1600) and lengths.tolist() == [1600, 800, 1600]
    for row, clip in zip(batch.numpy(), clips, strict=True):
        assert np.array_equal(row[: len(clip)], clip) and not row[len(clip) :].any()
