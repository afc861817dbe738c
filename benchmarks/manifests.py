"""Opening large manifests: the first pass, later opens, an epoch's order, and memory of each process.

    python -m benchmarks.manifests [--records 1000000 10000000]

Writes the manifests below a temporary folder (0.2 GB for a million records) and removes them. Every figure is of a
fresh process; memory is the largest private memory (pages that could not be dropped) of any process, sampled while it
worked, without what the process had after its imports (a process that trains has PyTorch in any case).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from alm.common.processes import child_environment

LIMITS = {"first_pass_s": 15.0, "later_open_s": 3.0, "private_mb": 150.0}
"""Limits for a million records; ten million may take twice the memory."""

_OPEN = """
import json, resource, sys, time
from alm.data.sources import open_records
from benchmarks.manifests import private_mb
if len(sys.argv) > 2:
    from train.data.order import epoch_order, mixture_order
base_mb = private_mb("self")
before = time.perf_counter()
records = open_records([sys.argv[1]])
out = {"open_s": time.perf_counter() - before, "records": len(records), "base_mb": base_mb}
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
out["cpu_s"] = sum(one.ru_utime + one.ru_stime for one in used)
if len(sys.argv) > 2:
    before = time.perf_counter()
    order = epoch_order(len(records), 0, 1)
    mixture_order([len(records) // 2, len(records) - len(records) // 2], [1.0, 2.0], 0, 1)
    out["orders_s"] = time.perf_counter() - before
    before = time.perf_counter()
    for index in order[:10_000]:
        records[int(index)]
    out["record_us"] = (time.perf_counter() - before) * 100
print(json.dumps(out))
"""


def write_records(path: Path, n_records: int) -> None:
    """Write a manifest of questions, captions and conversations."""
    with path.open("w") as stream:
        for number in range(n_records):
            name = f"audio/{number % 1000:04d}/{number:08d}.wav"
            row: dict[str, object] = {"id": f"clip-{number:08d}"}
            if number % 4 < 2:
                row |= {"audio": name, "question": "What can be heard in this recording?"}
                row |= {"answer": f"a dog barks {number % 97} times", "kind": "qa", "split": "train"}
            elif number % 4 == 2:
                row["audio"] = {"path": name, "start_s": 1.5, "end_s": 4.25}
                row["captions"] = ["A dog barks while rain falls.", "Rain falls on a roof and a dog barks."]
            else:
                row["audio"] = [name]
                row["messages"] = [
                    {"role": "user", "content": "What is it: a dog or a cat?"},
                    {"role": "assistant", "content": "It is a dog."},
                ]
            stream.write(json.dumps(row) + "\n")


def measure(path: Path, *words: str) -> dict[str, float]:
    """Open a manifest in a fresh process; returns its figures and `private_mb`."""
    command = [sys.executable, "-c", _OPEN, str(path), *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, env=child_environment())
    largest: dict[int, float] = {}
    while child.poll() is None:
        for process in _with_children(child.pid):
            largest[process] = max(largest.get(process, 0.0), private_mb(process))
        time.sleep(0.05)
    assert child.stdout is not None
    if child.returncode:
        raise SystemExit(f"opening {path} failed")
    figures = json.loads(child.stdout.read())
    largest[child.pid] -= figures["base_mb"]
    return {**figures, "private_mb": max(largest.values())}


def private_mb(process: int | str) -> float:
    """Memory that a process holds by itself, in MB; pages of files that can be read again do not count."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0.0
    kept = ("Private_Dirty:", "Private_Hugetlb:", "Swap:")
    return sum(int(line.split()[1]) for line in lines if line.startswith(kept)) / 1024


def _with_children(process: int) -> list[int]:
    found = [process]
    for parent in found:
        try:
            words = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found += map(int, words)
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure manifests of each size; returns 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, nargs="+", default=[1_000_000, 10_000_000])
    options = parser.parse_args(argv)
    missed = 0
    for n_records in options.records:
        with tempfile.TemporaryDirectory(prefix="alm-bench-") as folder:
            os.environ["ALM_CACHE"] = f"{folder}/cache"
            path = Path(folder) / "train.jsonl"
            write_records(path, n_records)
            first = measure(path)
            os.sync()  # pages of the new index that are not on the disk yet would count as the next process's own
            later = measure(path, "orders")
        figures = {
            "first_pass_s": first["open_s"],
            "first_pass_cpu_s": first["cpu_s"],
            "later_open_s": later["open_s"],
            "orders_s": later["orders_s"],
            "record_us": later["record_us"],
            "private_mb": first["private_mb"],
            "later_private_mb": later["private_mb"],
        }
        print(f"{n_records} records, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}")
        for name, value in figures.items():
            limit = LIMITS.get(name.removeprefix("later_") if name.endswith("_mb") else name)
            if limit is not None and n_records > 1_000_000:
                limit = 2 * limit if name.endswith("_mb") else limit * n_records / 1_000_000
            verdict = "" if limit is None else f"   limit {limit:g}: {'ok' if value < limit else 'MISSED'}"
            missed += verdict.endswith("MISSED")
            print(f"  {name:<18}{value:10.3f}{verdict}", flush=True)
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
