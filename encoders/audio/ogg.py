"""Ogg: pages, their checksums, and the parts of a chained file (RFC 3533)."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import BinaryIO

from alm.common.errors import AudioError

MAGIC = b"OggS"

_HEADER = struct.Struct("<4sBBqIIIB")
_CONTINUED, _BEGINS = 1, 2
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_READ_BY_LIBSNDFILE = (b"\x01vorbis", b"OpusHead")


@dataclass
class OggLink:
    """A chain's link: a complete Ogg file by itself.

    Attributes:
        start: Offset of its first page in bytes.
        stop: Offset of the byte after its last page.
        streams: The first bytes of each logical stream, which name its codec.
    """

    start: int
    stop: int
    streams: list[bytes]

    @property
    def plain(self) -> bool:
        """Whether it holds one stream, of a codec that libsndfile reads."""
        return len(self.streams) == 1 and self.streams[0].startswith(_READ_BY_LIBSNDFILE)


def read_links(stream: BinaryIO, size: int, file: str) -> list[OggLink]:
    """Read every page of an Ogg file.

    A decoder silently skips damaged pages and silently stops after the first link; so pages are checked first.

    Args:
        stream: The file.
        size: Its size in bytes.
        file: Name of the file in errors.

    Raises:
        AudioError: A page is damaged, cut off or missing.
    """
    links: list[OggLink] = []
    at, begins = 0, False
    numbers: dict[int, int] = {}
    stream.seek(0)
    while at < size:
        head = stream.read(_HEADER.size)
        if len(head) == _HEADER.size and head[:4] != MAGIC and links and not any(head):
            break  # padding with zeros
        if len(head) < _HEADER.size or head[:4] != MAGIC:
            if len(head) < _HEADER.size and MAGIC.startswith(head[:4]):
                raise _cut(file, at)
            raise _damaged(file, at)
        _, _, flags, granule, serial, number, checksum, n_lacings = _HEADER.unpack(head)
        lacings = stream.read(n_lacings)
        body = stream.read(sum(lacings))
        if len(lacings) < n_lacings or len(body) < sum(lacings):
            raise _cut(file, at)
        if _checksum(head[:22] + b"\0\0\0\0" + head[26:] + lacings + body) != checksum:
            raise _damaged(file, at)
        stop = at + len(head) + n_lacings + len(body)
        if flags & _BEGINS:
            if not begins:
                links.append(OggLink(at, stop, []))
                numbers.clear()
            links[-1].streams.append(body[:16])
        elif not links:
            raise AudioError(
                f"{file}: begins in the middle of an Ogg stream; download it again from its start"
            )
        elif number != numbers.get(serial, number - 1) + 1 and not _joined_late(
            flags, number, numbers[serial]
        ):
            raise _damaged(file, at)
        begins = bool(flags & _BEGINS)
        numbers[serial] = number
        at = links[-1].stop = stop
    return links


def _joined_late(flags: int, number: int, before: int) -> bool:
    """Whether pages are missing because a listener joined a live stream: right after the headers."""
    return before <= 2 and number > before and not flags & _CONTINUED


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32 is zlib's with the bits of every byte, and of the result, in the other order; it starts with 0."""
    reflected = zlib.crc32(page.translate(_REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(reflected.to_bytes(4, "little").translate(_REVERSED), "big")


def _cut(file: str, at: int) -> AudioError:
    return AudioError(
        f"{file}: is truncated: its Ogg page at byte {at} is cut off; copy or download it again"
    )


def _damaged(file: str, at: int) -> AudioError:
    return AudioError(f"{file}: is corrupt: no whole Ogg page at byte {at}; copy or download it again")
