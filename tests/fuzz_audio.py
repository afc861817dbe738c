"""Fuzz audio files: damaged files of 26 kinds are refused with one line, or give a sane waveform."""

import io
import os
import random
import shutil
import tempfile
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import numpy as np
import soundfile
from fuzzing import Outcome, damaged, fuzz, report

from encoders.audio import AudioHeader, decode_audio, load_audio, read_header

RATE_HZ = 16_000
FORMATS = {
    "a.wav": ("WAV", "PCM_16", 16_000, 1),
    "b.wav": ("WAV", "FLOAT", 44_100, 2),
    "c.wav": ("WAVEX", "PCM_24", 8_000, 6),
    "a.flac": ("FLAC", "PCM_16", 16_000, 1),
    "b.flac": ("FLAC", "PCM_24", 48_000, 2),
    "a.ogg": ("OGG", "VORBIS", 22_050, 1),
    "b.ogg": ("OGG", "OPUS", 48_000, 2),
    "a.mp3": ("MP3", "MPEG_LAYER_III", 32_000, 1),
    "a.aiff": ("AIFF", "PCM_16", 11_025, 1),
    "a.au": ("AU", "ULAW", 8_000, 1),
    "a.w64": ("W64", "PCM_16", 16_000, 1),
    "a.caf": ("CAF", "PCM_16", 16_000, 1),
    "a.rf64": ("RF64", "PCM_16", 16_000, 1),
    "a.sph": ("NIST", "PCM_16", 16_000, 1),
    "a.avr": ("AVR", "PCM_16", 16_000, 1),
    "a.8svx": ("SVX", "PCM_S8", 16_000, 1),
    "a.mat": ("MAT5", "PCM_16", 16_000, 2),
    "a.voc": ("VOC", "PCM_16", 16_000, 1),
    "a.wve": ("WVE", "ALAW", 8_000, 1),
}
BY_FFMPEG = {
    "a.m4a": ("mp4", "aac", 16_000),
    "a.webm": ("webm", "libopus", 48_000),
    "a.mka": ("matroska", "flac", 16_000),
    "a.avi": ("avi", "pcm_s16le", 16_000),
    "a.wma": ("asf", "wmav2", 16_000),
    "a.ts": ("mpegts", "mp2", 16_000),
    "a.mov": ("mov", "alac", 44_100),
}


@cache
def originals() -> dict[str, bytes]:
    """A third of a second in every format."""
    rng = np.random.default_rng(0)
    made = {}
    for name, (container, subtype, rate_hz, channels) in FORMATS.items():
        n_samples = rate_hz // 3
        tone = 0.3 * np.sin(np.arange(n_samples) * 2 * np.pi * 440 / rate_hz)[:, None]
        wave = np.repeat(tone, channels, axis=1) + rng.normal(0, 0.01, (n_samples, channels))
        stream = io.BytesIO()
        soundfile.write(stream, wave.astype(np.float32), rate_hz, format=container, subtype=subtype)
        made[name] = stream.getvalue()
    for name, (container, codec, rate_hz) in BY_FFMPEG.items():
        made[name] = encoded(container, codec, rate_hz)
    return made


def encoded(container: str, codec: str, rate_hz: int) -> bytes:
    """A third of a second in a container of FFmpeg's."""
    stream = io.BytesIO()
    tone = (9000 * np.sin(np.arange(rate_hz // 3) * 2 * np.pi * 440 / rate_hz)).astype(np.int16)
    with av.open(stream, "w", format=container) as file:
        track = file.add_stream(codec, rate=rate_hz, layout="mono")
        track.bit_rate = 64_000
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        for part in (frame, None):
            file.mux(track.encode(part))
    return stream.getvalue()


@cache
def folder() -> Path:
    """Where the damaged files lie."""
    return Path(tempfile.mkdtemp(prefix="alm-fuzz-"))


def case(rng: random.Random):
    """One damaged file, read whole or in part, from disk or from memory."""
    name = rng.choice(list(originals()))
    data = originals()[name]
    if rng.random() < 0.5:  # most faults come from damaged headers
        n_header = min(len(data), 200)
        what, head = damaged(rng, data[:n_header])
        data = head + data[n_header:]
    else:
        what, data = damaged(rng, data)
    times = rng.choice(
        [(None, None), (None, None), (0.1, None), (0.05, 0.1), (None, 0.2), (0.3, 1e9), (1e9, None)]
    )
    from_disk, exact = rng.random() < 0.5, name in BY_FFMPEG  # other formats declare what decoding gives

    def action():
        if from_disk:
            path = folder() / name
            path.write_bytes(data)
            read, header = (
                (lambda: load_audio(path, RATE_HZ, *times)),
                (lambda: read_header(path, exact=exact)),
            )
        else:
            read, header = (
                (lambda: decode_audio(data, name, RATE_HZ, *times)),
                (lambda: read_header(data, name, exact)),
            )
        wave = read()
        assert wave.dtype == np.float32 and wave.ndim == 1 and len(wave) > 0
        assert np.isfinite(wave).all() and float(np.abs(wave).max()) <= 1.0
        told: AudioHeader = header()
        begin, end = times[0] or 0.0, min(told.seconds, times[1] or told.seconds)
        expected = (end - begin) * RATE_HZ
        slack = 2 + RATE_HZ / told.rate_hz
        assert abs(len(wave) - expected) <= slack, f"{len(wave)} samples, the header promises {expected:.1f}"

    return f"{name} {times}: {what}", action


def run(seconds: float | None = None, n: int | None = None, seed: int | None = None) -> list[Outcome]:
    """Fuzz for some seconds, or with `n` inputs."""
    return [fuzz("audio", case, seconds, n, seed)]


def main(seconds: float) -> int:
    """Fuzz for some seconds; returns how many findings there are."""
    null, errors = os.open(os.devnull, os.O_WRONLY), os.dup(2)
    os.dup2(null, 2)  # the mp3 decoder writes its own warnings to the terminal
    try:
        outcomes = run(seconds)
    finally:
        os.dup2(errors, 2)
        shutil.rmtree(folder(), ignore_errors=True)
    return report(*outcomes)


if __name__ == "__main__":
    import sys

    sys.exit(1 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0) else 0)
