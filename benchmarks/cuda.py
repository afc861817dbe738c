"""Pretraining throughput of the base encoder on one CUDA device, and the loader's share of it.

Every step is the real one: front end and both views on the device, masks, both branches, NT-Xent, backward, AdamW,
in bf16. Model FLOP utilisation counts the kept tokens' matrix products once, recomputation not at all, over the
device's bf16 matrix-product peak measured in the same run.
"""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.flops import step_flops
from benchmarks.loader import RATE, synthetic_clip, write_clips
from benchmarks.measure import Row, main, seconds
from encoders import AudioMosaicEncoder
from encoders.audio import load_audio
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from train.pretrain.contrastive import ContrastiveModel
from train.pretrain.losses.nt_xent import NTXent
from train.pretrain.masks.base import n_visible
from train.pretrain.views import make_views
from train.settings.pretrain import ContrastiveSettings

BATCHES = (128, 256, 512, 1024)


def timed(work: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call on the device."""
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return times


def gemm_tflops(size: int = 8192) -> float:
    """The best bf16 matrix product seen, in TFLOP/s."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: a @ b, 20)) / 1e12


def decode_ms(n_clips: int = 32) -> float:
    """A worker's CPU milliseconds for one clip."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_clips(Path(folder), n_clips)
        times = [seconds(lambda: [load_audio(file, RATE) for file in files]) for _ in range(3)]
    return 1e3 * min(times) / n_clips


class Step:
    """One optimisation step on a batch of waveforms that lie on the device."""

    def __init__(
        self,
        batch: int,
        config: AudioMosaicConfig,
        *,
        compiled: bool,
        device: str = "cuda",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        encoder = AudioMosaicEncoder(config)
        self.device, self.dtype = device, dtype
        self.model = ContrastiveModel(encoder, NTXent(), ContrastiveSettings()).to(device).train()
        if compiled:
            for block in encoder.blocks:
                block.compile()
        clips = torch.stack([torch.from_numpy(synthetic_clip(seed)) for seed in range(8)])
        self.batch = {
            "waveforms": clips.repeat(-(-batch // 8), 1)[:batch].to(device),
            "lengths": torch.full((batch,), clips.shape[1]),
            "clip_keys": torch.arange(batch),
        }
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=1e-4, fused=True)

    def __call__(self) -> Tensor:
        """The loss of one whole step."""
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device, dtype=self.dtype, enabled=self.dtype != torch.float32):
            loss = self.model(**self.batch)["loss"]
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def views(self) -> tuple[Tensor, Tensor]:
        """Front end and augmentation alone."""
        encoder, batch = self.model.encoder, self.batch
        config = dataclasses.replace(self.model.settings.views, n_frames=encoder.config.spec_size[0])
        mels = encoder.fbank(batch["waveforms"], batch["lengths"])
        return make_views(*mels, batch["clip_keys"], encoder.fbank, config)


def one(batch: int, compiled: bool, checkpointed: bool, peak: float, decode: float, quick: bool) -> Row:
    """The row of one setting; says so where it does not fit."""
    config = AudioMosaicConfig(drop_path_rate=0.1, use_checkpoint=checkpointed, checkpointing_fraction=0.7)
    what = (
        f"batch {batch}, bf16"
        + (", compiled" if compiled else "")
        + (", recomputed 0.7" if checkpointed else "")
    )
    torch.cuda.reset_peak_memory_stats()
    try:
        step = Step(batch, config, compiled=compiled)
        timed(step, 3 if quick else 5)
        step_s = statistics.median(timed(step, 3 if quick else 10))
        views_s = statistics.median(timed(step.views, 5))
    except torch.cuda.OutOfMemoryError:
        return Row("pretraining", what, "does not fit in memory")
    rate = batch / step_s
    kept = (n_visible(config.grid[0], 0.6) * config.n_freq, n_visible(config.n_freq, 0.4) * config.grid[0])
    mfu = rate * step_flops(config, kept) / 1e12 / peak
    facts = (
        f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB",
        f"MFU {100 * mfu:.0f} % of {peak:.0f} TFLOP/s measured",
        f"views {100 * views_s / step_s:.1f} % of the step",
        f"decoding takes {rate * decode / 1e3:.1f} of {os.cpu_count()} CPU cores",
    )
    return Row("pretraining", what, f"{rate:.0f} clips/s", note="; ".join(facts))


def run(quick: bool = False) -> list[Row]:
    """Clips a second, memory, utilisation and the loader's share, per batch size, compiled and not."""
    if not torch.cuda.is_available():
        return [
            Row("pretraining", "throughput of the base encoder", "not measured", note="no CUDA device here")
        ]
    peak, decode = gemm_tflops(), decode_ms()
    rows = []
    for compiled in (False, True):
        for batch in BATCHES[:1] if quick else BATCHES:
            row = one(batch, compiled, False, peak, decode, quick)
            gc.collect()
            torch.cuda.empty_cache()
            rows.append(row)
            if "not fit" in row.ours:
                rows.append(one(batch, compiled, True, peak, decode, quick))
            torch.compiler.reset()
    return rows


if __name__ == "__main__":
    main(run, __doc__)
