"""The batched kaldi filter bank against torchaudio.compliance.kaldi.fbank."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.loader import CLIP_S, reference_fbank, synthetic_clip
from benchmarks.measure import Row, alternate, main, spread
from encoders.audio import pad_batch
from encoders.mel import KaldiFbank


def run(quick: bool = False) -> list[Row]:
    """Milliseconds a 10 s clip of both sides on the CPU, their difference, and microseconds on CUDA."""
    n_clips, rounds = (2, 2) if quick else (16, 15)
    waveforms, lengths = pad_batch([synthetic_clip(seed) for seed in range(n_clips)])
    fbank = KaldiFbank()

    def ours() -> Tensor:
        return fbank(waveforms, lengths)[0]

    def reference() -> list[Tensor]:
        return [reference_fbank(clip - clip.mean()) for clip in waveforms]

    difference = (ours() - torch.stack(reference())).abs()
    pair = alternate(ours, reference, rounds)
    rows = [
        Row(
            "frontend",
            f"128-mel kaldi filter bank, batch of {n_clips} clips of {CLIP_S} s",
            spread(pair.ours, 1e3 / n_clips, "ms/clip"),
            spread(pair.reference, 1e3 / n_clips, "ms/clip"),
            str(pair),
            ">= 1.3x",
            f"difference max {difference.max():.1e}, mean {difference.mean():.1e}",
        )
    ]
    if torch.cuda.is_available():
        rows.append(_on_cuda(fbank, waveforms, lengths))
    return rows


def _on_cuda(fbank: KaldiFbank, waveforms: Tensor, lengths: Tensor) -> Row:
    batch = waveforms.repeat(512 // len(waveforms), 1).cuda()
    n_samples = lengths.repeat(len(batch) // len(lengths))
    times = []
    for _ in range(20):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        fbank(batch, n_samples)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return Row(
        "frontend", f"the same on CUDA, batch of {len(batch)}", spread(times[5:], 1e6 / len(batch), "us/clip")
    )


if __name__ == "__main__":
    main(run, __doc__)
