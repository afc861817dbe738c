"""Loading from shards: start-up, seeks and memory of 200,000 records in 100 tar files.

    python benchmarks/shards.py [--clips 200000] [--workers 2]

Writes tiny clips (0.05 s) below a temporary folder (about 0.7 GB) and removes them. Start-up is measured in a fresh
process from before the data is opened until the first batch is there; memory is what each worker holds by itself
(private pages) after it has read 2,000 records.
"""

import argparse
import functools
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from alm.data.records import AudioRef, Record
from alm.data.shard_writer import write_shards

LIMITS = {"start_s": 3.0, "seek_s": 1.0, "worker_mb": 300.0}

_LOADER = """
import json, sys, time
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset
import train.tune.conversations  # what a training process has imported anyway
started = time.perf_counter()
from alm.data.sources import open_records
from train.tune.conversations import ConversationDataset
from train.data.order import epoch_order
from train.data.sampling import EpochBatches

def private_mb():
    lines = open("/proc/self/smaps_rollup").read().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

class Clips(Dataset):
    def __init__(self, records):
        self.inner = ConversationDataset(records)
        self.order = self.inner.order
    def __len__(self): return len(self.inner)
    def __getitem__(self, i):
        item = self.inner[i]
        return float(item["audio"][0].load(16000)[0]), private_mb() if i % 64 == 0 else 0.0

folder, workers = sys.argv[1], int(sys.argv[2])
data = Clips(open_records([folder]))
loader = DataLoader(data, batch_sampler=EpochBatches(data, 64, seed=0), num_workers=workers)
batches = iter(loader)
next(batches)
out = {"start_s": time.perf_counter() - started}
more = min(workers * 2000 // 64, len(loader) - 1)
held = max((max(next(batches)[1].tolist()) for _ in range(more)), default=0.0)
out["worker_mb"] = held
del batches
seeks = []
for position in np.linspace(0, len(data) - 1, 50).astype(int):
    at = time.perf_counter()
    data[int(epoch_order(len(data), 0, 3)[int(position)])]  # as a resumed run finds its place in an epoch
    seeks.append(time.perf_counter() - at)
out["seek_s"], out["seek_median_s"] = max(seeks), float(np.median(seeks))
at = time.perf_counter()
for i in np.random.default_rng(0).integers(len(data), size=1000): data[int(i)]
out["records_per_s"] = 1000 / (time.perf_counter() - at)
print(json.dumps(out))
"""


@functools.cache
def wav(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    stream = io.BytesIO()
    soundfile.write(stream, 0.1 * rng.standard_normal(800), 16000, format="WAV")
    return stream.getvalue()


@dataclass(frozen=True)
class MemoryRef(AudioRef):
    """A clip made when it is asked for: 200,000 files would take longer to write than the shards."""

    seed: int = 0

    def read_bytes(self) -> bytes:
        """A tiny wav."""
        return wav(self.seed % 1000)  # writing them is not what is measured


def synthetic_records(n_clips: int) -> list[Record]:
    records = []
    for i in range(n_clips):
        ref = MemoryRef(Path(f"c{i}.wav"), seed=i)
        turns = (
            {"role": "user", "content": "<|audio|>What can be heard in this recording?"},
            {"role": "assistant", "content": f"sound number {i}, far away, and then silence"},
        )
        records.append(Record(f"r{i}", (ref,), turns, "qa", "q", turns[1]["content"], clip=f"c{i}"))
    return records


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "shards"
        started = time.perf_counter()
        bytes_each = 2048 + 512 + 2 * 512  # a clip, its JSON and their headers, in blocks of 512
        index = write_shards(
            synthetic_records(arguments.clips), out, arguments.clips * bytes_each / 100 / 1e6
        )
        size = sum(shard["bytes"] for shard in index["shards"]) / 1e9
        print(
            f"wrote {index['records']} records, {len(index['shards'])} shards, {size:.2f} GB "
            f"in {time.perf_counter() - started:.0f} s",
            flush=True,
        )
        command = [sys.executable, "-c", _LOADER, str(out), str(arguments.workers)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
    figures = json.loads(done.stdout)
    for name, value in figures.items():
        limit = LIMITS.get(name)
        verdict = "" if limit is None else f"   limit {limit:g}: {'ok' if value < limit else 'MISSED'}"
        print(f"{name:<16}{value:10.4f}{verdict}")
    return int(any(figures[name] >= limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
