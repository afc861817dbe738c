"""Every encoding and container is heard whole: compared sample by sample with ffmpeg, and damaged ones are refused."""

from __future__ import annotations

import base64
import contextlib
import http.server
import io
import json
import random
import shutil
import struct
import threading
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_formats import ENCODINGS, PIPED, TOLERANCE, VIDEOS, Made, encoded, make, sound

from alm.checkpoint import load_processor
from alm.cli import main
from alm.commands.ask import _read_clip
from alm.common.errors import AudioError, ConfigError
from alm.common.settings import parse_settings
from alm.data.audit import statistics, verify
from alm.data.manifest import write_manifest
from alm.data.records import AudioRef
from encoders.audio import (
    AudioOptions,
    applied,
    decode_audio,
    fetch_audio,
    find_file,
    load_audio,
    ogg,
    read_header,
    resample,
    search,
    seconds_of,
    url_name,
)
from encoders.audio import urls as urls_module
from encoders.registry import encoder_class
from eval.runner.benchmark import run_benchmark
from eval.waveforms import Waveforms
from train.pipeline.runner import run_stage
from train.settings import TrainSettings
from train.tune.conversations import ClipWaveforms

NAMES = [*ENCODINGS, *PIPED, *VIDEOS]


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Made], dict[str, str]]:
    if shutil.which("ffmpeg") is None:
        pytest.skip(f"{len(NAMES)} encodings need ffmpeg, which is not installed")
    made, missing = make(tmp_path_factory.mktemp("formats"))
    assert len(made) >= 30, missing
    return made, missing


@pytest.mark.parametrize("name", NAMES)
def test_every_encoding_is_heard_as_ffmpeg_hears_it(recordings, name: str) -> None:
    """Samples, exact length, cheap length, a segment, the content without its name, and training's door."""
    made, missing = recordings
    if name not in made:
        pytest.skip(f"ffmpeg here cannot make it: {missing[name]}")
    one, rate_hz = made[name], made[name].rate_hz
    heard = load_audio(one.path, rate_hz)
    expected = np.clip(one.samples.mean(axis=1, dtype=np.float32), -1, 1)
    assert len(heard) == len(expected)
    assert np.abs(heard - expected).max() <= TOLERANCE.get(name, 1e-6)
    assert seconds_of(one.path) == len(heard) / rate_hz
    header = read_header(one.path)
    assert header.rate_hz == rate_hz and header.channels == one.samples.shape[1]
    assert not header.exact or header.frames == len(heard)
    first, last = round(0.3 * rate_hz), round(0.7 * rate_hz)
    assert np.array_equal(load_audio(one.path, rate_hz, 0.3, 0.7), heard[first:last])
    data = one.path.read_bytes()
    assert np.array_equal(decode_audio(data, "x", rate_hz), heard)  # no suffix, no path
    assert len(AudioRef(one.path).load(16_000)) == pytest.approx(len(heard) * 16_000 / rate_hz, abs=1)


def test_training_evaluation_and_ask_hear_every_encoding(recordings, llm_dir, tmp_path, capsys) -> None:
    """One run of each over all recordings; then what each of them decodes, against ffmpeg's samples at its rate."""
    made, _ = recordings
    folder = next(iter(made.values())).path.parent
    rows = [{"id": n, "audio": str(folder / n), "question": "What is it?", "answer": "a tone"} for n in made]
    write_manifest(tmp_path / "all.jsonl", rows)
    encoder_class("audiomosaic").tiny().save_pretrained(tmp_path / "encoder")
    optim = {"steps": -(-len(made) // 16), "batch_size": 16, "warmup_steps": 0}
    values = {
        "stage": "align",
        "out": str(tmp_path / "run"),
        "encoder": str(tmp_path / "encoder"),
        "optim": optim,
    }
    values |= {"llm": str(llm_dir), "data": {"train": [str(tmp_path / "all.jsonl")]}}
    model = run_stage(parse_settings(TrainSettings, values))
    assert json.loads((tmp_path / "run/finished.json").read_text())["samples"] == len(made)
    overrides = [f"data={tmp_path / 'all.jsonl'}", "controls=[none]", "max_new_tokens=1"]
    run_benchmark("manifest", model, tmp_path / "scores", overrides)
    assert len((tmp_path / "scores/predictions.jsonl").read_text().splitlines()) == len(made)
    capsys.readouterr()
    files = [str(one.path) for one in made.values()]
    assert main(["ask", str(model), *files, "What is it?", "--jsonl", "--max-new-tokens", "1"]) == 0
    answered = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["audio"] for line in answered if "answer" in line] == files

    processor = load_processor(model)
    rate_hz = processor.sample_rate
    trained, evaluated = ClipWaveforms(rate_hz), Waveforms()
    differences: dict[str, dict[str, float]] = {}
    for name, one in made.items():
        ref = AudioRef(one.path)
        whole = np.clip(one.samples.mean(axis=1, dtype=np.float32), -1, 1)
        wanted = np.clip(resample(whole, one.rate_hz, rate_hz), -1, 1)
        n_samples, (batch, *_) = trained.collate([ref])[0][0], trained.collate([ref])[1].values()
        first, last = round(0.3 * one.rate_hz), round(0.7 * one.rate_hz)
        heard = {
            "train": (batch[0, :n_samples].numpy(), wanted),
            "eval": (evaluated.load(ref, rate_hz), wanted),
            "ask": (_read_clip(str(one.path), processor, None), wanted),
            "segment": (AudioRef(one.path, 0.3, 0.7).load(one.rate_hz), whole[first:last]),
            "duration": (np.array([seconds_of(one.path)]), np.array([len(whole) / one.rate_hz])),
        }
        assert {door: got.shape for door, (got, _) in heard.items()} == {
            d: w.shape for d, (_, w) in heard.items()
        }, name
        differences[name] = {door: float(np.abs(got - want).max()) for door, (got, want) in heard.items()}
    allowed = {name: 2 * TOLERANCE.get(name, 1e-6) for name in made}
    assert len(differences) >= 30
    assert {n: found for n, found in differences.items() if max(found.values()) > allowed[n]} == {}


@pytest.mark.parametrize(
    ("container", "codec", "rate_hz"),
    [
        ("mp4", "aac", 16_000),
        ("webm", "libopus", 48_000),
        ("mp3", "libmp3lame", 16_000),
        ("amr", "libopencore_amrnb", 8_000),
        ("adts", "aac", 16_000),
        ("3gp", "libopencore_amrnb", 8_000),
    ],
)
def test_formats_without_ffmpeg(container: str, codec: str, rate_hz: int) -> None:
    data = encoded(container, codec, rate_hz)
    heard, wanted = decode_audio(data, "x", rate_hz), sound(rate_hz)[:, 0]
    assert len(wanted) <= len(heard) + 320 <= len(wanted) + 4096  # encoders delay and pad
    spectra = [np.abs(np.fft.rfft(wave, 1 << 16)) for wave in (heard, wanted)]
    assert np.corrcoef(*spectra)[0, 1] > 0.9
    assert seconds_of(data) == len(heard) / rate_hz
    assert np.array_equal(decode_audio(data, "x", rate_hz, 0.25, 0.5), heard[rate_hz // 4 : rate_hz // 2])
    with pytest.raises(AudioError, match=r"^x: "):
        decode_audio(data[: len(data) * 2 // 3 - 1], "x", rate_hz)


def written(samples: np.ndarray, rate_hz: int, container: str, subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate_hz, format=container, subtype=subtype)
    return out.getvalue()


@pytest.mark.parametrize(
    ("container", "subtype", "rates"),
    [
        ("OGG", "VORBIS", (16_000, 16_000)),
        ("OGG", "OPUS", (48_000, 48_000)),
        ("FLAC", "PCM_16", (16_000, 16_000)),
        ("MP3", "MPEG_LAYER_III", (16_000, 16_000)),
        ("OGG", "VORBIS", (16_000, 44_100)),
        ("FLAC", "PCM_16", (44_100, 16_000)),
        ("MP3", "MPEG_LAYER_III", (44_100, 16_000)),
    ],
)
def test_joined_files_are_heard_to_the_end(container: str, subtype: str, rates: tuple[int, int]) -> None:
    """`cat a b > c`: each part as it is alone, also where rate and channels change."""
    parts = [
        written(sound(rate_hz)[:, : 1 + at], rate_hz, container, subtype) for at, rate_hz in enumerate(rates)
    ]
    alone = [decode_audio(part, "part", 16_000) for part in parts]
    joined = b"".join(parts)
    heard = decode_audio(joined, "joined", 16_000)
    assert np.array_equal(heard, np.concatenate(alone))
    assert seconds_of(joined) == pytest.approx(sum(seconds_of(part) for part in parts), abs=1e-4)
    begin = seconds_of(parts[0])
    second = decode_audio(joined, "joined", 16_000, begin, begin + 0.5)
    assert len(second) == pytest.approx(8_000, abs=1)
    assert np.abs(second[100:7_900] - alone[1][100:7_900]).max() < 0.02


def test_a_flac_whose_header_says_too_little_is_heard_whole() -> None:
    data = bytearray(written(sound(16_000)[:, 0], 16_000, "FLAC"))
    heard = decode_audio(bytes(data), "a", 16_000)
    data[21:26] = (int.from_bytes(data[21:26], "big") - 8_000).to_bytes(5, "big")
    assert np.array_equal(decode_audio(bytes(data), "a", 16_000), heard)
    assert seconds_of(bytes(data)) == 1.0


CUT = ["a.avi", "a.mpg", "video.mp4", "a.mka", "alac.m4a", "a.webm", "v2.wma", "a.3gp", "a.flv", "piped.webm"]


@pytest.mark.parametrize("name", CUT)
def test_a_container_that_is_damaged_is_never_heard_in_part(recordings, name: str) -> None:
    """Cut short anywhere, with a hole, with zeros, with a flipped byte: refused, or all of it is heard."""
    made, missing = recordings
    if name not in made:
        pytest.skip(missing[name])
    data, rng = made[name].path.read_bytes(), random.Random(name)
    whole = len(decode_audio(data, name, 16_000))
    damaged = [data[: rng.randrange(1, len(data))] for _ in range(6)]
    for size in (1, 100, 2000):
        at = rng.randrange(len(data) - size)
        damaged += [data[:at] + data[at + size :], data[:at] + bytes(size) + data[at + size :]]
    for _ in range(20):
        at = rng.randrange(len(data))
        damaged.append(data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :])
    refused = 0
    for number, changed in enumerate(damaged):
        try:
            heard = len(decode_audio(changed, name, 16_000))
        except AudioError as error:
            refused += 1
            assert str(error).startswith(f"{name}: ") and "0x" not in str(error)
            continue
        assert number >= 6, "it is cut short"
        assert abs(heard - whole) <= 1200, f"{number}: {heard} of {whole} samples"
        header = read_header(changed, name, exact=True)
        assert abs(header.seconds * 16_000 - heard) <= 2
    assert refused > 6


def test_blocks_of_a_lost_track_and_lost_packets_are_noticed(recordings) -> None:
    """Without a message, a demuxer drops data of unknown tracks, and ends where it loses its place."""
    made, _ = recordings
    webm = made["a.webm"].path.read_bytes()
    block = webm.index(b"\xa3", len(webm) // 2)
    while webm[block + 2 : block + 3] != b"\x81" and webm[block + 3 : block + 4] != b"\x81":
        block = webm.index(b"\xa3", block + 1)
    track = block + (2 if webm[block + 2] == 0x81 else 3)
    with pytest.raises(AudioError, match="blocks of a track that is missing"):
        decode_audio(webm[:track] + b"\x85" + webm[track + 1 :], "a.webm", 16_000)
    avi = made["a.avi"].path.read_bytes()
    middle = avi.index(b"00wb", len(avi) // 2)
    with pytest.raises(AudioError, match="no avi chunk"):
        decode_audio(avi[: middle + 2] + b"wc" + avi[middle + 4 :], "a.avi", 16_000)
    # The mp3 parser drops what it does not recognise: only the number of chunks shows that a chunk of zeros is missing.
    size = int.from_bytes(avi[middle + 4 : middle + 8], "little")
    junk = avi[middle : middle + 8] + bytes(size)
    with pytest.raises(AudioError, match="corrupt"):
        decode_audio(avi[:middle] + junk + avi[middle + 8 + size :], "a.avi", 16_000)


def test_a_film_is_as_long_as_its_sound(recordings) -> None:
    """Some containers declare the length of the longest track alone."""
    made, _ = recordings
    for name in ("video.mp4", "video.webm"):
        seconds = len(made[name].samples) / made[name].rate_hz
        assert read_header(made[name].path).seconds == pytest.approx(seconds, abs=0.05), name


def test_an_error_says_the_same_whatever_number_the_file_has(tmp_path: Path) -> None:
    """FFmpeg's errors name a file by the number of the open file."""
    (tmp_path / "a.m4a").write_text("no audio")
    said = set()
    with contextlib.ExitStack() as opened:
        for _ in range(3):
            with pytest.raises(AudioError) as caught:
                load_audio(tmp_path / "a.m4a", 16_000)
            said.add(str(caught.value))
            opened.enter_context((tmp_path / "a.m4a").open())
    assert len(said) == 1 and "Invalid data" in said.pop()


@pytest.mark.parametrize(
    "container", ["WAV", "AIFF", "AU", "CAF", "W64", "FLAC", "OGG", "MP3", "RF64", "NIST"]
)
@pytest.mark.parametrize("part", [0.5, 0.97])
def test_what_is_cut_off_is_refused(container: str, part: float) -> None:
    data = written(sound(16_000)[:, 0], 16_000, container)
    with pytest.raises(AudioError, match=r"^cut: .*(truncated|corrupt|damaged|cannot be decoded)"):
        decode_audio(data[: int(len(data) * part)], "cut", 16_000)


@pytest.mark.parametrize("size", [0xFFFFFFFF, 0x7FFFF000, 0x7FFFFFFF, 0])
def test_a_wav_that_was_written_to_a_pipe(size: int) -> None:
    """The placeholders of ffmpeg, sox and arecord; 0 with a RIFF size that was not finished either."""
    data = bytearray(written(sound(16_000)[:, 0], 16_000, "WAV", "PCM_16"))
    heard = decode_audio(bytes(data), "a", 16_000)
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = size.to_bytes(4, "little")
    assert np.array_equal(decode_audio(bytes(data), "a", 16_000), heard) and seconds_of(bytes(data)) == 1.0


def changed(data: bytes, chunk: bytes, skip: int, form: str, value: float) -> bytes:
    """A file with another number behind a chunk's name."""
    at = data.index(chunk) + 4 + skip
    return data[:at] + struct.pack(form, value) + data[at + struct.calcsize(form) :]


CONTRADICTIONS = {  # container: (subtype, chunk, bytes behind its name, form of the number, factors of it)
    "aiff: fewer bytes": ("AIFF", "PCM_16", b"SSND", 0, ">I", (0.125, 0.5, 0.9)),
    "aiff: fewer frames": ("AIFF", "PCM_24", b"COMM", 6, ">I", (0.001, 0.5, 0.98)),
    "aiff: more frames": ("AIFF", "PCM_16", b"COMM", 6, ">I", (1.001, 2)),
    "aiff: channels": ("AIFF", "PCM_16", b"COMM", 4, ">h", (2,)),
    "aiff: bits": ("AIFF", "PCM_16", b"COMM", 10, ">h", (0.5, 2)),
    "aifc: fewer bytes": ("AIFF", "ULAW", b"SSND", 0, ">I", (0.5,)),
    "aifc of blocks": ("AIFF", "IMA_ADPCM", b"SSND", 0, ">I", (0.5, 0.9)),
    "aifc of gsm": ("AIFF", "GSM610", b"COMM", 6, ">I", (0.001, 0.5, 2)),
    "caf: fewer bytes": ("CAF", "PCM_16", b"data", 0, ">q", (0.125, 0.5, 0.9999)),
    "caf: channels": ("CAF", "PCM_16", b"desc", 32, ">I", (2,)),
    "caf: ulaw channels": ("CAF", "ULAW", b"desc", 32, ">I", (2,)),
    "caf: bits": ("CAF", "PCM_16", b"desc", 36, ">I", (0.5,)),
    "caf: rate": ("CAF", "ALAC_16", b"desc", 8, ">d", (0, float("nan"), -1)),
    "wav: fewer bytes": ("WAV", "PCM_16", b"data", 0, "<I", (0.125, 0.5, 0.9)),
    "au: fewer bytes": ("AU", "PCM_16", b".snd", 4, ">I", (0.125, 0.5, 0.9)),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_counts_that_contradict_the_samples_are_refused(case: str) -> None:
    """Such a file is refused as a whole: decoders use one of its numbers, without a warning."""
    container, subtype, chunk, skip, form, factors = CONTRADICTIONS[case]
    data = written(sound(16_000)[:, 0], 16_000, container, subtype)
    number = struct.unpack_from(form, data, data.index(chunk) + 4 + skip)[0]
    assert number and len(decode_audio(data, "a", 16_000)) >= 16_000
    for factor in factors:
        value = number * factor
        with pytest.raises(AudioError, match=r"^a: .*(truncated|corrupt|damaged)"):
            decode_audio(changed(data, chunk, skip, form, value if form == ">d" else int(value)), "a", 16_000)


RARE = {  # container: (subtypes, where a number of its header stands, and its form)
    "AVR": ("PCM_16 PCM_S8 PCM_U8", 26, ">I"),
    "SVX": ("PCM_16 PCM_S8", None, ">I"),
    "MAT4": ("PCM_16 PCM_32 FLOAT DOUBLE", 47, "<I"),
    "MAT5": ("PCM_U8 PCM_16 PCM_32 FLOAT DOUBLE", 260, "<I"),
    "MPC2K": ("PCM_16", 30, "<I"),
    "WVE": ("ALAW", 18, ">I"),
    "HTK": ("PCM_16", 0, ">I"),
}


@pytest.mark.parametrize("container", RARE)
def test_rare_formats_are_heard_whole_or_not_at_all(container: str) -> None:
    """Cut anywhere, with another length in the header, with more behind, or with a hole."""
    subtypes, place, form = RARE[container]
    for subtype in subtypes.split():
        for n_channels in (1,) if container in ("HTK", "SVX", "WVE") or subtype.endswith("8") else (1, 2):
            wave = sound(8_000, 0.2)[:1_599, :n_channels]
            data = written(wave, 8_000, container, subtype)
            heard = decode_audio(data, "a", 8_000)
            assert len(heard) == 1_599
            tolerance = 0.03 if subtype in ("ALAW", "PCM_S8", "PCM_U8") else 1e-4
            assert np.abs(heard - wave.mean(axis=1)).max() < tolerance, subtype
            assert seconds_of(data) == len(heard) / 8_000
            assert np.array_equal(decode_audio(data, "a", 8_000, 0.05, 0.1), heard[400:800])
            rng = random.Random(container + subtype)
            damaged = [data[:stop] for stop in (*rng.sample(range(1, len(data)), 20), len(data) - 1)]
            damaged += [data[:-200] + data[-100:], data + bytes(300), data + data]
            if place is None:
                place = data.index(b"BODY") + 4
            number = struct.unpack_from(form, data, place)[0]
            for other in (0, number // 2, number * 2):
                damaged.append(
                    data[:place] + struct.pack(form, other) + data[place + struct.calcsize(form) :]
                )
            for changed_data in damaged:
                with pytest.raises(AudioError, match=r"^a: .*(truncated|corrupt|cannot be decoded)"):
                    decode_audio(changed_data, "a", 8_000)


def test_formats_of_which_a_cut_file_looks_whole_are_refused(tmp_path: Path, capfd) -> None:
    """The error says how to convert it; of SDS libsndfile would print what it misses, and go on."""
    wave = sound(8_000, 0.2)[:, 0]
    made = {
        f"a.{name.lower()}": written(wave, 8_000, name, "PCM_16") for name in ("IRCAM", "PAF", "PVF", "SDS")
    }
    made["a.nut"] = encoded("nut", "pcm_s16le")
    for name, data in made.items():
        (tmp_path / name).write_bytes(data)
        for read in (lambda path: load_audio(path, 8_000), seconds_of):
            with pytest.raises(AudioError, match=r"a truncated one would go unnoticed; convert it to wav"):
                read(tmp_path / name)
    with pytest.raises(AudioError, match="unnoticed"):
        decode_audio(made["a.sds"][:-200] + bytes(200), "a", 8_000)
    assert capfd.readouterr() == ("", "")


def test_an_instrument_whose_header_is_not_finished() -> None:
    """The files that libsndfile writes hold 0 bytes there."""
    wave = sound(44_100, 0.1)[:, 0]
    data = written(wave, 44_100, "XI", "DPCM_16")
    with pytest.raises(AudioError, match="header promises 0 bytes of samples, 8820 are there"):
        decode_audio(data, "a", 44_100)
    whole = data[:298] + struct.pack("<I", 8_820) + data[302:]
    heard = decode_audio(whole, "a", 44_100)
    assert np.abs(heard - wave).max() < 1e-3
    assert np.array_equal(decode_audio(whole, "a", 44_100, 0.02, 0.04), heard[882:1_764])


def test_the_channels_of_an_amiga_file_follow_each_other() -> None:
    """libsndfile reads these files as interleaved, which holds only for files that it wrote."""
    left, right = np.arange(0, 40, dtype=np.int8), np.zeros(40, np.int8)
    body = np.concatenate([left, right]).tobytes()
    header = struct.pack(">IIIHBBI", 40, 0, 0, 8_000, 1, 0, 0x10000)
    chunks = b"VHDR" + struct.pack(">I", 20) + header + b"CHAN" + struct.pack(">II", 4, 6)
    chunks += b"BODY" + struct.pack(">I", 80) + body
    data = b"FORM" + struct.pack(">I", 4 + len(chunks)) + b"8SVX" + chunks
    heard = decode_audio(data, "a", 8_000)
    np.testing.assert_allclose(heard, left / 128 / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("container", "subtype"), [("AU", "G721_32"), ("AU", "G723_24"), ("WAV", "NMS_ADPCM_16")]
)
def test_a_segment_of_what_cannot_seek(container: str, subtype: str) -> None:
    data = written(sound(8_000)[:, 0], 8_000, container, subtype)
    heard = decode_audio(data, "a", 8_000)
    assert np.array_equal(decode_audio(data, "a", 8_000, 0.3, 0.7), heard[2_400:5_600])
    assert np.array_equal(decode_audio(data, "a", 8_000, 0.99), heard[7_920:])


def test_raw_gsm_is_known_by_its_frames(tmp_path: Path) -> None:
    """GSM is recognised also where it is short, and where a name ends in .raw."""
    data = written(sound(8_000, 0.4)[:, 0], 8_000, "RAW", "GSM610")
    heard = decode_audio(data, "a", 8_000)
    assert len(heard) == 3_200 == seconds_of(data) * 8_000
    (tmp_path / "a.raw").write_bytes(data)
    assert np.array_equal(load_audio(tmp_path / "a.raw", 8_000), heard)
    for damaged in (data[:-1], data[:400] + data[401:], data[:330] + bytes(33) + data[363:]):
        with pytest.raises(AudioError, match=r"truncated|GSM frame is damaged"):
            decode_audio(damaged, "a", 8_000)


def test_a_count_of_blocks_is_no_truth() -> None:
    """libsndfile believes the chunk `fact` of compressed w64, and into stereo aiff it writes half of the number."""
    data = written(sound(8_000)[:, 0], 8_000, "W64", "GSM610")
    heard = decode_audio(data, "a", 8_000)
    at = data.index(b"fact") + 24
    fewer = data[:at] + struct.pack("<Q", 4_000) + data[at + 8 :]
    assert np.array_equal(decode_audio(fewer, "a", 8_000), heard) and seconds_of(fewer) == seconds_of(data)
    stereo = written(sound(8_000), 8_000, "AIFF", "IMA_ADPCM")
    difference = decode_audio(stereo, "a", 8_000) - sound(8_000).mean(axis=1)
    assert len(difference) == 8_000 and np.abs(difference).mean() < 0.03


@pytest.mark.parametrize(("layout", "n_channels"), [("5.1", 6), ("7.1(wide)", 8)])
def test_films_of_many_channels(layout: str, n_channels: int) -> None:
    """PyAV reads past the planes of a frame of eight channels, which ends the process."""
    wave = np.outer(sound(16_000)[:, 0], np.arange(1, n_channels + 1) / n_channels).astype(np.float32)
    data = encoded("mov", "alac", samples=wave, layout=layout)
    header = read_header(data)
    heard = decode_audio(data, "a", 16_000)
    assert (header.channels, len(heard)) == (n_channels, 16_000)
    assert np.abs(heard - wave.mean(axis=1)).max() < 1e-4
    loudest = decode_audio(data, "a", 16_000, options=AudioOptions(channels="loudest"))
    assert np.abs(loudest - wave[:, -1]).max() < 1e-4


def test_a_transport_stream_with_a_hole() -> None:
    data = encoded("mpegts", "mp2")
    heard = len(decode_audio(data, "a", 16_000))
    assert heard >= 16_000
    middle = len(data) // 2
    for damaged in (data[:middle] + bytes(600) + data[middle + 600 :], data[:middle] + data[middle + 100 :]):
        with pytest.raises(AudioError, match=r"no MPEG-TS packet at byte|truncated"):
            decode_audio(damaged, "a", 16_000)


def test_what_may_lie_behind_samples_is_no_fault() -> None:
    wave = sound(16_000)[:, 0]
    for container in ("WAV", "CAF", "AIFF", "AU", "RF64"):
        data = written(wave, 16_000, container, "PCM_16")
        heard = decode_audio(data, "a", 16_000)
        behind = [bytes(500)]
        if container in ("WAV", "RF64"):
            behind += [
                b"LIST" + struct.pack("<I", 3000) + bytes(range(1, 251)) * 12, b"ID3\4" + b"\xff" * 5000,
                b"TAG" + b"\x80" * 125, bytes(5000), b"\xfe" * 100,
            ]  # fmt: skip
        for more in behind:
            assert np.array_equal(decode_audio(data + more, "a", 16_000), heard), (container, more[:8])


def test_an_aiff_that_was_written_to_a_pipe() -> None:
    """sox and ffmpeg write these numbers where they cannot seek back to the header."""
    data = written(sound(16_000)[:, 0], 16_000, "AIFF", "PCM_16")
    heard = decode_audio(data, "a", 16_000)
    for n_bytes, n_frames in ((0x7F000008, 0x3F800000), (0, 0)):
        piped = changed(changed(data, b"SSND", 0, ">I", n_bytes), b"COMM", 6, ">I", n_frames)
        assert np.array_equal(decode_audio(piped, "a", 16_000), heard)


@pytest.mark.parametrize("container", ["WAV", "OGG", "FLAC", "AIFF", "MP3"])
def test_a_tag_in_front_is_not_heard(container: str, tmp_path: Path) -> None:
    """Some programs write ID3 tags before any kind of file; from disk and from memory the same is heard."""
    data = written(sound(16_000)[:, 0], 16_000, container)
    heard = decode_audio(data, "a", 16_000)
    tagged = b"ID3\x04\0\0\0\0\0\x3c" + bytes(60) + data
    (tmp_path / "a").write_bytes(tagged)
    assert np.array_equal(decode_audio(tagged, "a", 16_000), heard)
    assert np.array_equal(load_audio(tmp_path / "a", 16_000), heard) and seconds_of(tagged) == seconds_of(
        data
    )
    with pytest.raises(AudioError):
        decode_audio(tagged[:-3000], "a", 16_000)


def test_a_second_file_behind_a_w64_is_refused() -> None:
    data = written(sound(16_000)[:, 0], 16_000, "W64", "PCM_16")
    with pytest.raises(AudioError, match=f"{len(data)} bytes lie behind its samples"):
        decode_audio(data + data, "a", 16_000)


def test_a_recording_that_begins_late_is_not_longer() -> None:
    """For matroska, the length from the header is the time at which the file ends."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        stream = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.ones((1, 16_000), np.int16), format="s16", layout="mono")
        frame.rate, frame.pts, frame.time_base = 16_000, 8_000, Fraction(1, 16_000)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    header = read_header(out.getvalue())
    assert header.seconds == pytest.approx(1.0, abs=0.01) and seconds_of(out.getvalue()) == 1.0


def test_a_damaged_ogg_page_is_found() -> None:
    data = bytearray(written(sound(16_000, 3.0)[:, 0], 16_000, "OGG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(AudioError, match="no whole Ogg page at byte"):
        decode_audio(bytes(data), "a", 16_000)


def test_an_ogg_with_an_impossible_length_is_named() -> None:
    """The last page of the file declares 2^62 samples, with the right checksum."""
    data = written(sound(16_000)[:, :1], 16_000, "OGG")
    at = data.rindex(b"OggS")
    page = bytearray(data[at:])
    page[6:14], page[22:26] = (1 << 62).to_bytes(8, "little"), bytes(4)
    page[22:26] = ogg._checksum(bytes(page)).to_bytes(4, "little")
    with pytest.raises(AudioError, match=r"^a\.ogg: its header is damaged; "):
        decode_audio(data[:at] + bytes(page), "a.ogg", 16_000)


def test_an_mp3_between_tags_and_a_stream_joined_late() -> None:
    data = written(sound(16_000)[:, 0], 16_000, "MP3")
    heard = decode_audio(data, "a", 16_000)
    tag = b"ID3\x04\0\0\0\0\x02\0" + bytes(256)
    assert np.array_equal(decode_audio(tag + data + b"TAG" + bytes(125), "a", 16_000), heard)
    late = data[len(data) // 2 :]
    assert 0.3 < len(decode_audio(late, "late", 16_000)) / len(heard) < 0.6
    broken = bytearray(data)
    broken[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    with pytest.raises(AudioError, match="no frame at byte"):
        decode_audio(bytes(broken), "a", 16_000)


def test_a_bomb_is_refused_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("adts", "aac", samples=np.zeros(16_000 * 5, np.float32))  # declares no length
    monkeypatch.setenv("ALM_MAX_AUDIO_S", "2")
    with pytest.raises(AudioError, match="over the limit of 2 s"):
        decode_audio(data, "a", 16_000)
    assert len(decode_audio(data, "a", 16_000, 3.0, 4.0)) == 16_000


def test_a_playlist_opens_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(written(sound(16_000)[:, 0], 16_000, "WAV"))
    for text in (
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/a.wav\n",
        f"ffconcat version 1.0\nfile '{tmp_path}/a.wav'\n",
    ):
        (tmp_path / "list.mp3").write_text(text)
        with pytest.raises(AudioError, match="cannot be decoded"):
            load_audio(tmp_path / "list.mp3", 16_000)


def test_ffmpeg_writes_nothing_to_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encoded("mp4", "aac"))
    data[200:800] = bytes(600)
    with pytest.raises(AudioError):
        decode_audio(bytes(data), "a", 16_000)
    assert capfd.readouterr() == ("", "")


def test_several_sound_tracks_are_said(tmp_path: Path) -> None:
    import av

    with av.open(str(tmp_path / "two.mka"), "w") as file:
        streams = [file.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        for stream, hz in zip(streams, (300, 3_000), strict=True):
            tone = (10_000 * np.sin(np.arange(16_000) * 2 * np.pi * hz / 16_000)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.rate, frame.pts, frame.time_base = 16_000, 0, Fraction(1, 16_000)
            file.mux(stream.encode(frame))
    with pytest.warns(UserWarning, match="2 sound tracks; number 1 is used"):
        heard = load_audio(tmp_path / "two.mka", 16_000)
    assert np.abs(np.fft.rfft(heard)).argmax() == 300


def test_channels_that_cancel(tmp_path: Path) -> None:
    one = sound(16_000)[:, 0]
    path = tmp_path / "inverted.wav"
    soundfile.write(path, np.stack([one, -0.999 * one], axis=1), 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match=r"inverted\.wav: its channels cancel each other"):
        load_audio(path, 16_000)
    assert np.array_equal(load_audio(path, 16_000, options=AudioOptions(channels="loudest")), one)
    with applied(AudioOptions(channels="loudest")):
        assert np.array_equal(AudioRef(path).load(16_000), one)
    with pytest.raises(AudioError):
        load_audio(path, 16_000)
    soundfile.write(
        path, np.stack([one, np.zeros_like(one)], axis=1), 16_000
    )  # one silent channel is no inversion
    assert len(load_audio(path, 16_000)) == 16_000


def test_peaks_and_wrong_options(tmp_path: Path) -> None:
    path = tmp_path / "scaled.wav"
    soundfile.write(path, 32_768 * sound(16_000)[:, 0], 16_000, subtype="FLOAT")
    with pytest.raises(AudioError, match="full scale is 1"):
        load_audio(path, 16_000)
    assert np.abs(load_audio(path, 16_000, options=AudioOptions(peak="normalise"))).max() == pytest.approx(
        1.0
    )
    with pytest.raises(ConfigError, match=r"audio\.channels is 'left'; expected one of mean, loudest"):
        AudioOptions(channels="left")
    assert AudioOptions().changes() == {} and AudioOptions(peak="normalise").changes() == {
        "peak": "normalise"
    }


@pytest.mark.parametrize(
    "name", ["a#b.wav", "a%20b.wav", "a\nb.wav", " a.wav", "http:a.wav", "a?b.wav", "-a.wav"]
)
def test_names_are_names(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(written(sound(16_000)[:, 0], 16_000, "WAV"))
    assert len(load_audio(tmp_path / name, 16_000)) == 16_000
    assert search(tmp_path).audio == [tmp_path / name]


def test_accents_are_found_in_either_form(tmp_path: Path) -> None:
    (tmp_path / "Cafe\u0301.wav").write_bytes(written(sound(16_000)[:, 0], 16_000, "WAV"))
    ref = AudioRef(tmp_path / "Caf\u00e9.wav")
    assert len(ref.load(16_000)) == 16_000 and ref.exists() and len(ref.read_bytes()) == 32_044
    assert find_file(tmp_path / "Caf\u00ea.wav") == tmp_path / "Caf\u00ea.wav"


def test_a_folder_says_what_it_passed_over(tmp_path: Path) -> None:
    for name in ("a.m4a", "b.WAV", "c.doc", "d.csv", "._a.m4a", "plain"):
        (tmp_path / name).touch()
    (tmp_path / "gone.flac").symlink_to("nowhere")
    found = search(tmp_path)
    assert [path.name for path in found.audio] == ["a.m4a", "b.WAV"]
    for why in (
        "1 file(s) with suffix '.doc'",
        "1 macOS side",
        "1 file(s) without suffix",
        "1 broken link(s)",
    ):
        assert why in found.note()


def test_file_objects_and_data_addresses(tmp_path: Path) -> None:
    data = written(sound(16_000)[:, 0], 16_000, "FLAC")
    heard = decode_audio(data, "a", 16_000)
    assert np.array_equal(load_audio(io.BytesIO(data), 16_000), heard)
    url = "data:audio/flac;base64," + base64.b64encode(data).decode()
    assert np.array_equal(load_audio(url, 16_000), heard)
    assert seconds_of(url) == 1.0 and url_name(url) == "data:audio/flac;base64,…"
    for wrong in ("data:audio/flac;base64", "data:audio/flac;base64,@@@", "data:,", "file:///etc/passwd"):
        with pytest.raises(AudioError):
            fetch_audio(wrong)
    with pytest.raises(AudioError, match="larger than"):
        fetch_audio(url, max_bytes=1000)


@pytest.fixture
def server() -> Iterator[str]:
    data = written(sound(16_000)[:, 0], 16_000, "WAV")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("Location", "/a.wav?key=1")
                self.end_headers()
            elif self.path == "/escape":
                self.send_response(302)
                self.send_header("Location", "file:///etc/passwd")
                self.end_headers()
            elif self.path.startswith("/a.wav") or self.path == "/short":
                self.send_response(200)
                self.send_header("Content-Length", str(len(data) + 10 * (self.path == "/short")))
                self.end_headers()
                self.wfile.write(data)
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            """Decoders write nothing to the terminal."""

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


def test_http_addresses(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert len(load_audio(f"{server}/a.wav?token=secret", 16_000)) == 16_000
    assert len(load_audio(f"{server}/moved", 16_000)) == 16_000
    with pytest.raises(AudioError, match="answers 404"):
        fetch_audio(f"{server}/none")
    with pytest.raises(AudioError, match="url .file:///etc/passwd. is not allowed"):
        fetch_audio(f"{server}/escape")
    with pytest.raises(AudioError, match=r"is truncated: 32044 of 32054 bytes arrived"):
        fetch_audio(f"{server}/short")
    with pytest.raises(AudioError, match="larger than"):
        fetch_audio(f"{server}/a.wav", max_bytes=1000)
    monkeypatch.setattr(
        urls_module, "_is_private", lambda url: "moved" not in url
    )  # a public address that redirects here
    with pytest.raises(AudioError, match="redirects into a private network"):
        fetch_audio(f"{server}/moved")
    assert url_name("http://me:secret@host/a.wav?token=x") == "http://host/a.wav"


def test_verify_and_stats_go_on_past_every_kind_of_bad_file(tmp_path: Path) -> None:
    wave = sound(16_000)
    good = {"a.wav": written(wave, 16_000, "WAV"), "b.m4a": encoded("mp4", "aac")}
    bad = {
        "empty.mp3": b"",
        "cut.ogg": written(wave, 16_000, "OGG")[:-50],
        "cut.m4a": good["b.m4a"][:-400],
        "text.webm": b"not audio at all" * 9,
        "inverted.wav": written(wave * [1, 0] - wave[:, ::-1] * [0, 1], 16_000, "WAV"),
    }
    for name, data in (good | bad).items():
        (tmp_path / name).write_bytes(data)
    names = [*good, *bad, "missing.amr"]
    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, [{"id": name, "audio": name, "question": "q", "answer": "a"} for name in names])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = verify(str(manifest))
    assert [int(where.rpartition(":")[2]) for where, _ in found.problems] == list(range(3, 9))
    assert statistics(str(manifest))["clips"] == 8


@pytest.mark.parametrize("place", range(21, 48))
def test_a_damaged_information_frame_changes_no_length(place: int) -> None:
    """Decoders read the tag of an mp3's first frame differently where it is damaged."""
    wave = np.sin(np.arange(8000) / 5) * 0.3
    data = bytearray(written(wave, 16_000, "MP3", "MPEG_LAYER_III"))
    data[data.index(b"\xff") + place] ^= 0x55
    header = read_header(bytes(data), "a.mp3")
    assert abs(len(decode_audio(bytes(data), "a.mp3", header.rate_hz)) - header.frames) <= 1
