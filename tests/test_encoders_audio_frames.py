"""Headers of frames, tags and rare formats, against sizes worked out by hand from their specifications."""

import io
import struct

import pytest

from alm.common.errors import AudioError
from encoders.audio.frames import after_tags, kind_of, read_parts
from encoders.audio.headers import FORMATS, Samples

# First four bytes of a frame without padding; its size in bytes, samples and rate (ISO 11172-3, 2.4.2.3; 13818-3).
MPEG = {
    "MPEG-1 III 128 kbit/s": (b"\xff\xfb\x90\x00", 417, 1152, 44_100, 1),  # 144 * 128000 / 44100 = 417.96
    "MPEG-2 III 64 kbit/s": (b"\xff\xf3\x80\x00", 208, 576, 22_050, 1),  # 72 * 64000 / 22050 = 208.98
    "MPEG-2.5 III 32 kbit/s": (b"\xff\xe3\x48\x00", 288, 576, 8_000, 1),  # 72 * 32000 / 8000
    "MPEG-1 II 192 kbit/s": (b"\xff\xfd\xa4\x00", 576, 1152, 48_000, 1),  # 144 * 192000 / 48000
    "MPEG-2 II 160 kbit/s": (b"\xff\xf5\xe8\x00", 1440, 1152, 16_000, 1),  # 144 * 160000 / 16000
    "MPEG-1 I 384 kbit/s": (b"\xff\xff\xc8\x00", 576, 384, 32_000, 4),  # 4 * 12 * 384000 / 32000
    "MPEG-2 I 256 kbit/s": (b"\xff\xf7\xe4\x00", 512, 384, 24_000, 4),  # 4 * 12 * 256000 / 24000
}


@pytest.mark.parametrize("name", MPEG)
@pytest.mark.parametrize("mono", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_mpeg_frames_have_the_size_of_their_rate(name, mono, padded):
    head, size, samples, rate_hz, slot = MPEG[name]
    head = bytes([head[0], head[1], head[2] | 2 * padded, 0xC0 * mono])
    frame = head.ljust(size + slot * padded, b"\0")
    data = frame * 7
    assert kind_of(data) == "mp3"
    (part,) = read_parts(data, "mp3", "x.mp3")
    assert (part.start, part.stop, part.frames) == (0, len(data), 7 * samples)
    assert (part.rate_hz, part.channels, part.skipped) == (rate_hz, 1 if mono else 2, (0, 0))
    with pytest.raises(AudioError, match=r"x\.mp3: is truncated: its last frame is cut off"):
        read_parts(data[:-1], "mp3", "x.mp3")


@pytest.mark.parametrize("second_third", [b"\xfb\x00", b"\xfb\xf0", b"\xfb\x9c", b"\xf9\x90", b"\xeb\x90"])
def test_reserved_values_make_no_mpeg_frame(second_third):
    """Free and forbidden bit rates, a reserved sample rate, layer and version."""
    assert kind_of((b"\xff" + second_third + b"\0").ljust(417, b"\0") * 7) is None


def adts(size: int, rate: int, channels: int, blocks: int = 1, head: int = 0xF1) -> bytes:
    fields = [0xFF, head, 1 << 6 | rate << 2 | channels >> 2, (channels & 3) << 6 | size >> 11, size >> 3 & 255,
              (size & 7) << 5 | 31, 0xFC | blocks - 1]  # fmt: skip
    return bytes(fields).ljust(size, b"\0")


@pytest.mark.parametrize(("rate", "rate_hz"), [(0, 96_000), (4, 44_100), (8, 16_000), (12, 7_350)])
def test_aac_frames(rate, rate_hz):
    data = adts(371, rate, 2) * 3 + adts(2100, rate, 2, blocks=4, head=0xF9)
    assert kind_of(data) == "aac"
    (part,) = read_parts(data, "aac", "x.aac")
    assert (part.frames, part.rate_hz, part.channels) == (3 * 1024 + 4 * 1024, rate_hz, 2)
    other = data + adts(371, rate, 7)  # another number of channels: a part of its own
    assert [(p.start, p.channels, p.frames) for p in read_parts(other, "aac", "x")] == [
        (0, 2, 7168), (len(data), 7, 1024),
    ]  # fmt: skip
    with pytest.raises(AudioError, match=f"no frame at byte {len(data)}"):
        read_parts(data + adts(371, 13, 2) + data, "aac", "x.aac")


@pytest.mark.parametrize(
    ("magic", "samples", "rate_hz", "sizes"),
    [
        (b"#!AMR\n", 160, 8_000, (12, 13, 15, 17, 19, 20, 26, 31, 5)),
        (b"#!AMR-WB\n", 320, 16_000, (17, 23, 32, 36, 40, 46, 50, 58, 60, 5)),
    ],
)
def test_amr_frames_of_every_mode(magic, samples, rate_hz, sizes):
    """RFC 4867, 5.3: the speech bits of a mode in whole bytes behind a byte with the mode."""
    data = magic + b"".join(bytes([mode << 3 | 4]) + bytes(size) for mode, size in enumerate(sizes))
    data += bytes([15 << 3 | 4])  # no data
    assert kind_of(data) == "amr"
    (part,) = read_parts(data, "amr", "x.amr")
    assert (part.frames, part.rate_hz, part.stop) == ((len(sizes) + 1) * samples, rate_hz, len(data))
    with pytest.raises(AudioError, match="its last frame is cut off"):
        read_parts(data[:-2], "amr", "x.amr")
    with pytest.raises(AudioError, match=f"no frame at byte {len(data)}"):
        read_parts(data + b"\x84", "amr", "x.amr")


def test_tags_are_passed_over_by_the_size_that_they_say():
    id3 = b"ID3\4\0\0" + bytes([0, 0, 2, 5])  # 2 * 128 + 5 bytes
    assert after_tags(id3 + bytes(300), 0) == 10 + 261
    with_footer = b"ID3\4\0\x10" + bytes([0, 0, 0, 8])
    assert after_tags(with_footer + bytes(30), 0) == 10 + 8 + 10
    assert (
        after_tags(b"ID3\4\0\0" + bytes([0, 0, 0, 0x80]) + bytes(200), 0) == 0
    )  # no size: seven bits a byte
    assert after_tags(b"ID3\4\0\0" + bytes([0, 0, 9, 9]) + bytes(5), 0) == 15  # cut off
    assert after_tags(b"--TAG".ljust(300, b"x"), 2) == 130
    assert after_tags(b"TAG+".ljust(300, b"x"), 0) == 227
    ape = b"APETAGEX" + struct.pack("<IIII", 2000, 40, 1, 1 << 29) + bytes(8)
    assert after_tags(ape + bytes(100), 0) == 72
    assert after_tags(ape[:20] + bytes(12) + b"\1" * 50, 0) == 32  # a footer: its items are in front of it
    assert after_tags(b"LYRICSBEGIN" + b"words" + b"LYRICS200" + b"x", 0) == 25
    assert after_tags(b"LYRICSBEGINwords", 0) == 0


@pytest.mark.parametrize(
    ("head", "side", "samples"),
    [(b"\xff\xfb\x90\x00", 32, 1152), (b"\xff\xfb\x90\xc0", 17, 1152), (b"\xff\xf3\x80\x00", 17, 576),
     (b"\xff\xf3\x80\xc0", 9, 576)],
)  # fmt: skip
@pytest.mark.parametrize("flags", [15, 1, 9, 0])
def test_an_information_frame_says_delay_and_padding(head, side, samples, flags):
    size = 417 if samples == 1152 else 208
    sound = head.ljust(size, b"\0")
    fields = [(1, struct.pack(">I", 3)), (2, bytes(4)), (4, bytes(100)), (8, bytes(4))]
    lame = b"LAME3.100".ljust(21, b"\0") + (576 << 12 | 1000).to_bytes(3, "big")
    info = head + bytes(side) + b"Info" + struct.pack(">I", flags)
    info += b"".join(content for flag, content in fields if flags & flag) + lame
    data = info.ljust(size, b"\0") + sound * 3
    (part,) = read_parts(data, "mp3", "x.mp3")
    (again,) = read_parts(data[:size] + data, "mp3", "x.mp3")  # a run of no frames is no part
    assert (again.start, again.frames) == (2 * size, part.frames)
    # The decoder's own delay is 529 samples: it adds to the encoder's, and takes from the padding.
    assert part.skipped == (576 + 529, 1000 - 529 if flags & 1 else 0)
    assert (part.start, part.frames, part.heard) == (size, 3 * samples, 3 * samples - sum(part.skipped))


def header(name: str, content: bytes) -> Samples | None:
    found = [read for of, begins, read in FORMATS if begins(content) and of == name]
    assert len(found) == 1
    return found[0](io.BytesIO(content), len(content))


def _avr(stereo: int, bits: int) -> bytes:
    return (b"2BIT" + bytes(8) + struct.pack(">hh", stereo, bits) + bytes(10) + struct.pack(">I", 10)).ljust(
        128, b"\0"
    )


def _mat4(order: str) -> bytes:
    """A matrix of doubles with one number, then 2 x 7 numbers of 16 bits; names of 3 and 5 bytes."""
    kind = 0 if order == "<" else 1000
    rate = struct.pack(f"{order}5I", kind, 1, 1, 0, 3) + b"fs\0" + bytes(8)
    return rate + struct.pack(f"{order}5I", kind + 30, 2, 7, 0, 5) + b"wave\0" + bytes(28)


CASES = {
    "AVR mono": ("AVR", _avr(0, 8), 128, 10),
    "AVR stereo": ("AVR", _avr(-1, 16), 128, 40),
    "IFF odd chunk": ("IFF", b"FORM\0\0\0\x208SVX" + b"NAME\0\0\0\3abc\0" + b"BODY\0\0\0\6abcdef", 32, 6),
    "MATLAB 4 little": ("MATLAB 4", _mat4("<"), 56, 28),
    "MATLAB 4 big": ("MATLAB 4", _mat4(">"), 56, 28),
    "MPC mono": ("MPC 2000", (b"\1\4".ljust(30, b"\0") + struct.pack("<I", 300)).ljust(42, b"\0"), 42, 600),
    "MPC stereo": (
        "MPC 2000",
        (b"\1\4".ljust(21, b"\0") + b"\1" + bytes(8) + struct.pack("<I", 300)).ljust(42, b"\0"),
        42,
        1200,
    ),
    "WVE": ("WVE", (b"ALawSoundFile**\0\0\0" + struct.pack(">I", 777)).ljust(32, b"\0"), 32, 777),
    "XI": (
        "XI",
        (b"Extended Instrument:".ljust(296, b"\0") + struct.pack("<HI", 1, 500)).ljust(338, b"\0"),
        338,
        500,
    ),
    "SoX little": ("SoX", b".SoX" + struct.pack("<IQ", 40, 25), 44, 100),
    "SoX big": ("SoX", b"XoS." + struct.pack(">IQ", 40, 25), 44, 100),
}


@pytest.mark.parametrize("case", CASES)
def test_rare_headers_say_where_their_samples_are(case):
    name, content, start, n_bytes = CASES[case]
    found = header(name, content)
    assert found is not None and (found.start, found.n_bytes) == (start, n_bytes)
    if not name.startswith(("IFF", "MATLAB")):
        assert header(name, content[:-1]) is None  # the header itself is cut off


def test_rare_headers_that_say_no_single_sample_are_damaged():
    two = b"Extended Instrument:".ljust(296, b"\0") + struct.pack("<HI", 2, 500)
    assert header("XI", two.ljust(338, b"\0")) is None
    assert header("IFF", b"FORM\0\0\0\x208SVX" + b"NAME\0\0\0\4abcd") is None
    complex_ = _mat4("<")
    assert header("MATLAB 4", complex_[:43] + b"\1" + complex_[44:]) is None
