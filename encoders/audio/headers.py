"""Headers of old and rare formats of plain samples: where their samples begin, and how many bytes the header states.

AVR (Atari), 8SVX, 16SV and MAUD (Amiga), MATLAB 4 and 5, MPC 2000, WVE (Psion), XI and SoX.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

_MAT4_BYTES = {
    0: 8,
    10: 4,
    20: 4,
    30: 2,
    50: 1,
}  # bytes of a number by its type code: float64, float32, int32, int16, uint8
_MAT5_NUMBERS = {2: 1, 3: 2, 5: 4, 7: 4, 9: 8}
_MAT5_MATRIX = 14
_MOST_CHUNKS = 1000


@dataclass(frozen=True)
class Samples:
    """The samples behind a header, as it states them.

    Attributes:
        start: Offset of the first byte of samples.
        n_bytes: Bytes of samples.
        align: The samples are padded to a multiple of this number of bytes.
    """

    start: int
    n_bytes: int
    align: int = 1


def _avr(stream: BinaryIO, _size: int) -> Samples | None:
    head = stream.read(128)
    if len(head) < 128:
        return None
    stereo, bits = struct.unpack(">hh", head[12:16])
    return Samples(128, int.from_bytes(head[26:30], "big") * (bits // 8) * (1 + (stereo & 1)))


def _iff(stream: BinaryIO, size: int) -> Samples | None:
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > size:
            break
        stream.seek(at)
        name, declared = struct.unpack(">4sI", stream.read(8))
        if name in (b"BODY", b"MDAT"):
            return Samples(at + 8, declared, align=2)
        at += 8 + declared + declared % 2
    return None


def _mat4(stream: BinaryIO, _size: int) -> Samples | None:
    """The sample rate is a matrix of one number, the samples are the matrix behind it."""
    head = stream.read(4096)
    order = "<" if head[:4] == bytes(4) else ">"
    at, found = 0, None
    for _ in range(2):
        if at + 20 > len(head):
            return None
        kind, rows, columns, imaginary, n_name = struct.unpack(f"{order}5I", head[at : at + 20])
        width = _MAT4_BYTES.get(kind % 1000)
        if width is None or imaginary:
            return None
        found = Samples(at + 20 + n_name, rows * columns * width)
        at = found.start + found.n_bytes
    return found


def _mat5(stream: BinaryIO, _size: int) -> Samples | None:
    """The sample rate is a matrix of one number, the samples are the matrix behind it."""
    head = stream.read(4096)
    order = "<" if head[126:128] == b"IM" else ">"
    at = 128
    for last in (False, True):
        if at + 8 > len(head):
            return None
        kind, n_bytes = struct.unpack(f"{order}II", head[at : at + 8])
        if kind != _MAT5_MATRIX:
            return None
        stop, at = at + 8 + n_bytes, at + 8
        if not last:
            at = stop
    for _ in range(3):  # flags, dimensions, name
        kind, n_bytes = struct.unpack(f"{order}II", head[at : at + 8]) if at + 8 <= len(head) else (0, 0)
        # A short element holds its data in the field that would hold its size.
        at += 8 if kind >> 16 else 8 + -(-n_bytes // 8) * 8
    if at + 8 > len(head):
        return None
    kind, n_bytes = struct.unpack(f"{order}II", head[at : at + 8])
    return Samples(at + 8, n_bytes, align=8) if kind in _MAT5_NUMBERS else None


def _mpc2k(stream: BinaryIO, _size: int) -> Samples | None:
    head = stream.read(42)
    if len(head) < 42:
        return None
    return Samples(42, int.from_bytes(head[30:34], "little") * 2 * (2 if head[21] else 1))


def _wve(stream: BinaryIO, _size: int) -> Samples | None:
    head = stream.read(32)
    return Samples(32, int.from_bytes(head[18:22], "big")) if len(head) == 32 else None


def _xi(stream: BinaryIO, _size: int) -> Samples | None:
    """The only sample of an instrument; a sample's header has 40 bytes, of which the first four hold its size."""
    head = stream.read(338)
    if len(head) < 338 or int.from_bytes(head[296:298], "little") != 1:
        return None
    return Samples(338, int.from_bytes(head[298:302], "little"))


def _sox(stream: BinaryIO, _size: int) -> Samples | None:
    head = stream.read(16)
    order = "<" if head[:4] == b".SoX" else ">"
    if len(head) < 16:
        return None
    n_header, n_samples = struct.unpack(f"{order}IQ", head[4:])
    return Samples(4 + n_header, 4 * n_samples)


FORMATS: tuple[tuple[str, Callable[[bytes], bool], Callable[[BinaryIO, int], Samples | None]], ...] = (
    ("AVR", lambda head: head[:4] == b"2BIT", _avr),
    ("IFF", lambda head: head[:4] == b"FORM", _iff),
    ("MATLAB 4", lambda head: head[:12] == bytes(4) + b"\1\0\0\0" * 2, _mat4),
    ("MATLAB 4", lambda head: head[:12] == b"\0\0\3\xe8" + b"\0\0\0\1" * 2, _mat4),
    ("MATLAB 5", lambda head: head[:19] == b"MATLAB 5.0 MAT-file", _mat5),
    ("MPC 2000", lambda head: head[:2] == b"\1\4", _mpc2k),
    ("WVE", lambda head: head[:16] == b"ALawSoundFile**\0", _wve),
    ("XI", lambda head: head[:20] == b"Extended Instrument:", _xi),
    ("SoX", lambda head: head[:4] in (b".SoX", b"XoS."), _sox),
)
"""Names of the formats, how a file of one begins, and the function that reads its header; None where it is damaged."""
