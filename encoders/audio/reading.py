"""Reading audio into mono float waveforms: one function for every format, as a file, as bytes and from an address.

A file's format is detected from its content, never from its name. libsndfile is the fast path; FFmpeg reads the rest. A
header's sample count is only a hint: files are decoded to their end, and of concatenated files all parts are decoded.

Axis letters: S samples.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from alm.common.errors import AudioError, UserError
from alm.common.files import open_regular, reason
from alm.common.storage.remote import is_remote, to_path
from encoders.audio import flac, frames, ogg
from encoders.audio.containers import Container, check_whole, not_checked
from encoders.audio.ffmpeg import Recording
from encoders.audio.formats import find_file
from encoders.audio.limits import check_seconds
from encoders.audio.options import AudioOptions
from encoders.audio.urls import fetch_audio, is_url, url_name
from encoders.audio.waveforms import LARGEST_SANE_PEAK, SILENT_PEAK, resample

Source = str | os.PathLike[str] | bytes | BinaryIO
"""A path, an `http(s)` or `data:` address (a `str`), the whole content of a file, or an open file."""

# Channels cancel if their mean holds at most this share of their energy (-40 dB): one is the other inverted.
_CANCELLED = 1e-4
_UNKNOWN_FRAMES = 1 << 62  # libsndfile gives 2^63 - 1 for a FLAC stream without a length
_BLOCK_FRAMES = 1 << 16
# What FFmpeg reads better: libsndfile takes the block headers of voc for samples, and interleaves the channels of 8SVX.
_BY_FFMPEG = re.compile(rb"\x1a\x45\xdf\xa3|Creative Voice File|FORM....(8SVX|16SV|MAUD)", re.DOTALL)
# Formats of which libsndfile or `containers` notices that a file is truncated.
_WHOLE = frozenset("WAV WAVEX RF64 AIFF AU CAF W64 NIST FLAC OGG HTK AVR MAT4 MAT5 MPC2K WVE XI".split())
_LARGEST_IN_MEMORY = 2 << 30  # bytes of a file that is searched for the parts it was joined from


def load_audio(
    source: Source,
    sample_rate: int,
    start_s: float | None = None,
    end_s: float | None = None,
    options: AudioOptions | None = None,
) -> np.ndarray:
    """Decode any recording to a mono waveform.

    Channels are averaged, then the waveform is resampled. A segment is exactly that part of the whole waveform.

    Args:
        source: A path, an `http(s)` or `data:` address (as `str`), the content of a file, or an open binary file.
        sample_rate: Rate of the result in Hz.
        start_s: Start of the segment in seconds; None is the start of the file.
        end_s: End of the segment in seconds; None is the end of the file, and so is a time past it.
        options: How channels and peaks are treated; None is `AudioOptions.current()`.

    Returns:
        Waveform (S,) float32 in [-1, 1].

    Raises:
        AudioError: The file is missing, not a regular file, empty, corrupt, truncated, not audio, longer than
            `max_seconds`, holds no samples in the segment, holds NaN or infinite samples, or channels that cancel.
    """
    with _opened(source) as opened:
        return _waveform(opened, sample_rate, start_s, end_s, options or AudioOptions.current())


def decode_audio(
    data: bytes,
    name: str,
    sample_rate: int,
    start_s: float | None = None,
    end_s: float | None = None,
    options: AudioOptions | None = None,
) -> np.ndarray:
    """Decode a file's content, for example a member of an archive; see `load_audio`.

    Args:
        data: The whole file.
        name: Name of the file in errors.
        sample_rate: Rate of the result in Hz.
        start_s: Start of the segment in seconds.
        end_s: End of the segment in seconds.
        options: How channels and peaks are treated; None is `AudioOptions.current()`.

    Returns:
        Waveform (S,) float32 in [-1, 1].

    Raises:
        AudioError: As in `load_audio`.
    """
    with _opened(data, name) as opened:
        return _waveform(opened, sample_rate, start_s, end_s, options or AudioOptions.current())


@dataclass(frozen=True)
class AudioHeader:
    """The format of a file's samples, as its header states it.

    Attributes:
        frames: Samples per channel.
        rate_hz: Sample rate in Hz.
        channels: Number of channels.
        exact: Whether decoding gives exactly `frames` samples; containers such as mp4 round their length.
    """

    frames: int
    rate_hz: int
    channels: int
    exact: bool = True

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.frames / self.rate_hz

    def check_segment(self, file: str, start_s: float | None, end_s: float | None) -> None:
        """Check that a segment holds samples, where the length is exact.

        Args:
            file: Name of the file in errors.
            start_s: Start of the segment in seconds; None is the start of the file.
            end_s: End of the segment in seconds; None is the end of the file.

        Raises:
            AudioError: It begins after the file's end, or is shorter than a sample.
        """
        if self.exact and start_s is not None and start_s >= self.seconds:
            raise _starts_late(file, start_s, self.seconds)
        if end_s is not None and round(end_s * self.rate_hz) <= round((start_s or 0.0) * self.rate_hz):
            raise _no_samples(file, start_s, end_s)


def read_header(source: Source, name: str | None = None, exact: bool = False) -> AudioHeader:
    """Read a file's length, rate and channels, without decoding it where its kind of file declares a length.

    Args:
        source: As in `load_audio`.
        name: Name of the file in errors; None takes its path.
        exact: Decode the file where its declared length may differ from what decoding gives.

    Raises:
        AudioError: The file is missing, not a regular file, empty or not audio.
    """
    with _opened(source, name) as opened:
        parts = _parts(opened)
        header = _declared_header(opened, parts)
        return (
            header if header is not None and (header.exact or not exact) else _decoded_header(opened, parts)
        )


def seconds_of(source: Source) -> float:
    """Exact length of a file in seconds, as decoding gives it; `read_header` is faster where that needs decoding."""
    return read_header(source, exact=True).seconds


@dataclass
class _Opened:
    """A file to read: its stream, its size, its path for libsndfile, and what errors call it."""

    stream: BinaryIO
    size: int
    path: bytes | None
    file: str


@dataclass
class _Part:
    """A stretch of a file that one decoder reads: all of it, unless the file was joined from several.

    Attributes:
        stream: Where it lies; the file itself, or the stretch in memory.
        path: The path of the file, where the part is all of it.
        library: Which library decodes it; `either` is FFmpeg where libsndfile does not know the format.
        format: FFmpeg's name of its format; None leaves that to FFmpeg.
        expected: Samples per channel that the frames hold, with their rate and channels, where these were counted.
        at_least: Fewest samples per channel that decoding must give; with fewer, a piece of it was skipped.
        skipped: Samples per channel at its beginning that are the encoder's delay.
        container: The facts that the container states; None without a container.
    """

    stream: BinaryIO
    path: bytes | None
    library: str = "ffmpeg"
    format: str | None = None
    expected: AudioHeader | None = None
    at_least: int = 0
    skipped: int = 0
    container: Container | None = None


@contextmanager
def _opened(source: Source, name: str | None = None) -> Iterator[_Opened]:
    """Open whatever names a recording; every error inside becomes an `AudioError` that names it."""
    if isinstance(source, str) and is_url(source):
        name, source = name or url_name(source), fetch_audio(source)
    if isinstance(source, bytes | bytearray | memoryview):
        shown = name or "audio"
        with _typed_errors(shown):
            yield _Opened(_Memory(source), len(source), None, shown)
    elif isinstance(source, str | os.PathLike):
        shown = name or str(to_path(source))
        with _typed_errors(shown):
            path = find_file(Path(source))
            with _open(path) as stream:
                if is_remote(path):
                    data = stream.read()
                    yield _Opened(_Memory(data), len(data), None, shown)
                    return
                # As bytes: libsndfile's wrapper cannot encode a name that is not UTF-8.
                yield _Opened(stream, os.fstat(stream.fileno()).st_size, os.fsencode(path), shown)
    else:
        shown = name or str(getattr(source, "name", "audio"))
        with _typed_errors(shown):
            data = source.read()
            if not isinstance(data, bytes):
                raise AudioError(f"{shown}: gives text, not bytes; open it in binary mode ('rb')")
            yield _Opened(_Memory(data), len(data), None, shown)


def _parts(opened: _Opened) -> list[_Part]:
    """Recognise a file by its content, check that all of it is there, and find the files it was joined from."""
    stream, size, file = opened.stream, opened.size, opened.file
    stream.seek(0)
    head = stream.read(1 << 14)
    if not head:
        raise AudioError(f"{file}: is empty (0 bytes); download or export it again")
    if head[:4] == ogg.MAGIC:
        return _ogg_parts(opened)
    container = check_whole(stream, size, file)
    if container is not None:
        by_ffmpeg = _BY_FFMPEG.match(head) is not None or _is_unfinished_wav(head, size)
        library = "ffmpeg" if by_ffmpeg else "either"
        return [_Part(stream, opened.path, library, at_least=container.n_samples, container=container)]
    if size <= _LARGEST_IN_MEMORY:
        if head.startswith(b"ID3") and size > len(head):  # a picture in the tag may be larger than the head
            stream.seek(len(head))
            head += stream.read()
        kind = frames.kind_of(head)
        if kind is not None:
            return _frame_parts(opened, kind)
        tag = frames.after_tags(head, 0) if head[:3] == b"ID3" else 0
        if 0 < tag < size and head[tag : tag + 4] != b"fLaC":
            # libsndfile would decode the tag as samples, or refuse the file.
            return _parts(_Opened(_Memory(head[tag:]), size - tag, None, file))
        if head[:4] == b"fLaC" or head[:3] == b"ID3":
            return _flac_parts(opened)
    return [_Part(stream, opened.path, "either")]


def _is_unfinished_wav(head: bytes, size: int) -> bool:
    """Whether a writer to a pipe left 0 as the size of the samples; libsndfile would then read no samples."""
    at = head.find(b"data", 12)
    unfinished = int.from_bytes(head[4:8], "little") != size - 8
    return head[:4] == b"RIFF" and unfinished and at > 0 and not any(head[at + 4 : at + 8])


def _ogg_parts(opened: _Opened) -> list[_Part]:
    links = ogg.read_links(opened.stream, opened.size, opened.file)
    if len(links) == 1:
        library = "libsndfile" if links[0].plain else "ffmpeg"
        return [_Part(opened.stream, opened.path, library, "ogg")]
    parts = []
    for link in links:
        opened.stream.seek(link.start)
        data = _Memory(opened.stream.read(link.stop - link.start))
        parts.append(_Part(data, None, "libsndfile" if link.plain else "ffmpeg", "ogg"))
    return parts


def _frame_parts(opened: _Opened, kind: str) -> list[_Part]:
    opened.stream.seek(0)
    data = opened.stream.read()
    found = frames.read_parts(data, kind, opened.file)
    if not found:
        raise AudioError(f"{opened.file}: holds no samples; record or export it again")
    return [
        _Part(
            _Memory(data[part.start : part.stop]),
            None,
            "ffmpeg",
            kind,
            # aac's spectral band replication doubles the rate, and how it is signalled is known to the decoder alone
            None if kind == "aac" else AudioHeader(part.heard, part.rate_hz, part.channels),
            skipped=part.skipped[0],
        )
        for part in found
    ]


def _flac_parts(opened: _Opened) -> list[_Part]:
    opened.stream.seek(0)
    data = opened.stream.read()
    joined = flac.split(data)
    if len(joined) == 1:
        return [_flac_part(data, opened.stream, opened.path)]
    return [_flac_part(data, _Memory(data), None) for data in joined]


def _flac_part(data: bytes, stream: BinaryIO, path: bytes | None) -> _Part:
    length = flac.true_length(data)
    if length is None:
        return _Part(stream, path, "libsndfile")
    return _Part(stream, path, "ffmpeg", "flac", at_least=length)


@dataclass
class _Run:
    """Consecutive samples of one rate and channel count: blocks (S, channels), whose sum of S is `length`."""

    rate_hz: int
    channels: int
    blocks: list[np.ndarray]


def _waveform(
    opened: _Opened, sample_rate: int, start_s: float | None, end_s: float | None, options: AudioOptions
) -> np.ndarray:
    """Decode, check, mix down and resample."""
    file = opened.file
    if start_s is not None and not start_s >= 0:
        raise AudioError(f"{file}: start_s is {start_s}; it must be 0 or more")
    if end_s is not None and not end_s > (start_s or 0.0):
        raise AudioError(f"{file}: end_s is {end_s}; it must be after start_s ({start_s or 0.0})")
    runs = _decode(opened, start_s or 0.0, end_s)
    if not runs:
        if start_s is None and end_s is None:
            raise AudioError(f"{file}: holds no samples; record or export it again")
        raise _no_samples(file, start_s, end_s)
    gain = 1.0
    for samples in (block for run in runs for block in run.blocks):
        if not np.isfinite(samples).all():
            raise AudioError(f"{file}: holds NaN or infinite samples; re-export the recording")
    peak = max(float(np.abs(block).max()) for run in runs for block in run.blocks)
    if peak > LARGEST_SANE_PEAK:
        if options.peak == "refuse":
            raise AudioError(
                f"{file}: the peak is {peak:.4g}, full scale is 1; export it as integers or scale it to [-1, 1], or "
                "let it be scaled (data.audio.peak=normalise, --peak normalise)"
            )
        gain = 1.0 / peak
    mixed = [(run.rate_hz, _mix(run, file, options)) for run in runs]
    n_samples = sum(len(mono) for _, mono in mixed)
    if gain != 1.0:
        mixed = [(rate_hz, mono * np.float32(gain)) for rate_hz, mono in mixed]
    pieces = [resample(mono, rate_hz, sample_rate) for rate_hz, mono in mixed]
    resampled = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    if not len(resampled):
        raise AudioError(
            f"{file}: {n_samples} samples at {runs[0].rate_hz} Hz are less than one at {sample_rate} Hz; choose a "
            "longer clip"
        )
    clipped: np.ndarray = np.clip(resampled, -1.0, 1.0)
    return clipped


def _mix(run: _Run, file: str, options: AudioOptions) -> np.ndarray:
    """Mix the channels of a run down to (S,) float32."""
    samples = run.blocks[0] if len(run.blocks) == 1 else np.concatenate(run.blocks)
    if options.channels == "loudest" and run.channels > 1:
        loudest = int(np.argmax(np.einsum("sc,sc->c", samples, samples, dtype=np.float64)))
        return np.ascontiguousarray(samples[:, loudest])
    mono: np.ndarray = samples.mean(axis=1, dtype=np.float32)  # (S, channels) -> (S,)
    if run.channels > 1 and _cancels(samples, mono):
        raise AudioError(
            f"{file}: its channels cancel each other (inverted stereo), their mean is silent; take "
            "the loudest (data.audio.channels=loudest, --channels loudest), or export it as mono"
        )
    return mono


def _cancels(samples: np.ndarray, mono: np.ndarray) -> bool:
    """Whether the mean of audible channels (S, channels) is all but silent."""
    energy = float(np.dot(mono, mono))
    loudest = max(float(np.dot(channel, channel)) for channel in np.ascontiguousarray(samples.T))
    return loudest > len(mono) * SILENT_PEAK**2 and energy < _CANCELLED * loudest / 4


def _decode(opened: _Opened, start_s: float, end_s: float | None) -> list[_Run]:
    """The samples of a segment, as runs of one format."""
    parts = _parts(opened)
    if len(parts) == 1:
        decoded = _decode_with_libsndfile(parts[0], opened.file, start_s, end_s)
        if decoded is not None:
            samples, rate_hz = decoded
            return [_Run(rate_hz, samples.shape[1], [samples])] if len(samples) else []
    if end_s is None and start_s == 0.0:
        header = _declared_header(opened, parts)
        if header is not None:
            check_seconds(header.seconds, opened.file, header.frames * header.channels)
    runs: list[_Run] = []
    values = 0
    heard_s, kept_s = 0.0, 0.0
    since, at = 0.0, 0  # where the current rate began, in seconds, and how many samples of it have passed
    rate_hz = 0
    for samples, new_hz in _blocks(parts, opened.file):
        if new_hz != rate_hz:
            since, at, rate_hz = heard_s, 0, new_hz
        first = max(round((start_s - since) * rate_hz) - at, 0)
        last = len(samples) if end_s is None else min(round((end_s - since) * rate_hz) - at, len(samples))
        at += len(samples)
        heard_s = since + at / rate_hz
        wanted = samples[first:last] if last > first else samples[:0]
        if len(wanted):
            kept_s, values = kept_s + len(wanted) / rate_hz, values + wanted.size
            check_seconds(kept_s, opened.file, values)
            if not runs or (runs[-1].rate_hz, runs[-1].channels) != (rate_hz, samples.shape[1]):
                runs.append(_Run(rate_hz, samples.shape[1], []))
            runs[-1].blocks.append(wanted)
        if end_s is not None and heard_s >= end_s:
            break
    if start_s and start_s >= heard_s:
        raise _starts_late(opened.file, start_s, heard_s)
    return runs


def _decode_with_libsndfile(
    part: _Part, file: str, start_s: float, end_s: float | None
) -> tuple[np.ndarray, int] | None:
    """Samples (S, channels) float32 of a segment and their rate in Hz; None where FFmpeg must decode."""
    with _sound(part, file) as sound:
        if sound is None:
            return None
        rate_hz, n_frames = sound.samplerate, sound.frames
        if start_s * rate_hz >= max(n_frames, 1):
            raise _starts_late(file, start_s, n_frames / rate_hz)
        first = round(start_s * rate_hz)
        last = n_frames if end_s is None or end_s * rate_hz >= n_frames else round(end_s * rate_hz)
        check_seconds((last - first) / rate_hz, file, (last - first) * sound.channels)
        if first:
            _skip(sound, first)
        samples = sound.read(last - first, dtype="float32", always_2d=True)
        if len(samples) < last - first:
            raise _truncated(file, len(samples), last - first)
        return samples, rate_hz


def _skip(sound: soundfile.SoundFile, n_samples: int) -> None:
    """Go to a sample; some codecs (G.721, NMS) can only be read from the beginning."""
    if sound.seekable():
        sound.seek(n_samples)
        return
    while n_samples > 0:
        n_samples -= (
            len(sound.read(min(n_samples, _BLOCK_FRAMES), dtype="float32", always_2d=True)) or n_samples
        )


@contextmanager
def _sound(part: _Part, file: str) -> Iterator[soundfile.SoundFile | None]:
    """The part as libsndfile reads it; None where FFmpeg must."""
    name = str(part.path or getattr(part.stream, "name", None))
    # soundfile treats a file whose name ends in .raw as one without a header.
    if part.library == "ffmpeg" or (part.library == "either" and name.lower().endswith(".raw")):
        yield None
        return
    part.stream.seek(0)
    try:
        sound = soundfile.SoundFile(part.path if part.path is not None else part.stream)
    except soundfile.LibsndfileError:
        if part.library == "libsndfile":
            raise
        yield None
        return
    with sound:
        if part.library == "either" and _believes_header(sound):
            yield None
        elif sound.format not in _WHOLE:
            raise not_checked(file, sound.format_info)
        elif sound.samplerate <= 0 or not 0 <= sound.frames < _UNKNOWN_FRAMES:
            raise AudioError(f"{file}: its header is damaged; copy or download it again")
        elif sound.frames < part.at_least:
            raise _truncated(file, sound.frames, part.at_least)
        else:
            yield sound


def _believes_header(sound: soundfile.SoundFile) -> bool:
    """Whether libsndfile trusts facts that may be wrong: the count of an mp3 or w64, or a suffix as the format."""
    of_blocks = sound.format == "W64" and ("ADPCM" in sound.subtype or sound.subtype == "GSM610")
    return of_blocks or sound.format == "RAW" or sound.subtype.startswith("MPEG")


def _blocks(parts: list[_Part], file: str) -> Iterator[tuple[np.ndarray, int]]:
    """Decode all parts to their ends: blocks of samples (S, channels) float32, and their rate in Hz."""
    for part in parts:
        with _sound(part, file) as sound:
            if sound is not None:
                yield from _blocks_of(sound, file)
                continue
        with _recording(part, file) as recording:
            at, n_samples = -part.skipped, 0
            # Behind the expected frames comes the encoder's padding.
            stop = part.expected.frames if part.expected is not None else None
            for samples, rate_hz in recording.blocks():
                wanted = samples[max(-at, 0) : None if stop is None else max(stop - at, 0)]
                at += len(samples)
                n_samples += len(wanted)
                if len(wanted):
                    yield wanted, rate_hz
            _check_count(part, n_samples, file)


def _blocks_of(sound: soundfile.SoundFile, file: str) -> Iterator[tuple[np.ndarray, int]]:
    n_samples = 0
    while len(samples := sound.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        n_samples += len(samples)
        yield samples, sound.samplerate
    if n_samples < sound.frames:
        raise _truncated(file, n_samples, sound.frames)


@contextmanager
def _recording(part: _Part, file: str) -> Iterator[Recording]:
    recording = Recording(part.stream, file, part.format, part.container)
    try:
        yield recording
    finally:
        recording.close()


def _check_count(part: _Part, n_samples: int, file: str) -> None:
    """Compare what FFmpeg decoded with what is known of a part."""
    least = part.expected.frames if part.expected is not None else part.at_least
    if n_samples < least:
        raise _truncated(file, n_samples, least)


def _declared_header(opened: _Opened, parts: list[_Part]) -> AudioHeader | None:
    """The declared length of all parts, in samples at the first one's rate; None if a part declares no length."""
    headers = []
    for part in parts:
        header = _part_header(part, opened.file)
        if header is None:
            return None
        headers.append(header)
    first = headers[0]
    if len(headers) == 1:
        return first
    n_frames = round(sum(header.seconds for header in headers) * first.rate_hz)
    exact = all(header.exact and header.rate_hz == first.rate_hz for header in headers)
    return AudioHeader(n_frames, first.rate_hz, max(header.channels for header in headers), exact)


def _part_header(part: _Part, file: str) -> AudioHeader | None:
    if part.expected is not None:
        return part.expected
    with _sound(part, file) as sound:
        if sound is not None:
            return AudioHeader(sound.frames, sound.samplerate, sound.channels)
    with _recording(part, file) as recording:
        seconds = recording.declared_s()
        if seconds is None or recording.rate_hz <= 0:
            return None
        return AudioHeader(
            round(seconds * recording.rate_hz), recording.rate_hz, recording.channels, exact=False
        )


def _decoded_header(opened: _Opened, parts: list[_Part]) -> AudioHeader:
    """Length by decoding to the end, in samples of the first rate."""
    rate_hz, channels, seconds, n_samples = 0, 0, 0.0, 0
    for samples, new_hz in _blocks(parts, opened.file):
        if not rate_hz:
            rate_hz, channels = new_hz, samples.shape[1]
        seconds += len(samples) / new_hz
        n_samples += len(samples)
        check_seconds(seconds, opened.file)
    if not rate_hz:
        raise AudioError(f"{opened.file}: holds no samples; record or export it again")
    same = abs(seconds * rate_hz - n_samples) < 0.5
    return AudioHeader(n_samples if same else round(seconds * rate_hz), rate_hz, channels)


def _starts_late(file: str, start_s: float, seconds: float) -> AudioError:
    return AudioError(f"{file}: start_s is {start_s} but the clip ends at {seconds:.3f} s; correct the times")


def _no_samples(file: str, start_s: float | None, end_s: float | None) -> AudioError:
    return AudioError(
        f"{file}: the segment from {start_s or 0.0} s to {end_s} s holds no samples; choose a longer one"
    )


def _truncated(file: str, n_samples: int, promised: int) -> AudioError:
    return AudioError(
        f"{file}: is truncated or corrupt: {n_samples} of {promised} samples decode; copy or download it again"
    )


class _Memory(io.BytesIO):
    """A file in memory whose failing seeks do nothing, as libsndfile expects, instead of raising in its callback."""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        try:
            return super().seek(offset, whence)
        except (ValueError, OverflowError):
            return self.tell()


def _open(file: Path) -> BinaryIO:
    """Open a regular file; an `AudioError` names any other kind of path."""
    try:
        return open_regular(file)
    except FileNotFoundError as error:
        hint = (
            "check the address"
            if is_remote(file)
            else "download it first"
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
        why = "its samples do not fit in memory" if isinstance(error, MemoryError) else reason(error)
        why = why.rsplit(": ", 1)[-1].rstrip(".") or type(error).__name__
        raise AudioError(
            f"{file}: cannot be decoded as audio ({why}); give a recording that libsndfile or FFmpeg reads"
        ) from error
