"""Evaluating a benchmark in batches against one question at a time: the same answers, how much sooner.

`python -m benchmarks.evaluation` writes clips and a manifest, runs what `alm eval` runs (reading, answering, writing
predictions, scoring) at both batch sizes in turn in one process, and compares the predictions line by line.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from alm.data.manifest import read_manifest, write_manifest
from benchmarks.generation import noise, small_model
from benchmarks.measure import alternate, machine
from encoders.audio import save_wav
from eval.models.own import OwnModel
from eval.runner.manifest import evaluate_manifest


def write_clips(folder: Path, n_clips: int) -> Path:
    """A manifest of one question about each of so many clips of 1 to 10 s."""
    lines = []
    for number, seconds in enumerate(np.random.default_rng(0).uniform(1, 10, n_clips)):
        save_wav(folder / f"{number}.wav", noise(seconds, number), 16000)
        lines.append(
            {"id": str(number), "audio": f"{number}.wav", "question": "what is this", "answer": "a bell"}
        )
    write_manifest(folder / "test.jsonl", lines)
    return folder / "test.jsonl"


def evaluation(model: Any, processor: Any, manifest: Path, batch_size: int) -> Callable[[], Path]:
    """A whole evaluation into a new folder, as a function that returns the folder."""
    records = read_manifest(manifest)
    count = iter(range(1_000_000))

    def run() -> Path:
        out = manifest.parent / f"batch{batch_size}-{next(count)}"
        evaluate_manifest(
            OwnModel(model, processor, "bench", 16), records, out, controls=["none"], batch_size=batch_size,
        )  # fmt: skip
        return out

    return run


def predictions(folder: Path) -> list[str]:
    """Lines of a predictions file, by id."""
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return sorted(lines, key=lambda line: str(json.loads(line)["id"]))


def differing(first: Path, second: Path) -> int:
    """How many lines two predictions files do not share."""
    return sum(a != b for a, b in zip(predictions(first), predictions(second), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(machine()))
    model, processor = small_model()
    with tempfile.TemporaryDirectory() as scratch:
        manifest = write_clips(Path(scratch), options.clips)
        batched, single = (evaluation(model, processor, manifest, size) for size in (16, 1))
        n_different = differing(batched(), single())
        pair = alternate(batched, single, options.rounds, warm_up=False)
    print(
        f"{options.clips} clips of 1 to 10 s: {n_different} predictions differ between batches of 16 and of 1"
    )
    print(
        f"batches of 16: {min(pair.ours):.2f} s at best, one by one {min(pair.reference):.2f} s: {pair} (aim 4x)"
    )
    if n_different:
        raise SystemExit("batches change answers")


if __name__ == "__main__":
    main()
