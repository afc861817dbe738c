"""Asking and training with this code and with another checkout of it, in turn: whole processes, imports included.

    git worktree add /tmp/before 4887634
    PYTHONPATH=/tmp/before python -m alm quickstart --out /tmp/quickstart     # a run that both sides can read
    python -m benchmarks.checkouts --other /tmp/before --run /tmp/quickstart

Each figure is CPU time from start to exit, or the peak of a process's memory, so that other work on the machine hardly
counts. `each step` is what a training of many steps costs beyond one of few.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import Pair, Row, arguments, machine, spread, table

_HERE = Path(__file__).resolve().parents[1]
_QUESTION = "What do you hear?"
_CLIPS = 32
_STEPS = 10, 60

# Linux counts the memory of the process that starts another one as the other's, so a small process starts it.
_MEASURED = """
import json, os, sys
_, status, used = os.wait4(os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ), 0)
print("\\n" + json.dumps([status, used.ru_utime + used.ru_stime, used.ru_maxrss]))
"""


@dataclass(frozen=True)
class Cost:
    """What a process took.

    Attributes:
        cpu_s: CPU seconds, with those of its children.
        peak_mb: Most memory that it held, in MB.
    """

    cpu_s: float
    peak_mb: float


def cost(checkout: Path, words: Sequence[str]) -> Cost:
    """Run `alm` of a checkout.

    Args:
        checkout: Its root.
        words: The command line behind `alm`.

    Raises:
        RuntimeError: The command failed.
    """
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-S", "-c", _MEASURED, sys.executable, "-m", "alm", *words]
    done = subprocess.run(command, env=environment, cwd=tempfile.gettempdir(), capture_output=True, text=True)
    status, cpu_s, peak_kb = json.loads(done.stdout.splitlines()[-1])
    if status:
        raise RuntimeError(f"{checkout}: alm {' '.join(words)}: {done.stderr[-2000:]}")
    return Cost(cpu_s, peak_kb / 1024)


def training(run: Path, out: Path, steps: int) -> list[str]:
    """The command that trains the LLM's adapters of a quickstart's aligned model; writes its config."""
    config = {
        "stage": "instruct",
        "model": str(run / "align" / "model"),
        "out": str(out),
        "policy": {"encoder": "frozen", "projector": "train", "llm": "lora"},
        "data": {
            "train": [str(run / "data" / "train.jsonl")],
            "validation": [str(run / "data" / "validation.jsonl")],
            "cache_features": False,
        },
        "optim": {"lr": 0.001, "steps": steps, "batch_size": 16, "warmup_steps": 5},
        "run": {"seed": 0, "precision": "fp32"},
    }
    out.mkdir()
    path = out.with_suffix(".yaml")
    path.write_text(json.dumps(config))  # JSON is YAML
    return ["train", str(path)]


def compare(other: Path, run: Path, rounds: int) -> list[Row]:
    """Run both sides in turn.

    Args:
        other: Root of the other checkout.
        run: A finished quickstart, of the older of the two.
        rounds: How often each command runs on each side.
    """
    model = str(run / "instruct" / "model")
    clips = sorted(map(str, (run / "data" / "audio").glob("test-*.wav")))[:_CLIPS]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        few, many = _STEPS
        commands: dict[str, list[str] | int] = {
            "ask, 1 clip": ["ask", model, clips[0], _QUESTION],
            f"ask, {len(clips)} clips": ["ask", model, *clips, _QUESTION],
            f"train, {few} steps": few,
            f"train, {many} steps": many,
        }
        found: dict[str, tuple[list[Cost], list[Cost]]] = {what: ([], []) for what in commands}
        for number in range(rounds):
            for what, command in commands.items():
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    out = Path(temporary, f"{number}-{side}-{command}")
                    words = training(run, out, command) if isinstance(command, int) else command
                    found[what][side].append(cost((_HERE, other)[side], words))
                print(
                    what,
                    *(f"{side[-1].cpu_s:.2f} s {side[-1].peak_mb:.0f} MB" for side in found[what]),
                    flush=True,
                )
        cpu = {
            what: Pair(*(tuple(one.cpu_s for one in side) for side in sides)) for what, sides in found.items()
        }
        peaks = {
            what: Pair(*(tuple(one.peak_mb for one in side) for side in sides))
            for what, sides in found.items()
        }
        short, long = (cpu[f"train, {steps} steps"] for steps in _STEPS)
        cpu["train, each step"] = Pair(
            *(
                tuple((b - a) / (many - few) for a, b in zip(*sides, strict=True))
                for sides in ((short.ours, long.ours), (short.reference, long.reference))
            )
        )
        for scale, unit, pairs in ((1.0, "s", cpu), (1.0, "MB", peaks)):
            for what, pair in pairs.items():
                share = statistics.median(pair.ours) / statistics.median(pair.reference)
                rows.append(
                    Row(
                        "checkouts",
                        f"{what}: {'CPU' if unit == 's' else 'peak memory'}",
                        spread(pair.ours, scale, unit),
                        spread(pair.reference, scale, unit),
                        str(pair),
                        aim="0.7" if what == "ask, 1 clip" and unit == "s" else "1",
                        note=f"ours is {share:.2f} of the reference (the aim is at most that)",
                    )
                )
    return rows


def main() -> None:
    """Compare, and print the rows."""
    parser = arguments(__doc__)
    parser.add_argument("--other", type=Path, required=True, help="root of another checkout: the reference")
    parser.add_argument(
        "--run", type=Path, required=True, help="a finished quickstart that both sides can read"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often each command runs on each side (5)")
    options = parser.parse_args()
    print("\n".join(machine()))
    print(
        table(compare(options.other.resolve(), options.run.resolve(), 1 if options.quick else options.rounds))
    )


if __name__ == "__main__":
    main()
