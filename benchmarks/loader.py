"""Two augmented views of 10 s clips from FLAC: ours against the reference recipe's waveform augmentation.

Ours decodes in a worker and makes both views of a batch at once (`augment: fast`), here on the CPU, so all that it
costs is counted. The reference decodes, augments the waveform twice with audiomentations and runs torchaudio's
kaldi filter bank twice, as the official pretraining does.
"""

from __future__ import annotations

import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import soundfile
import torch
from scipy.signal import lfilter
from torchaudio.compliance import kaldi

from benchmarks.measure import Row, alternate, main, seconds, spread
from encoders.audio import load_audio, pad_batch
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from train.pretrain.views import make_views
from train.settings.pretrain import ViewConfig

RATE = 16000
CLIP_S = 10


def synthetic_clip(seed: int) -> np.ndarray:
    """Ten seconds (S,) of a falling-spectrum noise and a few tones; FLAC takes it to about half its size."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(RATE * CLIP_S) / RATE
    noise = lfilter([1.0], [1.0, -0.98], rng.standard_normal(len(time_s)))
    tones = sum(np.sin(2 * np.pi * rng.uniform(80, 4000) * time_s + rng.uniform(0, 6)) for _ in range(5))
    mix = 0.02 * noise + 0.05 * tones * (0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(0.2, 2) * time_s))
    return np.clip(mix, -1, 1).astype(np.float32)


def write_clips(folder: Path, count: int) -> list[Path]:
    """FLAC files of synthetic clips."""
    files = [folder / f"{seed}.flac" for seed in range(count)]
    for seed, file in enumerate(files):
        soundfile.write(file, synthetic_clip(seed), RATE, subtype="PCM_16")
    return files


class Ours:
    """Decode, then both views of the whole batch, normalised."""

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.config = AudioMosaicConfig()
        self.fbank = self.config.fbank()
        self.views = ViewConfig(n_frames=self.config.spec_size[0])
        self.epoch = 0

    def __call__(self) -> None:
        """A batch of pairs of views."""
        self.epoch += 1
        waveforms, lengths = pad_batch([load_audio(file, RATE) for file in self.files])
        keys = [file.name for file in self.files]
        norm = self.config.norm
        mels = self.fbank(waveforms, lengths)
        for view in make_views(*mels, keys, self.fbank, self.views, epoch=self.epoch):
            view.sub_(norm.mean).div_(norm.divisor)

    def decode(self) -> None:
        """What a loader's worker does."""
        for file in self.files:
            load_audio(file, RATE)


def plain_decode(files: list[Path]) -> None:
    """Decode alone, without the checks of `load_audio`."""
    for file in files:
        soundfile.read(file, dtype="float32")


class Reference:
    """The official recipe, one clip after the other: roll and gain, audiomentations, kaldi filter bank."""

    def __init__(self, files: list[Path]) -> None:
        import audiomentations as am

        self.files = files
        self.norm = AudioMosaicConfig().norm
        self.rng = np.random.default_rng(0)
        self.chain = am.Compose(
            [
                am.PolarityInversion(p=0.5),
                am.TimeStretch(min_rate=0.7, max_rate=1.3, p=0.7),
                am.AddGaussianSNR(p=0.5),
                am.Gain(p=0.3),
                am.HighPassFilter(p=0.3),
                am.BandStopFilter(p=0.5),
                am.PitchShift(p=0.6),
            ]
        )

    def __call__(self) -> None:
        """As many pairs of views, one after the other."""
        for file in self.files:
            waveform = soundfile.read(file, dtype="float32")[0]
            for _ in range(2):
                self.view(waveform)

    def view(self, waveform: np.ndarray) -> torch.Tensor:
        """One view (1024, 128)."""
        rolled = np.roll(waveform, self.rng.integers(len(waveform)))
        rolled = rolled * np.float32(self.rng.beta(10, 10) + 0.5)
        augmented = self.chain(rolled, sample_rate=RATE)
        augmented = torch.from_numpy(np.ascontiguousarray(augmented - augmented.mean()))
        mel = reference_fbank(augmented)[:1024]
        padded = torch.nn.functional.pad(mel, (0, 0, 0, 1024 - len(mel)))
        return (padded - self.norm.mean) / self.norm.divisor


def reference_fbank(waveform: torch.Tensor) -> torch.Tensor:
    """Torchaudio's kaldi filter bank with the official settings: (S,) -> (T, 128)."""
    return kaldi.fbank(
        waveform[None],
        htk_compat=True,
        sample_frequency=RATE,
        use_energy=False,
        window_type="hanning",
        num_mel_bins=128,
        dither=0.0,
        frame_shift=10,
    )


def run(quick: bool = False) -> list[Row]:
    """CPU milliseconds a sample of both sides, and of our worker alone."""
    n_clips, rounds = (2, 2) if quick else (16, 9)
    with tempfile.TemporaryDirectory() as folder:
        files = write_clips(Path(folder), n_clips)
        ours = Ours(files)
        ms = 1e3 / n_clips
        ours()  # fills caches
        decode = alternate(ours.decode, lambda: plain_decode(files), 2 * rounds)
        rows = [
            Row(
                "loader",
                "decode in the worker",
                spread(decode.ours, ms, "ms/sample"),
                spread(decode.reference, ms, "ms/sample"),
                str(decode),
                "<= 6 ms",
                "soundfile.read alone, nothing checked",
            )
        ]
        what = "two augmented 10 s views from 16 kHz FLAC, all CPU cost"
        if find_spec("audiomentations") is None:
            times = [seconds(ours) for _ in range(rounds)]
            missing = "reference not installed: pip install -c constraints.txt '.[bench]'"
            rows.append(Row("loader", what, spread(times, ms, "ms/sample"), note=missing))
        else:
            pair = alternate(ours, Reference(files), rounds)
            rows.append(
                Row(
                    "loader",
                    what,
                    spread(pair.ours, ms, "ms/sample"),
                    spread(pair.reference, ms, "ms/sample"),
                    str(pair),
                    ">= 10x",
                    "audiomentations on the waveform + kaldi.fbank per view",
                )
            )
    return rows


if __name__ == "__main__":
    main(run, __doc__)
