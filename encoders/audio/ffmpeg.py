"""Decoding with FFmpeg (PyAV): what libsndfile does not read, and video files with a sound track.

Axis letters: S samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from alm.common.errors import AudioError
from encoders.audio.containers import Container, not_checked

if TYPE_CHECKING:
    from av.audio.stream import AudioStream
    from av.container import InputContainer

# Demuxers of files. Playlists and device formats are not among them: they open other files and addresses.
_FORMATS = ",".join(
    """aa aac ac3 ac4 aea aiff amr amrnb amrwb ape apm aptx aptx_hd asf asf_o ast au avi avr bit caf codec2 dff dsf dts
    dtshd eac3 flac flv g722 g729 gsm hca iamf iff ilbc ircam kux live_flv loas m4v matroska,webm mlp
    mov,mp4,m4a,3gp,3g2,mj2 mp3 mpc mpc8 mpeg mpegts mpegtsraw mxf nistsphere nsv nut oma ogg osq qcp qoa rm rso sbc
    shn sln sol sox spdif tak truehd tta voc vqf w64 wav wtv wv xwma""".split()
)
# The formats above in which a truncated or damaged file is detected: by sizes (`containers`), counts, or frames.
_WHOLE = frozenset(
    """aac ac3 aiff amr ape asf au avi caf dts eac3 flac flv gsm iff loas matroska mov mp3 mpeg mpegts nistsphere ogg
    sox tta voc w64 wav wv""".split()
)
# Formats whose declared length is reliable. In wav and similar formats it is computed from sizes that may be damaged.
_DECLARE_DURATION = frozenset({"mov", "matroska", "asf", "avi", "tta", "wv", "ape"})
_ONE_DURATION = frozenset({"asf", "matroska"})  # kinds that declare one length for all tracks
_LARGEST_DIFFERENCE_S = 0.1  # allowed for asf: wma's decoder loses its first frame, up to 93 ms
_STEADY_TIMES = frozenset({"asf", "mpeg"})  # kinds whose packets have times without gaps
_LARGEST_GAP_S = 0.02
# Plane pointers of an FFmpeg frame. PyAV counts planes up to the first empty pointer; if all are used, it reads
# past the end.
_MOST_PLANES = 8
_INTEGER_SCALE = {"u8": 2.0**7, "s16": 2.0**15, "s32": 2.0**31, "s64": 2.0**63}


class Recording:
    """The sound track of an opened file.

    Args:
        stream: The file, seekable. FFmpeg is given no path, so no name is taken for an address.
        file: Name of the file in errors.
        format: FFmpeg's name of the container; None recognises it by its content.
        container: The facts that the container states, to compare the decoded samples with.

    Raises:
        AudioError: FFmpeg does not read it, or it has no sound track.
    """

    def __init__(
        self,
        stream: BinaryIO,
        file: str,
        format: str | None = None,  # noqa: A002
        container: Container | None = None,
    ) -> None:
        import av

        stream.seek(0)
        self.file = file
        self._says = container or Container()
        self._begin_s: float | None = None
        self._container: InputContainer = av.open(
            stream,
            "r",
            format=format,
            options={"format_whitelist": _FORMATS, "protocol_whitelist": "none"},
            metadata_errors="replace",
        )
        if not self._is_one_of(_WHOLE):
            raise not_checked(file, self._container.format.long_name)
        tracks = list(self._container.streams.audio)
        if not tracks:
            raise AudioError(f"{file}: has no sound track; give a recording")
        self._track: AudioStream = next((track for track in tracks if _is_default(track)), tracks[0])
        if len(tracks) > 1:
            warnings.warn(
                f"{file}: has {len(tracks)} sound tracks; number {tracks.index(self._track) + 1} is used",
                stacklevel=2,
            )
        if self._track.codec_context is None:
            raise AudioError(f"{file}: its sound track's codec is unknown; convert it to wav or flac")
        # FLAC's decoder compares checksums only where it is told to.
        self._track.codec_context.options = {"err_detect": "crccheck+explode"}

    @property
    def rate_hz(self) -> int:
        """Sample rate that the file declares."""
        return int(self._track.rate or 0)

    @property
    def channels(self) -> int:
        """Channels that the file declares."""
        return int(self._track.channels)

    def declared_s(self) -> float | None:
        """Length in seconds that the file declares; None where its kind of file declares none."""
        if not self._is_one_of(_DECLARE_DURATION) or not self._says.declares_length:
            return None
        if self._is_one_of(_ONE_DURATION) and len(self._container.streams) > 1:
            return None  # the declared length is that of the longest track
        if self._track.duration is not None and self._track.time_base is not None:
            seconds = float(self._track.duration * self._track.time_base)
        elif self._container.duration is not None:
            seconds = (self._container.duration - (self._container.start_time or 0)) / 1e6
        else:
            return None
        return seconds if seconds > 0 else None

    def _is_one_of(self, names: frozenset[str]) -> bool:
        return bool(names & set(self._container.format.name.split(",")))

    def blocks(self) -> Iterator[tuple[np.ndarray, int]]:
        """Decode to the end.

        Yields:
            Samples (S, channels) float32 as `ffmpeg -f f32le` gives them, and their rate in Hz.

        Raises:
            AudioError: A packet or frame is damaged or cut off.
        """
        for frame in self._frames():
            yield _samples_of(frame), frame.sample_rate

    def lengths(self) -> Iterator[tuple[int, int]]:
        """Decode to the end; yields the number of samples per channel of each frame, and its rate in Hz."""
        for frame in self._frames():
            yield frame.samples, frame.sample_rate

    def _frames(self) -> Iterator[Any]:
        heard_s, n_packets = 0.0, 0
        raw = self._track.codec_context.name.startswith("pcm_")  # its last packet is shorter than the others
        try:
            for packet in self._container.demux(self._track):
                if packet.is_corrupt and not raw:
                    raise AudioError(
                        f"{self.file}: is truncated or corrupt after {heard_s:.2f} s; download it again"
                    )
                n_packets += packet.size > 0
                for frame in packet.decode():
                    if frame.is_corrupt:
                        raise AudioError(f"{self.file}: is corrupt after {heard_s:.2f} s; download it again")
                    self._check_gap(frame, heard_s)
                    heard_s += frame.samples / frame.sample_rate
                    yield frame
        except (OSError, ValueError) as error:  # FFmpegError is one of them
            raise AudioError(
                f"{self.file}: is truncated or corrupt after {heard_s:.2f} s; copy or download it again"
            ) from error
        self._check_end(n_packets, heard_s)

    def _check_end(self, n_packets: int, heard_s: float) -> None:
        """Compare the decoded length with the container's: a demuxer that loses its position ends silently."""
        missing = n_packets < self._says.packets.get(self._track.index, 0)
        if self._is_one_of(_STEADY_TIMES):
            missing |= (self.declared_s() or 0.0) - heard_s > _LARGEST_DIFFERENCE_S
        if missing:
            raise AudioError(
                f"{self.file}: is truncated or corrupt: only {heard_s:.2f} s of it decode; download it again"
            )

    def _check_gap(self, frame: Any, heard_s: float) -> None:
        """Compare a frame's time with the length decoded so far: some demuxers drop damaged packets silently."""
        if not self._is_one_of(_STEADY_TIMES) or frame.time is None:
            return
        self._begin_s = frame.time - heard_s if self._begin_s is None else self._begin_s
        missing_s = frame.time - self._begin_s - heard_s
        if missing_s > _LARGEST_GAP_S:
            raise AudioError(
                f"{self.file}: is corrupt: {missing_s:.2f} s are missing after {heard_s:.2f} s; download it again"
            )

    def close(self) -> None:
        """Release FFmpeg's memory; the file stays open."""
        self._container.close()


def _packed(frame: Any) -> Any:
    """A planar frame with its channels interleaved."""
    from av import AudioResampler

    resampler = AudioResampler(frame.format.packed, frame.layout, frame.sample_rate)
    (packed,) = resampler.resample(frame)
    return packed


def _is_default(track: AudioStream) -> bool:
    return "default" in str(track.disposition).lower()


def _samples_of(frame: Any) -> np.ndarray:
    """A frame's samples (S, channels) float32."""
    name = frame.format.name
    if name.endswith("p") and frame.layout.nb_channels >= _MOST_PLANES:
        return _samples_of(_packed(frame))
    values = frame.to_ndarray()
    # Planar: (channels, S). Packed: (1, S * channels).
    values = values.T if name.endswith("p") else values.reshape(-1, frame.layout.nb_channels)
    scale = _INTEGER_SCALE.get(name.rstrip("p"))
    if scale is None:
        floats: np.ndarray = values.astype(np.float32, copy=False)
        return floats
    if name.startswith("u8"):
        values = values.astype(np.int16) - 128
    scaled: np.ndarray = values.astype(np.float32) / np.float32(scale)
    return scaled
