"""Recordings in many encodings and containers, made by ffmpeg and PyAV, with what ffmpeg itself decodes of them."""

from __future__ import annotations

import io
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SECONDS = 1.0

ENCODINGS: dict[str, str] = {
    "pcm_u8.wav": "-c:a pcm_u8",
    "pcm_s16.wav": "",
    "pcm_s24.wav": "-c:a pcm_s24le",
    "pcm_f32.wav": "-c:a pcm_f32le",
    "alaw.wav": "-c:a pcm_alaw -ar 8000 -ac 1",
    "adpcm_ms.wav": "-c:a adpcm_ms",
    "adpcm_ima.wav": "-c:a adpcm_ima_wav",
    "mp3.wav": "-c:a libmp3lame",
    "g722.wav": "-c:a g722 -ar 16000 -ac 1",
    "six_channels.wav": "-ac 6",
    "rf64.wav": "-rf64 always",
    "a.w64": "",
    "a.aiff": "",
    "a.au": "",
    "a.caf": "",
    "alac.caf": "-c:a alac",
    "a.voc": "",
    "a.flac": "",
    "s24.flac": "-sample_fmt s32",
    "flac.ogg": "-c:a flac",
    "vorbis.ogg": "-c:a libvorbis",
    "speex.ogg": "-c:a libspeex -ar 16000 -ac 1",
    "a.opus": "-c:a libopus",
    "lame_tag.mp3": "-b:a 128k",
    "vbr_no_xing.mp3": "-q:a 4 -write_xing 0",
    "mpeg2.mp3": "-ar 22050 -b:a 64k",
    "mpeg25.mp3": "-ar 11025 -ac 1 -b:a 32k",
    "a.mp2": "",
    "a.aac": "",
    "a.m4a": "",
    "alac.m4a": "-c:a alac",
    "mp3.mp4": "-c:a libmp3lame",
    "opus.mp4": "-c:a libopus",
    "pcm.mov": "-c:a pcm_s16be",
    "a.3gp": "-c:a aac",
    "a.webm": "-c:a libopus",
    "vorbis.webm": "-c:a libvorbis",
    "a.mka": "-c:a aac",
    "flac.mkv": "-c:a flac",
    "v2.wma": "-c:a wmav2",
    "v1.wma": "-c:a wmav1",
    "a.ac3": "",
    "a.eac3": "",
    "a.wv": "",
    "a.tta": "",
    "a.ts": "-c:a aac",
    "a.mpg": "-c:a mp2",
    "a.avi": "-c:a libmp3lame",
    "a.flv": "-c:a aac",
    "a.gsm": "-c:a libgsm -ar 8000 -ac 1",
}
"""Name of a file, and ffmpeg's options that make it."""

PIPED: dict[str, str] = {
    "piped.mp3": "-f mp3",
    "piped.flac": "-f flac",
    "piped.wav": "-f wav",
    "piped.au": "-f au",
    "piped.caf": "-f caf -c:a pcm_s16be",
    "piped.aac": "-f adts",
    "piped.ogg": "-f ogg -c:a libvorbis",
    "piped.opus": "-f opus -c:a libopus",
    "piped.webm": "-f webm -c:a libopus",
    "piped.mp4": "-f mp4 -movflags frag_keyframe+empty_moov",
    "piped.wma": "-f asf -c:a wmav2",
}
"""Files that were written to a pipe: their headers do not say how long they are."""

VIDEOS: dict[str, str] = {"video.mp4": "-c:v mpeg4 -c:a aac", "video.webm": "-c:v libvpx -c:a libopus"}
"""Films of three seconds whose sound track is shorter."""

# libsndfile's decoder of IMA ADPCM does not round as FFmpeg's does.
TOLERANCE = {"adpcm_ima.wav": 2e-3}


@dataclass
class Made:
    """A recording, and the waveform (S, channels) that ffmpeg decodes of it."""

    path: Path
    rate_hz: int
    samples: np.ndarray


def sound(rate_hz: int, seconds: float = SECONDS) -> np.ndarray:
    """Noise and a rising tone in the first channel, less of it in the second: (S, 2) float32."""
    rng = np.random.default_rng(0)
    time_s = np.arange(round(rate_hz * seconds)) / rate_hz
    tone = np.sin(2 * np.pi * (300 + 200 * time_s) * time_s)
    noise = np.convolve(rng.normal(0, 0.1, len(time_s)), np.ones(8) / 8, mode="same")
    return np.stack([0.3 * tone + noise, 0.1 * tone + 0.5 * noise], axis=1).astype(np.float32)


def make(folder: Path) -> tuple[dict[str, Made], dict[str, str]]:
    """Make every recording that ffmpeg here can make.

    Returns:
        The recordings by name, and for the others why they are missing.
    """
    import soundfile

    source = folder / "source.wav"
    soundfile.write(source, sound(44_100), 44_100)
    jobs = {name: [*options.split(), str(folder / name)] for name, options in ENCODINGS.items()}
    jobs |= {name: [*options.split(), "pipe:1"] for name, options in PIPED.items()}
    film = "-f lavfi -i testsrc=d=3:s=64x48:r=10".split()
    jobs |= {name: [*film, *options.split(), str(folder / name)] for name, options in VIDEOS.items()}
    made, missing = {}, {}
    for name, options in jobs.items():
        command = ["ffmpeg", "-v", "error", "-nostdin", "-y", "-i", str(source), *options]
        out = subprocess.run(command, capture_output=True, check=False)
        if out.returncode:
            missing[name] = out.stderr.decode(errors="replace").strip().splitlines()[0][:80]
            continue
        if name in PIPED:
            (folder / name).write_bytes(out.stdout)
        made[name] = decoded_by_ffmpeg(folder / name)
    return made, missing


def decoded_by_ffmpeg(path: Path) -> Made:
    """The samples that `ffmpeg -i FILE -f f32le` decodes, as an au file, whose header holds rate and channels."""
    import soundfile

    command = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    out = subprocess.run([*command, "-c:a", "pcm_f32be", "-f", "au", "-"], capture_output=True, check=True)
    samples, rate_hz = soundfile.read(io.BytesIO(out.stdout), dtype="float32", always_2d=True)
    return Made(path, rate_hz, samples)


def encoded(
    container: str,
    codec: str,
    rate_hz: int = 16_000,
    samples: np.ndarray | None = None,
    layout: str = "mono",
) -> bytes:
    """A recording made by PyAV, whose wheel brings its own encoders.

    Args:
        container: FFmpeg's name of the container, for example `mp4`.
        codec: FFmpeg's name of the encoder, for example `aac`.
        rate_hz: Sample rate.
        samples: (S,) or (S, channels) float32; None is `sound`'s first channel.
        layout: FFmpeg's name of the channels.
    """
    import av

    wave = sound(rate_hz)[:, 0] if samples is None else samples
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate_hz, layout=layout)
        values = (wave * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(values, format="s16", layout=layout)
        frame.rate = rate_hz
        size = stream.codec_context.frame_size or 1024
        resampler = av.AudioResampler(stream.codec_context.format, layout, rate_hz, size)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return out.getvalue()
