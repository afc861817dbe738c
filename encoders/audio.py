"""Reading audio files into mono float waveforms, and writing them.

Axis letters: B batch, S samples.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from alm.common.errors import AudioError, ConfigError, UserError
from alm.common.files import open_regular, reason, write_bytes_atomic

AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".rf64",
)  # fmt: skip
"""Suffixes, in lower case, of the files that a search of a folder takes for audio."""

MAX_SECONDS_VARIABLE = "ALM_MAX_AUDIO_S"
"""Environment variable: longest audio in seconds that is decoded; longer files and segments are refused unread."""

SILENT_PEAK = 2.0**-15
"""Peaks below one step of 16-bit audio are silence: an empty recording, left by a failed download or conversion."""

_MAX_SECONDS = 3600.0
# A file of many channels or a high rate may take no more memory than the longest one at 48 kHz in stereo.
_MAX_VALUES_PER_SECOND = 2 * 48_000

# A decoder overshoots full scale by a few dB at most. Float files above this are integer-scaled.
_LARGEST_SANE_PEAK = 8.0
# Written by streaming encoders that could not seek back: "length unknown, read to the end".
_UNKNOWN_SIZE = 0xFFFFFFFF
_UNKNOWN_FRAMES = 1 << 62  # libsndfile gives 2^63 - 1 for a FLAC stream without a length
_MOST_WAV_CHUNKS = 10_000


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
        AudioError: The file is missing, not a regular file, empty, corrupt, truncated, not audio, longer than
            `max_seconds`, holds no samples in the segment, or holds NaN or infinite samples.
    """
    file = Path(path)
    with _typed_errors(str(file)):
        with _open(file) as stream:
            _check_readable(stream, os.fstat(stream.fileno()).st_size, str(file))
        # As bytes: libsndfile's wrapper cannot encode a name that is not UTF-8.
        return _waveform(os.fsencode(file), str(file), sample_rate, start_s, end_s)


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
    stream = _Memory(data)
    with _typed_errors(name):
        _check_readable(stream, len(data), name)
        stream.seek(0)
        return _waveform(stream, name, sample_rate, start_s, end_s)


def _waveform(
    source: bytes | BinaryIO, file: str, sample_rate: int, start_s: float | None, end_s: float | None
) -> np.ndarray:
    """Decode, check, mix down and resample; `file` is what errors call it."""
    samples, native_hz = _decode(source, file, start_s, end_s)
    if not len(samples):
        if start_s is None and end_s is None:
            raise AudioError(f"{file}: holds no samples; record or export it again")
        raise AudioError(
            f"{file}: the segment from {start_s or 0.0} s to {end_s} s holds no samples; choose a longer one"
        )
    if not np.isfinite(samples).all():
        raise AudioError(f"{file}: holds NaN or infinite samples; re-export the recording")
    peak = float(np.abs(samples).max())
    if peak > _LARGEST_SANE_PEAK:
        raise AudioError(
            f"{file}: the peak is {peak:.4g}, full scale is 1; export it as integers or scale it to [-1, 1]"
        )
    mono: np.ndarray = samples.mean(axis=1, dtype=np.float32)  # (S, channels) -> (S,)
    resampled = resample(mono, native_hz, sample_rate)
    if not len(resampled):
        raise AudioError(
            f"{file}: {len(mono)} samples at {native_hz} Hz are less than one at {sample_rate} Hz; choose a longer clip"
        )
    clipped: np.ndarray = np.clip(resampled, -1.0, 1.0)
    return clipped


@dataclass(frozen=True)
class AudioHeader:
    """What a file's header says about its samples.

    Attributes:
        frames: Samples per channel.
        rate_hz: Sample rate in Hz.
        channels: Number of channels.
    """

    frames: int
    rate_hz: int
    channels: int

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate_hz


def read_header(source: str | os.PathLike[str] | bytes, name: str | None = None) -> AudioHeader:
    """Read a file's header, without decoding its samples.

    Args:
        source: The path of a file, or the whole content of one as bytes.
        name: What to call it in errors; None is its path.

    Raises:
        AudioError: The file is missing, not a regular file, empty, not audio, or does not say its length.
    """
    shown = name or ("audio" if isinstance(source, bytes) else str(source))
    with _typed_errors(shown):
        if isinstance(source, bytes):
            stream: bytes | BinaryIO = _Memory(source)
        else:
            _open(Path(source)).close()
            stream = os.fsencode(source)
        with soundfile.SoundFile(stream) as sound:
            header = AudioHeader(sound.frames, sound.samplerate, sound.channels)
        if header.frames >= _UNKNOWN_FRAMES or header.frames < 0 or header.rate_hz <= 0:
            raise _unknown_length(shown)
        return header


def seconds_of(path: str | os.PathLike[str]) -> float:
    """Length of a file in seconds, from its header alone; see `read_header`."""
    return read_header(path).seconds


def max_seconds() -> float:
    """Longest audio in seconds that is decoded: an hour, or what `ALM_MAX_AUDIO_S` says.

    A small compressed file can decode to more samples than memory holds.

    Raises:
        ConfigError: The variable is not a number above 0.
    """
    text = os.environ.get(MAX_SECONDS_VARIABLE)
    if text is None:
        return _MAX_SECONDS
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise ConfigError(f"{MAX_SECONDS_VARIABLE} is {text!r}; expected a number of seconds above 0")
    return value


def check_seconds(seconds: float, file: str, values: int = 0) -> None:
    """Refuse audio that is too long to decode.

    Args:
        seconds: Length of what would be decoded.
        file: What to call it in the error.
        values: Samples times channels of it.

    Raises:
        AudioError: It is longer than `max_seconds`, or has more values than that length has at 48 kHz in stereo.
    """
    limit = max_seconds()
    needed = max(seconds, values / _MAX_VALUES_PER_SECOND)
    if needed > limit:
        what = (
            f"{seconds:.6g} s long" if seconds > limit else f"as large as {needed:.6g} s at 48 kHz in stereo"
        )
        raise AudioError(
            f"{file}: is {what}, over the limit of {limit:g} s; give a segment of it, or set "
            f"{MAX_SECONDS_VARIABLE}={needed * 1.001:.0f} to decode it"
        )


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
    resampled: np.ndarray = soxr.resample(waveform, from_hz, to_hz, quality="HQ")
    return resampled.astype(np.float32, copy=False)


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
    content = io.BytesIO()
    soundfile.write(content, np.clip(waveform, -1.0, 1.0), sample_rate, subtype="PCM_16", format="WAV")
    write_bytes_atomic(file, content.getvalue(), AudioError, clean=False)


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
    for _ in range(_MOST_WAV_CHUNKS):
        if at + 8 > size:
            break
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
    source: bytes | BinaryIO, file: str, start_s: float | None, end_s: float | None
) -> tuple[np.ndarray, int]:
    """Samples (S, channels) float32 of the segment, and the file's rate in Hz."""
    if start_s is not None and not start_s >= 0:
        raise AudioError(f"{file}: start_s is {start_s}; it must be 0 or more")
    if end_s is not None and not end_s > (start_s or 0.0):
        raise AudioError(f"{file}: end_s is {end_s}; it must be after start_s ({start_s or 0.0})")
    with soundfile.SoundFile(source) as sound:
        rate_hz, frames = sound.samplerate, sound.frames
        if (start_s or 0.0) * rate_hz >= max(frames, 1):
            raise AudioError(f"{file}: start_s is {start_s} but the clip ends at {frames / rate_hz:.3f} s")
        first = round((start_s or 0.0) * rate_hz)
        last = frames if end_s is None or end_s * rate_hz >= frames else round(end_s * rate_hz)
        if last >= _UNKNOWN_FRAMES or frames < 0 or rate_hz <= 0:
            raise _unknown_length(file)
        check_seconds((last - first) / rate_hz, file, (last - first) * sound.channels)
        if first:
            sound.seek(first)
        samples = sound.read(last - first, dtype="float32", always_2d=True)
        if len(samples) < last - first:
            raise AudioError(
                f"{file}: is truncated or corrupt: {len(samples)} of {last - first} samples decode; "
                "copy or download it again"
            )
        return samples, rate_hz


class _Memory(io.BytesIO):
    """A file in memory whose failing seeks do nothing, as libsndfile expects, instead of raising in its callback."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _open(file: Path) -> BinaryIO:
    """Open a regular file; an `AudioError` says what else is there."""
    try:
        return open_regular(file)
    except FileNotFoundError as error:
        hint = (
            "download it first"
            if "://" in str(file) or ":/" in str(file)
            else ("check the path (a manifest's paths are relative to the manifest)")
        )
        raise AudioError(f"{file}: no such file; {hint}") from error
    except (OSError, ValueError) as error:
        raise AudioError(f"{file}: cannot be read ({reason(error)}); give one audio file") from error


@contextmanager
def _typed_errors(file: str) -> Iterator[None]:
    """Turn whatever a decoder, its wrapper or an array of its samples raises into an `AudioError`.

    What a decoder raises on bad input is not documented: libsndfile's wrapper alone raises its own error, `TypeError`,
    `OverflowError`, `AssertionError` and `MemoryError`, depending on the file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        why = "its samples do not fit in memory" if isinstance(error, MemoryError) else str(error)
        why = why.rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__
        raise AudioError(
            f"{file}: cannot be decoded as audio ({why}); wav, flac, ogg and mp3 are read"
        ) from error


def _unknown_length(file: str) -> AudioError:
    return AudioError(
        f"{file}: its header does not say how long it is (it was written to a pipe); write it to a file again, for "
        "example with `sox IN OUT.wav`"
    )
