"""FLAC: finds the parts of concatenated files, and checks the header's sample count (RFC 9639)."""

from __future__ import annotations

_START = b"fLaC\x00\x00\x00\x22"  # the marker and the head of the first block, which every file begins with
_BLOCK_SAMPLES = {
    1: 192,
    **{code: 576 << code - 2 for code in range(2, 6)},
    **{code: 256 << code - 8 for code in range(8, 16)},
}
_SEARCHED = 1 << 16  # bytes at the end that are searched for the last frame if the header has no frame size


def split(data: bytes) -> list[bytes]:
    """Split concatenated FLAC files; a single file is returned as it is, in a list of one."""
    starts = []
    at = data.find(_START)
    while at >= 0:
        starts.append(at)
        at = data.find(_START, at + 1)
    if len(starts) < 2:
        return [data]
    return [data[start:stop] for start, stop in zip(starts, [*starts[1:], len(data)], strict=True)]


def true_length(data: bytes) -> int | None:
    """The number of samples up to the last frame, if the header gives no number or a smaller one.

    Writers to a pipe give no number. libsndfile would stop at a number that is too small.

    Returns:
        None where the header's number can be used.
    """
    start = data.find(_START)
    info = data[start + 8 : start + 42]
    if start < 0 or len(info) < 34:
        return None  # libsndfile says what is wrong
    declared = int.from_bytes(info[13:18], "big") & (1 << 36) - 1
    last = _last_sample(data, info)
    return last if last > declared or not declared else None


def _last_sample(data: bytes, info: bytes) -> int:
    """The number of the sample behind the last frame; 0 where no frame was found."""
    largest = int.from_bytes(info[7:10], "big") or _SEARCHED
    lowest = max(len(data) - largest - 16, 0)
    at = len(data)
    while (at := data.rfind(b"\xff", lowest, at)) >= 0:
        stop = _frame_end(data[at : at + 16], int.from_bytes(info[:2], "big"))
        if stop:
            return stop
    return 0


def _frame_end(head: bytes, block_samples: int) -> int:
    """The number of the first sample after the frame with this header; 0 if these bytes are not a frame header."""
    if len(head) < 6 or head[1] & 0xFE != 0xF8 or head[3] & 1:
        return 0
    code = head[2] >> 4
    number, n_number = _coded_number(head[4:11])
    at = 4 + n_number
    if not n_number or not code:
        return 0
    if code in (6, 7):
        samples, at = int.from_bytes(head[at : at + code - 5], "big") + 1, at + code - 5
    else:
        samples = _BLOCK_SAMPLES[code]
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return 0
    return (number if head[1] & 1 else number * block_samples) + samples


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return a number of up to 36 bits in UTF-8's code, and its length in bytes, 0 if there is none."""
    if not data:
        return 0, 0
    ones = 8 - (data[0] ^ 0xFF).bit_length()
    if ones == 0:
        return data[0], 1
    if ones == 1 or len(data) < ones:
        return 0, 0
    value = data[0] & (0x7F >> ones)
    for byte in data[1:ones]:
        if byte & 0xC0 != 0x80:
            return 0, 0
        value = value << 6 | byte & 0x3F
    return value, ones


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07 if crc & 0x80 else crc << 1) & 0xFF
    return crc
