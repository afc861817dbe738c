"""Peak memory and time of one contrastive step in chunks (GradCache), at a small and at a large batch.

    python benchmarks/gradcache.py [--batches 32 256] [--chunk 32]

Each batch size runs in a process of its own, because a process never gives its peak back. Prints a Markdown table;
the last column is the large batch's peak over the small one's, with the interpreter and its libraries counted out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CLIP_SAMPLES = 5 * 16000
# Give freed blocks back at once: by default glibc keeps those below a moving threshold, and the peak would be that of
# its fragmentation.
os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"


def peak_mb() -> float:
    """Largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one_step(batch: int, chunk: int, queue: Any) -> None:
    """Forward and backward on random clips; puts (peak MB over the libraries' own, seconds) into the queue."""
    import torch

    from encoders.audiomosaic import AudioMosaicConfig, AudioMosaicEncoder
    from train.contrastive import ContrastiveModel
    from train.settings import ContrastiveSettings

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = AudioMosaicConfig(spec_size=(512, 128), embed_dim=192, depth=6, num_heads=3, drop_path_rate=0.1)
    settings = ContrastiveSettings(grad_cache_chunk=chunk, loss_chunk_rows=chunk)
    model = ContrastiveModel(AudioMosaicEncoder(config), settings).train()
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
    """(MB, seconds) of one step in a fresh process."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=one_step, args=(batch, chunk, queue))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"batch {batch}: the process ended with {process.exitcode}; too little memory?")
    return queue.get()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, nargs=2, default=(32, 256))
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--plain", action="store_true", help="also the large batch without chunks")
    arguments = parser.parse_args()
    small, large = arguments.batches
    rows = [(small, arguments.chunk), (large, arguments.chunk)] + [(large, 0)] * arguments.plain
    results = [measure(*row) for row in rows]
    print("| batch | chunk | peak MB | s per clip | peak over the small batch's |\n|---|---|---|---|---|")
    for (batch, chunk), (memory, seconds) in zip(rows, results, strict=True):
        ratio = memory / results[0][0]
        print(f"| {batch} | {chunk or '-'} | {memory:.0f} | {seconds / batch:.3f} | {ratio:.2f} |")
    print(json.dumps({"ratio": results[1][0] / results[0][0]}))


if __name__ == "__main__":
    main()
