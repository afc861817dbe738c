"""Steps of an ablation forked from one process, against steps in new interpreters: time, and the same results.

    python -m benchmarks.ablation_start [--rounds 3]

`alm ablate` runs a tiny grid (two projectors, two seeds, a tiny random LLM) with `warm_start` and without, alternately,
each time into an empty folder. Wall time and the CPU time of the command with all its processes are compared; weights
and answers of both sides must be equal byte by byte.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import yaml

from alm.common.processes import child_command, child_environment
from alm.data.manifest import write_manifest
from benchmarks.measure import Pair, machine, spread
from encoders.audio import save_wav
from eval.ablation.steps import DONE

ROOT = Path(__file__).resolve().parents[1]
SIDES = ("forked", "new interpreters")
_COMPARED = ("*.safetensors", "predictions.jsonl")


@dataclass(frozen=True)
class Cost:
    """Wall and CPU seconds of one ablation, and how many steps it ran."""

    wall_s: float
    cpu_s: float
    n_steps: int


def write_grid(folder: Path, llm: Path, n_seeds: int = 2) -> Path:
    """Write the config of a tiny ablation and its data.

    Args:
        folder: Where the clips, the manifests and the config are written.
        llm: Directory of a causal LLM.
        n_seeds: Seeds of every arm.
    """
    rng = np.random.default_rng(0)
    records = []
    for clip in range(8):
        save_wav(folder / f"{clip}.wav", (0.1 * rng.standard_normal(16000)).astype(np.float32), 16000)
        records.append(
            {"id": f"{clip}", "audio": f"{clip}.wav", "question": "What is it?", "answer": "a bell"}
        )
    for split in ("train", "validation", "test"):
        write_manifest(folder / f"{split}.jsonl", records)
    config = {
        "out": "given by the command",
        "baseline": "mlp",
        "inputs": {"train": [f"{folder}/train.jsonl"], "validation": [f"{folder}/validation.jsonl"],
                   "test": f"{folder}/test.jsonl", "llm": str(llm)},
        "stages": {"align": {"encoder": "logmel", "run": {"log_every": 1},
                             "optim": {"steps": 4, "batch_size": 4, "lr": 1e-3, "warmup_steps": 0}}},
        "axes": {"projector": {name: {"align": {"projector": name}} for name in ("mlp", "linear")}},
        "seeds": list(range(n_seeds)),
        "scoring": {"options": {"max_new_tokens": 3}, "controls": ["no_audio"]},
    }  # fmt: skip
    file = folder / "grid.yaml"
    file.write_text(yaml.safe_dump(config))
    return file


def ablate(grid: Path, out: Path, side: str) -> Cost:
    """Run the ablation of a config into an empty folder.

    Args:
        grid: The config.
        out: The folder.
        side: One of `SIDES`.

    Raises:
        RuntimeError: The command failed, or one of its steps did.
    """
    words = ["ablate", str(grid), f"out={out}", f"warm_start={str(side == SIDES[0]).lower()}"]
    log = out.with_suffix(".log")
    before, started = _children_cpu_s(), time.perf_counter()
    with log.open("wb") as said:
        status = subprocess.run(
            child_command("-m", "alm", *words), env=child_environment({"OMP_NUM_THREADS": "1"}),
            stdout=said, stderr=subprocess.STDOUT,
        ).returncode  # fmt: skip
    wall_s, cpu_s = time.perf_counter() - started, _children_cpu_s() - before
    text = log.read_text(encoding="utf-8", errors="replace")
    if status or "FAILED" in text:
        raise RuntimeError(f"alm {' '.join(words)}: exit code {status}: {text[-2000:]}")
    return Cost(wall_s, cpu_s, len(list((out / "steps").glob(f"*/{DONE}"))))


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def results(out: Path) -> dict[str, bytes]:
    """The weights and answers that an ablation has left, by path; checkpoints, which hold times, do not count."""
    steps = out / "steps"
    found = sorted(file for kind in _COMPARED for file in steps.rglob(kind))
    return {
        file.relative_to(steps).as_posix(): file.read_bytes()
        for file in found
        if "checkpoints" not in file.parts
    }


def compare(grid: Path, folder: Path, rounds: int) -> dict[str, list[Cost]]:
    """Run both sides in alternating order.

    Args:
        grid: The config.
        folder: Where the ablations are; removed after every round.
        rounds: How often each side runs.

    Raises:
        RuntimeError: A run failed, or the sides' results differ.
    """
    costs: dict[str, list[Cost]] = {side: [] for side in SIDES}
    for number in range(rounds):
        found = {}
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            out = folder / f"{number}-{side.replace(' ', '-')}"
            costs[side].append(ablate(grid, out, side))
            found[side] = results(out)
            shutil.rmtree(out)
            cost = costs[side][-1]
            print(
                f"round {number + 1}, {side}: {cost.wall_s:.1f} s wall, {cost.cpu_s:.1f} s of CPU", flush=True
            )
        check_equal(*(found[side] for side in SIDES))
    return costs


def check_equal(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """Raise a `RuntimeError` that names the weights and answers in which two ablations differ."""
    different = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
    if different or not ours:
        raise RuntimeError(f"results differ: {', '.join(different) or 'there are none'}")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare both sides and print times and ratios; a difference in results ends the bench with an error."""
    from benchmarks.zero_matrix import tiny_llm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs")
    parser.add_argument("--seeds", type=int, default=2, help="seeds of every arm of the grid")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the folder is removed
    print("\n".join(machine()))
    with tempfile.TemporaryDirectory(prefix="alm-bench-") as temporary:
        folder = Path(temporary)
        os.environ["ALM_CACHE"] = f"{folder}/cache"
        grid = write_grid(folder, tiny_llm(folder / "llm"), options.seeds)
        costs = compare(grid, folder, options.rounds)
    forked, new = (costs[side] for side in SIDES)
    files = f"{forked[0].n_steps} steps, weights and answers of both sides equal"
    for what in ("wall_s", "cpu_s"):
        pair = Pair(*(tuple(getattr(cost, what) for cost in side) for side in (forked, new)))
        name = {"wall_s": "wall time", "cpu_s": "CPU time"}[what]
        print(
            f"{name}: forked {spread(pair.ours, 1, 's')}, new interpreters {spread(pair.reference, 1, 's')}: "
            f"{pair} ({files})"
        )
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "tests"))
    raise SystemExit(main())
