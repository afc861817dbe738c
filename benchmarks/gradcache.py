"""Peak memory and time of one contrastive step in chunks (GradCache), at a small and at a large batch."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.measure import Row, main

CLIP_SAMPLES = 5 * 16000
# Give freed blocks back at once: by default glibc keeps those below a moving threshold, and the peak would be that of
# its fragmentation.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}


def peak_mb() -> float:
    """Largest resident memory of this process so far; `getrusage` would include the peak of the parent process."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def one_step(batch: int, chunk: int, queue: Any) -> None:
    """Forward and backward on random clips; puts (peak MB over the libraries' own, seconds) into the queue."""
    import torch

    from encoders.zoo.audiomosaic.model import AudioMosaicConfig, AudioMosaicEncoder
    from train.pretrain.contrastive import ContrastiveModel, build_loss
    from train.settings.pretrain import ContrastiveSettings

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AudioMosaicConfig(spec_size=(512, 128), embed_dim=192, depth=6, num_heads=3, drop_path_rate=0.1)
    settings = ContrastiveSettings(grad_cache_chunk=chunk, loss_chunk_rows=chunk)
    model = ContrastiveModel(AudioMosaicEncoder(config), build_loss(settings), settings).train()
    before = peak_mb()
    inputs = {
        "waveforms": 0.1 * torch.randn(batch, CLIP_SAMPLES),
        "lengths": torch.full((batch,), CLIP_SAMPLES),
        "clip_keys": torch.arange(batch),
    }
    started = time.perf_counter()
    model(**inputs)["loss"].backward()
    queue.put((peak_mb() - before, time.perf_counter() - started))


def measure(batch: int, chunk: int) -> tuple[float, float]:
    """(MB, seconds) of one step in a process of its own, because a process never gives its peak back."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=one_step, args=(batch, chunk, queue))
    with mock.patch.dict(os.environ, _MALLOC):
        process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"batch {batch}: the process ended with {process.exitcode}; too little memory?")
    return queue.get()


def run(quick: bool) -> list[Row]:
    """The large batch in chunks of the small one, and the small one alone."""
    small, large = (4, 8) if quick else (32, 256)
    (base, base_s), (peak, peak_s) = (measure(batch, small) for batch in (small, large))
    return [
        Row(
            "gradient caching",
            f"peak memory, batch {large} in chunks of {small}, over batch {small}",
            f"{peak:.0f} MB",
            f"{base:.0f} MB",
            f"{peak / base:.2f} of it",
            "<= 1.3 of it",
            "resident memory over the libraries' own; ViT 192 x 6, clips of 5 s, both views",
        ),
        Row(
            "gradient caching",
            "time of a step",
            f"{1e3 * peak_s / large:.0f} ms/clip",
            f"{1e3 * base_s / small:.0f} ms/clip",
            note="once each, wall clock; the cached step encodes twice",
        ),
    ]


if __name__ == "__main__":
    main(run, __doc__)
