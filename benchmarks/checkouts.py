"""Asking and training with this code and with another checkout of it, in turn: whole processes, imports included.

    git worktree add /tmp/before 4887634
    PYTHONPATH=/tmp/before python -m alm quickstart --out /tmp/quickstart     # a run that both sides can read
    python -m benchmarks.checkouts --other /tmp/before --run /tmp/quickstart --llm SMOLLM2

Each figure is CPU time from start to exit, or the peak of a process's memory, so that other work on the machine hardly
counts. `each step` is what a training of many steps costs beyond one of few. With `--llm` a real LLM is also aligned,
with the quickstart's encoder, which runs in every step.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import Pair, Row, arguments, machine, spread, table

_HERE = Path(__file__).resolve().parents[1]
_QUESTION = "What do you hear?"
_CLIPS = 32
_STEPS = 10, 60
_REAL_STEPS = 2, 8  # with a real LLM

# Linux counts the memory of the parent in a child's peak, so a small process starts the measured one.
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


@dataclass(frozen=True)
class Training:
    """A training that both checkouts understand.

    Attributes:
        config: Config of `alm train`, without steps and run directory.
        steps: Steps of the short and of the long training.
    """

    config: Mapping[str, Any]
    steps: tuple[int, int] = _STEPS

    def command(self, out: Path, steps: int) -> list[str]:
        """The command line behind `alm`; writes its config beside the run directory."""
        config = {**self.config, "out": str(out), "optim": {**self.config["optim"], "steps": steps}}
        path = out.with_suffix(".yaml")
        path.write_text(json.dumps(config))  # JSON is YAML
        return ["train", str(path)]


def trainings(run: Path, llm: Path | None) -> dict[str, Training]:
    """Align and instruct of a quickstart, and align with a real LLM; the encoder runs in every step."""
    files = {name: [str(run / "data" / f"{name}.jsonl")] for name in ("train", "validation")}
    common = {
        "data": {**files, "cache_features": False},
        "optim": {"lr": 0.001, "batch_size": 16, "warmup_steps": 1},
        "run": {"seed": 0, "precision": "fp32"},
    }
    frozen = {"encoder": "frozen", "projector": "train", "llm": "frozen"}
    align = common | {"stage": "align", "policy": frozen, "encoder": str(run / "pretrain" / "encoder")}
    lora = {"stage": "instruct", "model": str(run / "align" / "model"), "policy": frozen | {"llm": "lora"}}
    found = {
        "align": Training(
            align | {"llm": str(run / "llm"), "projector": "mlp", "projector_options": {"stack": 2}}
        ),
        "instruct": Training(common | lora),
    }
    if llm is not None:
        real = {"llm": str(llm), "projector": "mlp", "projector_options": {"stack": 8}}
        optim = common["optim"] | {"batch_size": 4}
        found["align a real LLM"] = Training(align | real | {"optim": optim}, _REAL_STEPS)
    return found


def compare(
    other: Path, run: Path, rounds: int, llm: Path | None = None, only: Sequence[str] = ()
) -> list[Row]:
    """Run both sides in turn.

    Args:
        other: Root of the other checkout.
        run: A finished quickstart, of the older of the two.
        rounds: How often each command runs on each side.
        llm: A real LLM that is also aligned.
        only: What to compare (`ask`, or a name of `trainings`); empty compares everything.
    """
    model = str(run / "instruct" / "model")
    clips = sorted(map(str, (run / "data" / "audio").glob("test-*.wav")))[:_CLIPS]
    rows = []
    chosen = {what: one for what, one in trainings(run, llm).items() if not only or what in only}
    with tempfile.TemporaryDirectory() as temporary:
        commands: dict[str, Callable[[Path], list[str]]] = {}
        if not only or "ask" in only:
            commands["ask, 1 clip"] = lambda _: ["ask", model, clips[0], _QUESTION]
            commands[f"ask, {len(clips)} clips"] = lambda _: ["ask", model, *clips, _QUESTION]
        for what, one in chosen.items():
            for steps in one.steps:
                commands[f"{what}, {steps} steps"] = partial(one.command, steps=steps)
        found: dict[str, tuple[list[Cost], list[Cost]]] = {what: ([], []) for what in commands}
        for number in range(rounds):
            for place, (what, command) in enumerate(commands.items()):
                for side in (0, 1) if number % 2 == 0 else (1, 0):
                    words = command(Path(temporary, f"{number}-{side}-{place}"))
                    found[what][side].append(cost((_HERE, other)[side], words))
                print(
                    what,
                    *(f"{side[-1].cpu_s:.2f} s {side[-1].peak_mb:.0f} MB" for side in found[what]),
                    flush=True,
                )
    cpu = {what: Pair(*(tuple(one.cpu_s for one in side) for side in sides)) for what, sides in found.items()}
    peaks = {
        what: Pair(*(tuple(one.peak_mb for one in side) for side in sides)) for what, sides in found.items()
    }
    for what, one in chosen.items():
        few, many = one.steps
        short, long = (cpu[f"{what}, {steps} steps"] for steps in one.steps)
        cpu[f"{what}, each step"] = Pair(
            *(
                tuple((b - a) / (many - few) for a, b in zip(*sides, strict=True))
                for sides in ((short.ours, long.ours), (short.reference, long.reference))
            )
        )
    for unit, pairs in (("s", cpu), ("MB", peaks)):
        for what, pair in pairs.items():
            share = statistics.median(pair.ours) / statistics.median(pair.reference)
            rows.append(
                Row(
                    "checkouts",
                    f"{what}: {'CPU' if unit == 's' else 'peak memory'}",
                    spread(pair.ours, 1.0, unit),
                    spread(pair.reference, 1.0, unit),
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
    parser.add_argument("--llm", type=Path, help="a real LLM to align as well")
    parser.add_argument(
        "--only", nargs="+", default=(), help="of ask, align, instruct and 'align a real LLM'"
    )
    options = parser.parse_args()
    run, llm = options.run.resolve(), options.llm and options.llm.resolve()
    if unknown := set(options.only) - {"ask", *trainings(run, llm)}:
        parser.error(f"--only: nothing is called {', '.join(sorted(unknown))}")
    print("\n".join(machine()))
    rounds = 1 if options.quick else options.rounds
    print(table(compare(options.other.resolve(), run, rounds, llm, options.only)))


if __name__ == "__main__":
    main()
