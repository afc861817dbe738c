"""Reading audio files into mono float waveforms, and writing them.

Axis letters: B batch, S samples.
"""

from __future__ import annotations

import io
import os
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from alm.common.errors import AudioError

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64")
"""Endings of files that are taken for audio where a folder is searched."""

# A decoder overshoots full scale by a few dB at most. Float files further out carry integer-scaled samples.
_LARGEST_SANE_PEAK = 8.0
# Written by streaming encoders that could not seek back: "length unknown, read to the end".
_UNKNOWN_SIZE = 0xFFFFFFFF


def load_audio(
    path: str | os.PathLike[str],
    sample_rate: int,
    start_s: float | None = None,
    end_s: float | None = None,
) -> np.ndarray:
    """Decode a file (wav, flac, ogg, mp3, any rate and channel count) to a mono waveform.

    Channels are averaged, then the waveform is resampled. Only the asked segment is decoded.

    Args:
        path: The audio file.
        sample_rate: Rate of the result in Hz.
        start_s: Start of the segment in seconds; None is the start of the file.
        end_s: End of the segment in seconds; None is the end of the file, and so is a time past it.

    Returns:
        Waveform (S,) float32 in [-1, 1].

    Raises:
        AudioError: The file is missing, a directory, empty, corrupt, truncated, not audio, holds no samples
            in the segment, or holds NaN or infinite samples.
    """
    file = Path(path)
    if not file.exists():
        raise AudioError(
            f"{file}: no such file; check the path (a manifest's paths are relative to the manifest)"
        )
    if file.is_dir():
        raise AudioError(f"{file}: is a directory; give one audio file")
    try:
        with file.open("rb") as stream:
            _check_readable(stream, file.stat().st_size, str(file))
    except OSError as error:
        raise AudioError(f"{file}: cannot be read ({error.strerror})") from error
    return _waveform(file, str(file), sample_rate, start_s, end_s)


def decode_audio(
    data: bytes, name: str, sample_rate: int, start_s: float | None = None, end_s: float | None = None
) -> np.ndarray:
    """Decode a file's content, for example a member of an archive; see `load_audio`.

    Args:
        data: The whole file.
        name: What to call it in errors.
        sample_rate: Rate of the result in Hz.
        start_s: Start of the segment in seconds.
        end_s: End of the segment in seconds.

    Returns:
        Waveform (S,) float32 in [-1, 1].

    Raises:
        AudioError: As in `load_audio`.
    """
    stream = io.BytesIO(data)
    _check_readable(stream, len(data), name)
    stream.seek(0)
    return _waveform(stream, name, sample_rate, start_s, end_s)


def _waveform(
    source: Path | BinaryIO, file: str, sample_rate: int, start_s: float | None, end_s: float | None
) -> np.ndarray:
    """Decode, check, mix down and resample; `file` is what errors call it."""
    samples, native_hz = _decode(source, file, start_s, end_s)
    if not len(samples):
        raise AudioError(f"{file}: holds no samples; give a recording that is longer than nothing")
    if not np.isfinite(samples).all():
        raise AudioError(f"{file}: holds NaN or infinite samples; re-export the recording")
    peak = float(np.abs(samples).max())
    if peak > _LARGEST_SANE_PEAK:
        raise AudioError(
            f"{file}: samples reach {peak:.4g} where full scale is 1; re-export them as integers or scaled"
        )
    mono = samples.mean(axis=1, dtype=np.float32)  # (S, channels) -> (S,)
    return np.clip(resample(mono, native_hz, sample_rate), -1.0, 1.0)


def seconds_of(source: str | os.PathLike[str] | BinaryIO) -> float:
    """Length of a file in seconds, from its header alone.

    Raises:
        AudioError: The file is missing, empty or not audio.
    """
    try:
        return soundfile.info(source).duration
    except (soundfile.SoundFileError, OSError) as error:
        raise AudioError(f"{source}: its length cannot be read ({error}); run alm data verify") from error


def resample(waveform: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """Resample a waveform (soxr, high quality).

    Args:
        waveform: (S,) float32.
        from_hz: Its rate in Hz.
        to_hz: The wanted rate in Hz.

    Returns:
        (S * to_hz / from_hz,) float32; the input itself where the rates are equal.
    """
    if from_hz == to_hz:
        return waveform
    return soxr.resample(waveform, from_hz, to_hz, quality="HQ").astype(np.float32, copy=False)


def save_wav(path: str | os.PathLike[str], waveform: np.ndarray, sample_rate: int) -> None:
    """Write a mono waveform as 16-bit PCM wav; the file appears whole or not at all.

    Args:
        path: Where to write; its folder must exist.
        waveform: (S,) in [-1, 1]; values outside are clipped.
        sample_rate: Rate in Hz.

    Raises:
        AudioError: The waveform is empty or not finite, or the place is not writable.
    """
    file = Path(path)
    if waveform.ndim != 1 or not len(waveform) or not np.isfinite(waveform).all():
        raise AudioError(
            f"{file}: a waveform of shape (S,), S > 0, with finite samples is needed to write a wav"
        )
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.", suffix=".tmp")
        os.close(handle)
        try:
            pcm = np.clip(waveform, -1.0, 1.0)
            soundfile.write(temporary, pcm, sample_rate, subtype="PCM_16", format="WAV")
            os.chmod(temporary, 0o644)  # mkstemp makes files only their owner may read
            os.replace(temporary, file)
        except BaseException:
            os.unlink(temporary)
            raise
    except (OSError, soundfile.SoundFileError) as error:
        raise AudioError(
            f"{file}: cannot be written ({error}); choose a folder that exists and is writable"
        ) from error


def pad_batch(waveforms: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Stack waveforms of different lengths, zeros after each one's end.

    Args:
        waveforms: B arrays of shape (S_i,).

    Returns:
        waveform (B, S) float32 with S the longest, and lengths (B,) int64 in samples.
    """
    lengths = torch.tensor([len(clip) for clip in waveforms], dtype=torch.int64)
    batch = torch.zeros(len(waveforms), int(lengths.max()) if len(waveforms) else 0)
    for row, clip in zip(batch, waveforms, strict=True):
        row[: len(clip)] = torch.from_numpy(np.ascontiguousarray(clip, dtype=np.float32))
    return batch, lengths


def _check_readable(stream: BinaryIO, size: int, file: str) -> None:
    head = stream.read(12)
    if not head:
        raise AudioError(f"{file}: is empty (0 bytes); download or export it again")
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        _check_wav_is_whole(stream, size, file)


def _check_wav_is_whole(stream: BinaryIO, size: int, file: str) -> None:
    """Compare the data chunk's declared size with what is there: libsndfile shortens the clip silently."""
    at = 12
    while at + 8 <= size:
        stream.seek(at)
        name, declared = struct.unpack("<4sI", stream.read(8))
        if name == b"data":
            held = size - at - 8
            if declared not in (_UNKNOWN_SIZE, 0) and held < declared:
                raise AudioError(
                    f"{file}: is truncated: its header promises {declared} bytes of samples, "
                    f"{held} are there; copy or download it again"
                )
            return
        at += 8 + declared + declared % 2  # chunks are padded to an even size
    raise AudioError(f"{file}: is a wav without samples (no data chunk); copy or download it again")


def _decode(
    source: Path | BinaryIO, file: str, start_s: float | None, end_s: float | None
) -> tuple[np.ndarray, int]:
    """Samples (S, channels) float32 of the segment, and the file's rate in Hz."""
    if start_s is not None and start_s < 0:
        raise AudioError(f"{file}: start_s is {start_s}; it must be 0 or more")
    if end_s is not None and end_s <= (start_s or 0.0):
        raise AudioError(f"{file}: end_s is {end_s}; it must be after start_s ({start_s or 0.0})")
    try:
        with soundfile.SoundFile(source) as sound:
            first = round((start_s or 0.0) * sound.samplerate)
            last = sound.frames if end_s is None else min(sound.frames, round(end_s * sound.samplerate))
            if first and first >= sound.frames:
                clip_s = sound.frames / sound.samplerate
                raise AudioError(f"{file}: start_s is {start_s} but the clip ends at {clip_s:.3f} s")
            if first:
                sound.seek(first)
            samples = sound.read(last - first, dtype="float32", always_2d=True)
            if len(samples) < last - first:
                raise AudioError(
                    f"{file}: is truncated or corrupt: {len(samples)} of {last - first} samples decode; "
                    "copy or download it again"
                )
            return samples, sound.samplerate
    except (soundfile.SoundFileError, OSError) as error:
        raise _undecodable(file, error) from error


def _undecodable(file: str | Path, error: Exception) -> AudioError:
    reason = str(error).split(": ", 1)[-1].rstrip(".")
    return AudioError(f"{file}: cannot be decoded as audio ({reason}); wav, flac, ogg and mp3 are read")
