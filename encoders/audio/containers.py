"""Detects truncated files by the size that their container states.

Decoders return what there is of a cut-off file without an error. A writer to a pipe does not know the size and leaves a
placeholder, which is ignored.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from alm.common.errors import AudioError
from encoders.audio import headers

_MOST_CHUNKS = 10_000
# Sizes that writers leave as placeholders if they cannot seek back: 0xFFFFFFFF (ffmpeg); 0x7FFFFFFF and a little less
# (sox), in aiff 0x7F000000 plus the 8 bytes before the samples; 0x80000000.
_PLACEHOLDERS = (
    range(0x7F000000, 0x7F000100),
    range(0x7FFF0000, 0x80000100),
    range(0xFFFF0000, 0x100000000),
)
_UNKNOWN_FRAMES = 0x3F000000  # frame counts above this in aiff are placeholders: sox writes 0x7F000000 bytes
_MOST_BEHIND = 1024  # bytes behind the samples that no chunk explains: padding, an ID3v1 tag
_TAGS = (b"ID3", b"TAG", b"APETAGEX")
_PADDING = 64  # bytes behind samples, of writers that fill blocks
# For each AIFC compression type: bytes of a block per channel (0: as the sample's bits require), samples of a block.
_AIFC_BLOCKS = {
    b"NONE": (0, 1), b"twos": (0, 1), b"sowt": (0, 1), b"raw ": (0, 1), b"in24": (3, 1), b"in32": (4, 1),
    b"fl32": (4, 1), b"FL32": (4, 1), b"fl64": (8, 1), b"FL64": (8, 1), b"ulaw": (1, 1), b"ULAW": (1, 1),
    b"alaw": (1, 1), b"ALAW": (1, 1), b"ima4": (34, 64), b"GSM ": (33, 160),
}  # fmt: skip
_W64_DATA = bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
_EBML_UNKNOWN = {(1 << 7 * n) - 1 for n in range(1, 9)}
_EBML, _SEGMENT, _CLUSTER, _TRACKS, _TRACK = 0x1A45DFA3, 0x18538067, 0x1F43B675, 0x1654AE6B, 0xAE
_BLOCK_GROUP, _TRACK_NUMBER, _BLOCKS = 0xA0, 0xD7, (0xA3, 0xA1)
_INSIDE = {  # the child elements that each element may hold; 0xEC is a gap, 0xBF a checksum
    _SEGMENT: {
        _CLUSTER, _TRACKS, 0x1C53BB6B, 0x1549A966, 0x114D9B74, 0x1941A469, 0x1043A770, 0x1254C367, 0xEC, 0xBF,
    },
    _CLUSTER: {0xE7, 0x5854, 0xA7, 0xAB, 0xA3, _BLOCK_GROUP, 0xAF, 0xEC, 0xBF},
    _BLOCK_GROUP: {0xA1, 0xA2, 0x75A1, 0x9B, 0xFA, 0xFB, 0xFD, 0xA4, 0x75A2, 0x8E, 0xC8, 0xAF, 0xEC, 0xBF},
    _TRACKS: {_TRACK, 0xEC, 0xBF},
}  # fmt: skip
_TS_PACKET = 188
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ASF_DATA = bytes.fromhex("3626b2758e66cf11a6d900aa0062ce6c")


@dataclass(frozen=True)
class Container:
    """The facts that a container states about its tracks.

    Attributes:
        packets: Smallest possible number of packets per track, by track index; empty if packets were not counted.
        declares_length: Whether the length that it declares was known when it was written.
        n_samples: Fewest samples per channel that decoding must give; 0 where it does not say.
    """

    packets: dict[int, int] = field(default_factory=dict)
    declares_length: bool = True
    n_samples: int = 0


def check_whole(stream: BinaryIO, size: int, file: str) -> Container | None:
    """Compare the sizes that a container declares with what is there.

    Args:
        stream: The file.
        size: Its size in bytes.
        file: Name of the file in errors.

    Returns:
        The facts that the container states; None if the file is no container.

    Raises:
        AudioError: The file is truncated, or one of its size fields is damaged.
    """
    stream.seek(0)
    head = stream.read(256)
    for fits, check in _CHECKS:
        if fits(head):
            return check(stream, size, file) or Container()
    return None


def not_checked(file: str, kind: str) -> AudioError:
    """The error for a format in which truncated or damaged files cannot be detected.

    Args:
        file: Name of the file in errors.
        kind: Name of its format.
    """
    return AudioError(
        f"{file}: {kind} files are not read, because a truncated one would go unnoticed; convert it to wav or flac "
        "(ffmpeg -i FILE FILE.flac, sox FILE FILE.flac)"
    )


def _riff(stream: BinaryIO, size: int, file: str) -> None:
    """WAVE in RIFF, RIFX (big-endian) or RF64 (sizes above 4 GiB in a chunk of their own)."""
    stream.seek(0)
    magic, riff_size, _ = struct.unpack("<4sI4s", stream.read(12))
    order = ">" if magic == b"RIFX" else "<"
    at, large = 12, None
    for _ in range(_MOST_CHUNKS):
        if at + 8 > size:
            break
        stream.seek(at)
        name, declared = struct.unpack(f"{order}4sI", stream.read(8))
        if name == b"ds64" and magic == b"RF64":
            sizes = stream.read(16)
            large = int.from_bytes(sizes[8:16], "little") if len(sizes) == 16 else None
        if name == b"data":
            if declared == 0xFFFFFFFF and large is not None:
                declared = large
            elif _is_placeholder(declared) or (declared == 0 and riff_size != size - 8):
                return
            _check_samples(declared, size - at - 8, "a wav" if magic != b"RF64" else "an RF64 file", file)
            _check_rest_of_wav(stream, size, at + 8 + declared, declared, order, file)
            return
        at += 8 + declared + declared % 2  # chunks are padded to an even size
    raise AudioError(f"{file}: is a wav without samples (no data chunk); copy or download it again")


def _check_rest_of_wav(stream: BinaryIO, size: int, at: int, declared: int, order: str, file: str) -> None:
    """Refuse a wav in which many bytes that are no chunk follow the samples.

    Files above 4 GiB look like this, because a wav header cannot hold their size.
    """
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(9)  # one more: some writers do not pad to an even size
        if head[:1] == b"\0" and at % 2:
            head, at = head[1:], at + 1
        if size - at <= max(_MOST_BEHIND, declared // 100) or head.startswith(_TAGS) or not any(head):
            return
        if not all(32 <= sign < 127 for sign in head[:4]):
            raise AudioError(
                f"{file}: is corrupt: its header promises {declared} bytes of samples, {size - at} more follow that "
                "are no chunk; export it again"
            )
        length = struct.unpack(f"{order}I", head[4:8])[0]
        at += 8 + length


def _plain(
    kind: str,
    read: Callable[[BinaryIO, int], headers.Samples | None],
    stream: BinaryIO,
    size: int,
    file: str,
) -> None:
    """Plain samples behind a header that states how many bytes they have."""
    stream.seek(0)
    samples = read(stream, size)
    if samples is None:
        raise AudioError(
            f"{file}: is corrupt: not a whole {kind} file of samples; copy it again or convert it to wav"
        )
    held = size - samples.start
    _check_samples(samples.n_bytes, held, kind, file)
    if held - samples.n_bytes > -samples.n_bytes % samples.align:
        raise AudioError(
            f"{file}: is corrupt: its header promises {samples.n_bytes} bytes of samples, {held} are there ({kind}); "
            "copy it again or convert it to wav"
        )


def _aiff(stream: BinaryIO, size: int, file: str) -> None:
    """AIFF and AIFC: the chunk COMM counts the samples that SSND holds."""
    at, comm = 12, b""
    for _ in range(_MOST_CHUNKS):
        if at + 8 > size:
            break
        stream.seek(at)
        name, declared = struct.unpack(">4sI", stream.read(8))
        if name == b"COMM":
            comm = stream.read(min(declared, 22))
        if name == b"SSND":
            if not declared or _is_placeholder(declared):
                return
            _check_samples(declared, size - at - 8, "an aiff", file)
            offset = int.from_bytes(stream.read(4), "big")
            _check_aiff_count(comm, declared - 8 - offset, file)
            return
        at += 8 + declared + declared % 2


def _check_aiff_count(comm: bytes, held: int, file: str) -> None:
    """Compare the samples that a chunk COMM counts with the bytes of samples, where their kind is known."""
    if len(comm) < 18:
        return
    channels, frames, bits = struct.unpack(">hIh", comm[:8])
    n_bytes, per_block = _AIFC_BLOCKS.get(comm[18:22] or b"NONE", (0, 0))
    n_bytes = (n_bytes or (bits + 7) // 8) * channels
    if not 0 < frames < _UNKNOWN_FRAMES or not n_bytes or not per_block:
        return
    promised = -(-frames // per_block) * n_bytes
    # some writers count blocks; libsndfile divides those of stereo by the channels again
    n_blocks, rest = divmod(held, n_bytes)
    counts_blocks = per_block > 1 and not rest and frames in (n_blocks, n_blocks // channels)
    if not counts_blocks and not 0 <= held - promised <= max(_PADDING, promised // 100):
        raise AudioError(
            f"{file}: is corrupt: its header counts {promised} bytes of samples, its chunk of samples holds "
            f"{max(held, 0)}; copy or download it again"
        )


def _au(stream: BinaryIO, size: int, file: str) -> None:
    stream.seek(0)
    head = stream.read(12)
    if len(head) == 12:
        _, at, declared = struct.unpack("<4sII" if head[:4] == b"dns." else ">4sII", head)
        if not _is_placeholder(declared):
            _check_samples(declared, size - at, "an au file", file)
            if size - at - declared > max(_MOST_BEHIND, declared // 100):
                raise AudioError(
                    f"{file}: is corrupt: its header promises {declared} bytes of samples, {size - at} are there; "
                    "export it again"
                )


def _sphere(stream: BinaryIO, size: int, _file: str) -> Container:
    """NIST SPHERE (TIMIT, WSJ): lines of text `name -type value`; samples are counted per channel."""
    stream.seek(0)
    header = stream.read(min(size, 1 << 16)).decode("latin-1").split("end_head", 1)[0]
    found = re.search(r"^sample_count -i (\d+)\s*$", header, re.MULTILINE)
    return Container(n_samples=int(found[1][:18]) if found else 0)


def _caf(stream: BinaryIO, size: int, file: str) -> Container:
    """CAF: chunks up to the end of the file; that of the samples may have an unknown size if it is the last."""
    at, n_samples, per_packet = 8, 0, 0
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(12)
        if not any(head):
            break  # the end, or padding with zeros
        if len(head) < 12 or not all(32 <= sign < 127 for sign in head[:4]):
            raise AudioError(f"{file}: is corrupt: no caf chunk at byte {at}; copy or download it again")
        name, declared = struct.unpack(">4sq", head)
        if name == b"desc":
            description = stream.read(32)
            _check_caf_description(description, file)
            per_packet = int.from_bytes(description[20:24], "big")
        if name == b"data" and declared != -1:
            _check_samples(declared, size - at - 12, "a caf", file)
        if name == b"pakt":
            n_samples = int.from_bytes(stream.read(16)[8:], "big", signed=True)
        if declared < 0:
            break
        at += 12 + declared
    return Container(n_samples=max(n_samples - per_packet, 0))  # some writers count the last packet's padding


def _check_caf_description(description: bytes, file: str) -> None:
    """Refuse invalid rates, and samples whose size differs from that of their packets."""
    if len(description) < 32:
        return
    rate_hz, kind, _, packet_bytes, packet_frames, channels, bits = struct.unpack(">d4sIIIII", description)
    plain = kind in (b"lpcm", b"ulaw", b"alaw")
    bits = bits if kind == b"lpcm" else 8
    if not 0 < rate_hz < float("inf") or not channels or (plain and packet_frames != 1):
        raise AudioError(f"{file}: its header is damaged; copy or download it again")
    if plain and packet_bytes != channels * ((bits + 7) // 8):
        raise AudioError(
            f"{file}: is corrupt: packets of {packet_bytes} bytes for {channels} samples of {bits} bits; copy or "
            "download it again"
        )


def _w64(stream: BinaryIO, size: int, file: str) -> None:
    at = 40
    for _ in range(_MOST_CHUNKS):
        if at + 24 > size:
            return
        stream.seek(at)
        name, declared = struct.unpack("<16sQ", stream.read(24))
        if name == _W64_DATA:
            if declared < 1 << 62:
                _check_samples(declared - 24, size - at - 24, "a w64", file)
                behind = size - at - declared
                if behind > max(_MOST_BEHIND, declared // 100):  # libsndfile would decode them
                    raise AudioError(
                        f"{file}: is corrupt: {behind} bytes lie behind its samples; export it again as wav or flac"
                    )
            return
        if declared < 24:
            return
        at += (declared + 7) // 8 * 8


def _avi(stream: BinaryIO, size: int, file: str) -> Container:
    """AVI: lists of chunks; a demuxer skips what it cannot read among the chunks `01wb`, which hold the sound."""
    at = 0
    chunks: Counter[int] = Counter()
    while at < size:
        stream.seek(at)
        head = stream.read(12)
        name, declared = head[:4], int.from_bytes(head[4:8], "little")
        if not any(head) and not any(stream.read()):
            break  # padding with zeros
        if len(head) < 8 or not name.isascii() or not name.decode().isprintable():
            raise AudioError(f"{file}: is corrupt: no avi chunk at byte {at}; copy or download it again")
        is_open = not declared or _is_placeholder(declared)  # the writer could not go back
        if not is_open and at + 8 + declared > size:
            raise _cut(file, at + 8 + declared, size)
        descend = name == b"RIFF" or (name == b"LIST" and head[8:] in (b"movi", b"rec "))
        if name[:2].isdigit():
            if name[2:] not in (b"wb", b"dc", b"db", b"pc", b"tx", b"sb"):
                raise AudioError(f"{file}: is corrupt: no avi chunk at byte {at}; copy or download it again")
            chunks[int(name[:2])] += declared > 0
        at += 12 if descend else 8 + declared + declared % 2
    return Container(chunks)


def _mp4(stream: BinaryIO, size: int, file: str) -> None:
    at = 0
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(16)
        if len(head) < 8 or not any(head[:4]):  # size 0: up to the end of the file
            return
        declared = int.from_bytes(head[:4], "big")
        if declared == 1:
            declared = int.from_bytes(head[8:16], "big")
        if declared < 8:
            return
        if at + declared > size:
            raise _cut(file, at + declared, size)
        at += declared


def _ebml(stream: BinaryIO, size: int, file: str) -> Container:
    """Matroska and WebM: every element that leads to a block; a demuxer skips what it cannot read."""
    at, parents = 0, [(0, size)]  # the elements around this place, outermost first: (id, end)
    numbers: list[int] = []
    blocks: Counter[int] = Counter()
    while at < size:
        while at >= parents[-1][1] and len(parents) > 1:
            parents.pop()
        stream.seek(at)
        head = stream.read(12)
        name, n_name = _ebml_number(head, keep_mark=True)
        declared, n_size = _ebml_number(head[n_name:], keep_mark=False)
        body = at + n_name + n_size
        if not n_name or not n_size:
            if size - at < 12 and head and any(head):
                raise _cut(file, at + 12, size)
            raise _no_element(file, at)
        known = declared not in _EBML_UNKNOWN or n_size * 7 != declared.bit_length()
        if known and body + declared > size:
            raise _cut(file, body + declared, size)
        stop = body + declared if known else size
        while len(parents) > 1 and name not in _INSIDE[parents[-1][0]]:
            if parents[-1][1] < size:
                raise _no_element(file, at)
            parents.pop()  # an element of unknown size ends at the first element that it cannot hold
        if len(parents) == 1 and name not in (_EBML, _SEGMENT, 0xEC, 0xBF):
            raise _no_element(file, at)
        if name in _BLOCKS:
            blocks[_ebml_number(head[n_name + n_size :], keep_mark=False)[0]] += 1
        elif name == _TRACK:
            stream.seek(body)
            numbers.append(_track_number(stream.read(min(declared, 1 << 16))))
        if name in _INSIDE:
            parents.append((name, stop))
        at = body if name in _INSIDE or not known else stop
    if set(blocks) - set(numbers):
        raise AudioError(f"{file}: is corrupt: it has blocks of a track that is missing; download it again")
    return Container({index: blocks[number] for index, number in enumerate(numbers)})


def _track_number(entry: bytes) -> int:
    """The number of a Matroska track by the content of its entry; 0 where it has none."""
    at = 0
    while at < len(entry):
        name, n_name = _ebml_number(entry[at : at + 4], keep_mark=True)
        declared, n_size = _ebml_number(entry[at + n_name : at + n_name + 8], keep_mark=False)
        if not n_name or not n_size:
            return 0
        at += n_name + n_size
        if name == _TRACK_NUMBER:
            return int.from_bytes(entry[at : at + declared], "big")
        at += declared
    return 0


def _no_element(file: str, at: int) -> AudioError:
    return AudioError(f"{file}: is corrupt: no Matroska element at byte {at}; copy or download it again")


def _ebml_number(data: bytes, keep_mark: bool) -> tuple[int, int]:
    """A variable-length number and its length in bytes; length 0 where there is none."""
    if not data or not data[0]:
        return 0, 0
    length = 9 - data[0].bit_length()
    if len(data) < length or (keep_mark and length > 4):
        return 0, 0
    value = int.from_bytes(data[:length], "big")
    return (value if keep_mark else value & ((1 << 7 * length) - 1)), length


def _asf(stream: BinaryIO, size: int, file: str) -> Container | None:
    """ASF (wma, wmv): objects with sizes; the samples lie in packets of one size."""
    at, packet_bytes, broadcast = 30, 0, False
    for _ in range(_MOST_CHUNKS):
        stream.seek(at)
        head = stream.read(104)
        declared = int.from_bytes(head[16:24], "little")
        if head[:16] == _ASF_FILE and len(head) == 104:
            broadcast = bool(head[88] & 1)  # sizes and length were unknown when the header was written
            packet_bytes = int.from_bytes(head[92:96], "little")
            if packet_bytes != int.from_bytes(head[96:100], "little"):
                raise AudioError(f"{file}: is corrupt: its packets have no size; copy or download it again")
            if not broadcast and int.from_bytes(head[40:48], "little") > size:
                raise _cut(file, int.from_bytes(head[40:48], "little"), size)
        if head[:16] == _ASF_DATA:
            rest = (size - at - 50) % packet_bytes if broadcast and packet_bytes else 0
            stream.seek(at + 50)
            first = stream.read(1)
            stream.seek(size - rest)
            if rest and stream.read(1) == first:  # it begins as a packet does, not as an index
                raise _cut(file, size - rest + packet_bytes, size)
            break
        if declared < 24:
            break
        at += declared
    return Container(declares_length=not broadcast)


def _voc(stream: BinaryIO, size: int, file: str) -> None:
    """Creative Voice File: blocks of a type and a size; type 0 ends the file."""
    stream.seek(20)
    at = int.from_bytes(stream.read(2), "little")
    while at < size:
        stream.seek(at)
        head = stream.read(4)
        if head[0] == 0 and at + 1 == size:
            return
        stop = at + 4 + int.from_bytes(head[1:], "little")
        if len(head) < 4 or stop > size:
            raise _cut(file, stop, size)
        if not 0 < head[0] <= 9:
            raise AudioError(f"{file}: is corrupt: no voc block at byte {at}; copy or download it again")
        at = stop
    raise _cut(file, size + 1, size)


def _flv(stream: BinaryIO, size: int, file: str) -> None:
    """Flash video: tags, each with its size before and behind it."""
    stream.seek(5)
    at = int.from_bytes(stream.read(4), "big") + 4
    while at < size:
        stream.seek(at)
        head = stream.read(4)
        body = int.from_bytes(head[1:], "big")
        if len(head) < 4 or at + 15 + body > size:
            raise _cut(file, at + 15 + body, size)
        stream.seek(at + 11 + body)
        if head[0] & 0x1F not in (8, 9, 18) or int.from_bytes(stream.read(4), "big") != body + 11:
            raise AudioError(f"{file}: is corrupt: no flv tag at byte {at}; copy or download it again")
        at += 15 + body


def _ts(mark: int, stream: BinaryIO, size: int, file: str) -> None:
    """MPEG transport streams: packets of one size, each with a mark; in m2ts a time of 4 bytes comes before it."""
    packet_bytes = _TS_PACKET + mark
    if size % packet_bytes:
        raise _cut(file, (size // packet_bytes + 1) * packet_bytes, size)
    stream.seek(0)
    at = 0
    while packets := stream.read(packet_bytes * 4096):
        marks = packets[mark::packet_bytes]
        if marks.strip(b"G"):
            at += next(index for index, sign in enumerate(marks) if sign != ord("G")) * packet_bytes
            raise AudioError(f"{file}: is corrupt: no MPEG-TS packet at byte {at}; copy or download it again")
        at += len(packets)


def _sds(_stream: BinaryIO, _size: int, file: str) -> None:
    """MIDI sample dumps: libsndfile reads past damaged blocks, and reads an incomplete last block as zeros."""
    raise not_checked(file, "SDS (MIDI Sample Dump Standard)")


def _mpeg(stream: BinaryIO, size: int, file: str) -> None:
    """MPEG program streams: packs and packets, each behind a start code; ISO 13818-1, 2.5.3."""
    at = 0
    while at < size:
        stream.seek(at)
        head = stream.read(14)
        code = head[3] if len(head) > 3 and head[:3] == b"\0\0\1" else 0
        if code == 0xB9:  # the end, which another stream may follow
            at += 4
        elif code == 0xBA:
            version_2 = len(head) > 4 and head[4] >> 6 == 1
            at += 14 + (head[13] & 7) if version_2 and len(head) == 14 else 14 if version_2 else 12
        elif code >= 0xBB:
            at += 6 + int.from_bytes(head[4:6], "big")
        elif not any(head):
            at += len(head)  # padding
        elif len(head) < 4 and b"\0\0\1".startswith(head):
            raise _cut(file, at + 4, size)
        else:
            padding = len(head) - len(head.lstrip(b"\0")) - 2
            if padding <= 0:
                raise AudioError(
                    f"{file}: is corrupt: no MPEG packet at byte {at}; copy or download it again"
                )
            at += padding
    if at > size:
        raise _cut(file, at, size)


def _check_samples(declared: int, held: int, what: str, file: str) -> None:
    if held < declared:
        raise AudioError(
            f"{file}: is truncated: its header promises {declared} bytes of samples, "
            f"{max(held, 0)} are there ({what}); copy or download it again"
        )


def _is_placeholder(declared: int) -> bool:
    return any(declared in numbers for numbers in _PLACEHOLDERS)


def _cut(file: str, declared: int, size: int) -> AudioError:
    return AudioError(
        f"{file}: is truncated: it is at least {declared} bytes long by its own sizes, {size} are there; "
        "copy or download it again"
    )


_CHECKS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int, str], Container | None]], ...] = (
    (lambda head: head[:4] in (b"RIFF", b"RIFX", b"RF64") and head[8:12] == b"WAVE", _riff),
    (lambda head: head[:4] == b"RIFF" and head[8:12] == b"AVI ", _avi),
    (lambda head: head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"), _aiff),
    (lambda head: head[:4] in (b".snd", b"dns."), _au),
    (lambda head: head[:4] == b"caff", _caf),
    (lambda head: head[:7] == b"NIST_1A", _sphere),
    (lambda head: head[:4] == b"riff" and head[4:8] == b"\x2e\x91\xcf\x11", _w64),
    (lambda head: head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"), _mp4),
    (lambda head: head[:4] == b"\x1a\x45\xdf\xa3", _ebml),
    (lambda head: head[:16] == _ASF_HEADER, _asf),
    (lambda head: head[:19] == b"Creative Voice File", _voc),
    (lambda head: head[:4] == b"FLV\1", _flv),
    (lambda head: head[:4] == b"\0\0\1\xba", _mpeg),
    (lambda head: head[:2] == b"\xf0\x7e" and head[3:4] == b"\1", _sds),
    *((fits, partial(_plain, kind, read)) for kind, fits, read in headers.FORMATS),
    (lambda head: head[:1] == b"G" and head[_TS_PACKET : _TS_PACKET + 1] == b"G", partial(_ts, 0)),
    (lambda head: head[4:5] == b"G" and head[_TS_PACKET + 8 : _TS_PACKET + 9] == b"G", partial(_ts, 4)),
)
