"""Streams of frames without a container (mp3, ADTS aac, AMR, GSM): where each frame begins, and what lies between them.

Files of this kind are written by simple concatenation: of tags, of recordings, of whole files. Decoders resynchronise
silently, so what they skip is found here. MPEG headers: ISO 11172-3, 2.4.1.3 and ISO 13818-7, 6.2; AMR: RFC 4867, 5.3;
GSM: RFC 3551, 4.5.8.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from alm.common.errors import AudioError

# Bit rates in kbit/s of index 1 to 14.
_MPEG1_KBPS = {
    1: (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    2: (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    3: (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
}
_MPEG2_KBPS = {
    1: (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    2: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    3: (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG1_HZ = (44_100, 48_000, 32_000)
_ADTS_HZ = (
    96_000,
    88_200,
    64_000,
    48_000,
    44_100,
    32_000,
    24_000,
    22_050,
    16_000,
    12_000,
    11_025,
    8_000,
    7_350,
)
_AMR_BYTES = {
    b"#!AMR\n": (8_000, 160, (12, 13, 15, 17, 19, 20, 26, 31, 5, 6, 5, 5, 0, 0, 0, 0)),
    b"#!AMR-WB\n": (16_000, 320, (17, 23, 32, 36, 40, 46, 50, 58, 60, 5, 0, 0, 0, 0, 0, 0)),
}
# Bytes of the largest frame; a recording of a stream can begin in the middle of one.
_MOST_JUNK_BEFORE = 2_881
_GSM_BYTES, _GSM_SAMPLES, _GSM_AGREEING = 33, 160, 10
_AGREEING = 3  # frames in a row that make a position the start of a stream


@dataclass(frozen=True)
class _Frame:
    size: int
    samples: int
    rate_hz: int
    channels: int


@dataclass
class FramePart:
    """A run of frames of one rate and channel count, decodable by itself.

    Attributes:
        start: Offset of its first frame in bytes.
        stop: Offset of the byte after its last one.
        frames: Samples per channel that its frames hold, information frames not counted.
        rate_hz: Sample rate.
        channels: Number of channels.
        skipped: Samples at the start and at the end that are the encoder's delay and padding.
    """

    start: int
    stop: int
    frames: int
    rate_hz: int
    channels: int
    skipped: tuple[int, int] = (0, 0)

    @property
    def heard(self) -> int:
        """Samples per channel that remain without delay and padding."""
        return max(self.frames - sum(self.skipped), 0)


def kind_of(data: bytes) -> str | None:
    """Return `mp3`, `aac`, `amr` or `gsm` where the data (tags may come first) are frames of this kind."""
    if any(data.startswith(magic) for magic in _AMR_BYTES):
        return "amr"
    if len(data) >= _GSM_BYTES * _GSM_AGREEING and _is_gsm(data[: _GSM_BYTES * _GSM_AGREEING]):
        return "gsm"
    start = after_tags(data, 0)
    if data[start : start + 4] in (b"fLaC", b"OggS"):
        return None
    stop = min(start + _MOST_JUNK_BEFORE, len(data) - 4)
    for kind, parse in (("mp3", _mpeg), ("aac", _adts)):
        at = start
        while 0 <= at <= stop:
            if _agree(data, at, parse, _AGREEING if at == start else 2 * _AGREEING):
                return kind
            at = data.find(b"\xff", at + 1, stop + 1)
    return None


def read_parts(data: bytes, kind: str, file: str) -> list[FramePart]:
    """Walk along all frames; a new part begins after a tag, at an information frame and where the format changes.

    Args:
        data: The whole file.
        kind: As returned by `kind_of`.
        file: Name of the file in errors.

    Raises:
        AudioError: The last frame is cut off, or something between frames is neither a frame nor a tag.
    """
    if kind == "amr":
        return _amr_parts(data, file)
    if kind == "gsm":
        return _gsm_parts(data, file)
    parse = _mpeg if kind == "mp3" else _adts
    parts: list[FramePart] = []
    at, joined = 0, False
    promised = 0
    while at < len(data):
        frame = parse(data, at)
        if frame is None:
            after = after_tags(data, at)
            if after == at:
                after = _after_junk(data, at, parse, parts, promised, file)
            joined, at = False, after
            continue
        if at + frame.size > len(data):
            if not parts and not joined:
                raise AudioError(
                    f"{file}: cannot be decoded: no whole {kind} frame in it; copy or download it again"
                )
            raise AudioError(f"{file}: is truncated: its last frame is cut off; copy or download it again")
        information = _information(data, at, frame) if kind == "mp3" else None
        if (
            information is not None
            or not joined
            or (frame.rate_hz, frame.channels)
            != (
                parts[-1].rate_hz,
                parts[-1].channels,
            )
        ):
            parts.append(FramePart(at, at, 0, frame.rate_hz, frame.channels))
        if information is None:
            parts[-1].frames += frame.samples
        else:
            parts[-1].skipped, n_frames = information
            # Skip the information frame: a decoder may read it in another way, and give another length.
            parts[-1].start = at + frame.size
            promised += n_frames
        at += frame.size
        parts[-1].stop, joined = at, True
    return [part for part in parts if part.frames]


def _after_junk(
    data: bytes,
    at: int,
    parse: Callable[[bytes, int], _Frame | None],
    parts: list[FramePart],
    promised: int,
    file: str,
) -> int:
    """The offset of the next frame behind bytes that are no frame and no tag, where these may be ignored."""
    behind = len(data) - len(data[at:].lstrip(b"\0"))
    if behind > at and behind < len(data) and after_tags(data, behind) > behind:
        return behind  # padding with zeros before the tag of the next recording
    found = at
    while (found := data.find(b"\xff", found + 1)) >= 0:
        if _agree(data, found, parse, _AGREEING):
            break
    if found < 0 and parts and (sum(part.frames for part in parts) >= promised):
        return len(data)  # something unknown behind the last frame
    if found >= 0 and not parts and found - at <= _MOST_JUNK_BEFORE:
        return found  # the rest of a frame: recorded from a running stream
    raise AudioError(f"{file}: is corrupt: no frame at byte {at}; copy or download it again")


def _agree(data: bytes, at: int, parse: Callable[[bytes, int], _Frame | None], n_frames: int) -> bool:
    """Whether some frames of one rate, or all up to the end of the data, begin here."""
    rates: set[int] = set()
    for _ in range(n_frames):
        frame = parse(data, at)
        if frame is None:
            return bool(rates) and (after_tags(data, at) > at or at >= len(data))
        rates.add(frame.rate_hz)
        at += frame.size
    return len(rates) == 1


def _mpeg(data: bytes, at: int) -> _Frame | None:
    """The frame of MPEG audio layer I, II or III whose header is at an offset."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    frame = _MPEG_FRAMES.get((head[1] & 0xFE) << 8 | head[2] & 0xFE)
    if frame is None:
        return None
    return frame[head[3] >> 6 == 3]


def _mpeg_frames() -> dict[int, tuple[_Frame, _Frame]]:
    """Stereo and mono frame for each pair of the second and third header byte; irrelevant bits are left out."""
    table = {}
    for version in (0, 2, 3):  # 2.5, 2 and 1
        for layer in (1, 2, 3):
            samples = {1: 384, 2: 1152, 3: 1152 if version == 3 else 576}[layer]
            for index in range(1, 15):
                kbps = (_MPEG1_KBPS if version == 3 else _MPEG2_KBPS)[layer][index - 1]
                for rate_index, base_hz in enumerate(_MPEG1_HZ):
                    rate_hz = base_hz // {3: 1, 2: 2, 0: 4}[version]
                    for padded in (0, 1):
                        if layer == 1:
                            size = (12_000 * kbps // rate_hz + padded) * 4
                        else:
                            size = samples // 8 * 1_000 * kbps // rate_hz + padded
                        second = 0xE0 | version << 3 | (4 - layer) << 1
                        key = second << 8 | index << 4 | rate_index << 2 | padded << 1
                        frames = (_Frame(size, samples, rate_hz, 2), _Frame(size, samples, rate_hz, 1))
                        table[key] = frames
    return table


_MPEG_FRAMES = _mpeg_frames()


def _information(data: bytes, at: int, frame: _Frame) -> tuple[tuple[int, int], int] | None:
    """Read an information frame (Xing, Info, VBRI): (delay, padding), and the sample count it states; else None."""
    version_1 = data[at + 1] & 8
    side = (32 if frame.channels == 2 else 17) if version_1 else (17 if frame.channels == 2 else 9)
    if data[at + 36 : at + 40] == b"VBRI":
        return (0, 0), int.from_bytes(data[at + 50 : at + 54], "big") * frame.samples
    place = at + 4 + side
    if data[place : place + 4] not in (b"Xing", b"Info") or frame.samples not in (576, 1152):
        return None
    flags = data[place + 7]
    n_frames = int.from_bytes(data[place + 8 : place + 12], "big") if flags & 1 else 0
    lame = place + 8 + 4 * bool(flags & 1) + 4 * bool(flags & 2) + 100 * bool(flags & 4) + 4 * bool(flags & 8)
    skipped = (0, 0)
    if data[lame : lame + 4] in (b"LAME", b"Lavf", b"Lavc"):
        packed = int.from_bytes(data[lame + 21 : lame + 24], "big")
        # 528 + 1 samples: the decoder's own delay
        skipped = ((packed >> 12) + 529, max((packed & 0xFFF) - 529, 0) if n_frames else 0)
    return skipped, n_frames * frame.samples


def _adts(data: bytes, at: int) -> _Frame | None:
    """The frame of ADTS aac whose header is at an offset."""
    head = data[at : at + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    rate_index = head[2] >> 2 & 15
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if rate_index >= len(_ADTS_HZ) or size < 7:
        return None
    channels = (head[2] & 1) << 2 | head[3] >> 6
    return _Frame(size, 1024 * ((head[6] & 3) + 1), _ADTS_HZ[rate_index], channels)


def _amr_parts(data: bytes, file: str) -> list[FramePart]:
    """The frames of an AMR file as one part; each frame's first byte names its mode, which gives its size."""
    magic = next(magic for magic in _AMR_BYTES if data.startswith(magic))
    rate_hz, samples, sizes = _AMR_BYTES[magic]
    at, n_frames = len(magic), 0
    while at < len(data):
        head = data[at]
        if head & 0x83:  # padding bits
            raise AudioError(f"{file}: is corrupt: no frame at byte {at}; copy or download it again")
        at += 1 + sizes[head >> 3 & 15]
        n_frames += 1
    if at > len(data):
        raise AudioError(f"{file}: is truncated: its last frame is cut off; copy or download it again")
    return [FramePart(0, len(data), n_frames * samples, rate_hz, 1)]


def _gsm_parts(data: bytes, file: str) -> list[FramePart]:
    """The frames of a raw GSM 06.10 file as one part."""
    if not _is_gsm(data):
        raise AudioError(f"{file}: is corrupt: a GSM frame is damaged; copy or download it again")
    if len(data) % _GSM_BYTES:
        raise AudioError(f"{file}: is truncated: its last frame is cut off; copy or download it again")
    return [FramePart(0, len(data), len(data) // _GSM_BYTES * _GSM_SAMPLES, 8_000, 1)]


def _is_gsm(data: bytes) -> bool:
    """Whether all frames begin with GSM's four bits."""
    return all(first >> 4 == 0xD for first in data[::_GSM_BYTES])


def after_tags(data: bytes, at: int) -> int:
    """Return the offset behind the ID3, APE and Lyrics3 tags that begin at an offset."""
    while True:
        head = data[at : at + 32]
        if head[:3] == b"ID3" and len(head) >= 10 and max(head[6:10]) < 0x80:
            size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
            at = min(at + 10 + size + (10 if head[5] & 0x10 else 0), len(data))
        elif head[:4] == b"TAG+":
            at = min(at + 227, len(data))
        elif head[:3] == b"TAG":
            at = min(at + 128, len(data))
        elif head[:8] == b"APETAGEX" and len(head) == 32:
            size = int.from_bytes(head[12:16], "little")
            is_header = int.from_bytes(head[20:24], "little") & 1 << 29
            at = min(at + 32 + (size if is_header else 0), len(data))
        elif head[:11] == b"LYRICSBEGIN":
            end = data.find(b"LYRICS200", at)
            if end < 0:
                return at
            at = end + 9
        else:
            return at
