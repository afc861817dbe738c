"""Kill commands and fill disks at random moments, and check that a restart ends with the same result.

    python -m benchmarks.faults --kills 100 --seed 0 --kinds align eval shard

Every trial runs one command on tiny inputs and interrupts it once: SIGKILL, SIGTERM or Ctrl-C at a random moment, or a
disk that is full (a small tmpfs where this process may mount one, else a limit on the size of files). Then the same
command runs again undisturbed. The trial fails if the result differs from an undisturbed run's, if a file is left
over or missing, if a process still lives ten seconds after the interruption, or if one of ours printed a traceback.
Processes that end later than that, on a busy machine, are counted as slow; `--at` repeats a moment on a quiet one.

Commands run in forks of this process, which has imported everything already: a trial takes seconds. Launchers
(`torchrun`, `deepspeed`) run as real processes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from safetensors.numpy import load_file

from alm.common.import_path import ROOT
from alm.common.processes import child_command, child_environment
from train.engine.throughput import FIGURES

MARK = "ALM_FAULTS_TRIAL"
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
ENCODER = {"spec_size": [64, 32], "embed_dim": 24, "depth": 1, "num_heads": 2, "project_embedding_dim": 16}
FAULTS = (signal.SIGKILL.name, signal.SIGTERM.name, signal.SIGINT.name, "full")
_LONGEST_S = 1800.0
_SLOW = 12  # a process that lives this many times longer than expected counts as never ending
# Not part of a result: times, logs, and what an interruption legitimately leaves to resume from.
_TIMES = (
    "seconds",
    "time_s",
    "wall_s",
    "finished",
    "train_runtime",
    *FIGURES,
)
# Fingerprints of files also cover when these were written, and the quickstart writes its own data.
_FINGERPRINTS = ("sha256", "bytes", "model", "model_id", "key", "fingerprint", "weights_header_sha256")
_NOT_COMPARED = ("log.txt", "report.html")


@dataclass(frozen=True)
class Kind:
    """A command to interrupt.

    Attributes:
        words: Gives the words behind `alm` from (inputs, out).
        launcher: Words behind `python` that start it, with `{port}`; empty runs it in a fork.
        disk: Whether full disks are tried too.
        weight: How often it is drawn, relative to others.
        once: Whether the command refuses to run again where it has finished.
    """

    words: Callable[[Path, Path], list[str]]
    launcher: tuple[str, ...] = ()
    disk: bool = True
    weight: float = 1.0
    once: bool = False


def _train(name: str) -> Callable[[Path, Path], list[str]]:
    return lambda inputs, out: ["train", str(inputs / f"{name}.yaml"), f"out={out / 'run'}"]


TOY = (
    *("compose.n_train=6", "compose.n_validation=3", "compose.n_test=3", "compose.scene_s=1.5"),
    *("text_llm.steps=2", "text_llm.n_layers=1", "text_llm.n_test_scenes=1", "pretrain.optim.steps=2"),
    *("pretrain.optim.batch_size=4", "pretrain.optim.warmup_steps=0", "align.optim.steps=2"),
    *("align.optim.warmup_steps=0", "instruct.optim.steps=2", "instruct.optim.warmup_steps=0"),
    *("evaluate.max_new_tokens=2", "evaluate.limit=6", "arms={}"),
)
_TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "{port}", "-m", "alm")
_DEEPSPEED = (
    "-m",
    "deepspeed.launcher.runner",
    "--num_gpus",
    "2",
    "--master_port",
    "{port}",
    "--module",
    "alm",
)
KINDS = {
    "align": Kind(_train("align"), weight=3),
    "pretrain": Kind(_train("pretrain"), weight=2),
    "finetune": Kind(_train("finetune")),
    "recipe": Kind(_train("recipe")),
    "torchrun": Kind(_train("align"), _TORCHRUN, disk=False, weight=0.7),
    "deepspeed": Kind(_train("deepspeed"), _DEEPSPEED, disk=False, weight=0.7),
    "eval": Kind(
        lambda inputs, out: [
            *(
                "eval",
                "manifest",
                "--model",
                str(inputs / "made/model/model"),
                "--data",
                str(inputs / "scenes/test.jsonl"),
            ),
            *(
                "--out",
                str(out / "eval"),
                "--batch-size",
                "2",
                "max_new_tokens=2",
                "controls=[none, no_audio]",
            ),
        ],
        weight=2,
    ),
    "compose": Kind(
        lambda inputs, out: [
            *("data", "compose", "--out", str(out / "scenes"), "n_train=40", "n_validation=4", "n_test=4"),
            *("scene_s=2.0",),
        ],
        weight=2,
    ),
    "shard": Kind(
        lambda inputs, out: [
            *("data", "shard", str(inputs / "scenes/train.jsonl"), "--out", str(out / "shards")),
            *("--shard-mb", "0.1"),
        ],
        weight=2,
        once=True,
    ),
    "export": Kind(
        lambda inputs, out: [
            "export",
            str(inputs / "made/model/model"),
            "--out",
            str(out / "whole"),
            "--merge",
        ],
        weight=2,
        once=True,
    ),
    "ablate": Kind(
        lambda inputs, out: ["ablate", str(inputs / "ablate.yaml"), f"out={out / 'out'}"], weight=0.5
    ),
    "quickstart": Kind(lambda inputs, out: ["quickstart", "--out", str(out / "q"), *TOY], weight=0.5),
}


# ---- inputs ----
def make_inputs(folder: Path) -> None:
    """Scenes, a small LLM, a model, and the configs of all kinds."""
    from train.pipeline.runner import run_stage
    from train.stage import parse_stage

    def run(name: str, values: dict[str, Any]) -> Path:
        return run_stage(parse_stage({**values, "out": str(folder / "made" / name)}, name))

    scenes = {"stage": "compose", "n_train": 8, "n_validation": 3, "n_test": 3, "scene_s": 1.5}
    shutil.copytree(run("scenes", scenes), folder / "scenes")
    small = {"steps": 2, "n_layers": 1, "hidden_size": 32, "n_test_scenes": 1}
    llm = run("llm", {"stage": "text_llm", "model": small})
    lora = {"llm": "lora", "llm_lora": {"dropout": 0.3}}
    optim = {"steps": 6, "batch_size": 2, "warmup_steps": 1, "lr": 1e-3}
    data = {
        "train": [str(folder / "scenes/train.jsonl")],
        "validation": [str(folder / "scenes/validation.jsonl")],
    }
    running = {"save_every": 2, "log_every": 2, "seed": 5}
    starts = {"encoder": "audiomosaic", "encoder_options": ENCODER, "llm": str(llm)}
    align = {"stage": "align", **starts, "policy": lora, "data": data, "optim": optim, "run": running}
    run("model", {**align, "optim": optim | {"steps": 1}})
    pretrain = {"stage": "pretrain", **{key: starts[key] for key in ("encoder", "encoder_options")}}
    pretrain |= {
        "data": data,
        "optim": optim | {"batch_size": 4, "steps": 4},
        "run": running | {"save_every": 1},
    }
    labels = folder / "labels"
    _write_labels(folder / "scenes", labels)
    finetune = {
        "stage": "finetune",
        **{key: starts[key] for key in ("encoder", "encoder_options")},
        "data": {"train": [str(labels / "labels.csv")], "folds": {"test": "3"}},
        "optim": {"batch_size": 4},
        "run": running,
        "finetune": {"mode": "full", "epochs": 3, "baseline": False},
    }
    recipe = {
        "defaults": {"optim": {"steps": 2, "batch_size": 2, "warmup_steps": 0}, "run": {"save_every": 1}},
        "stages": [
            {"name": "some", "stage": "select", "data": data["train"][0], "kinds": ["caption", "what"]},
            {"name": "first", "stage": "align", **starts, "data": {"train": ["stage:some/train.jsonl"]}},
            {
                "name": "second",
                "stage": "instruct",
                "model": "stage:first",
                "data": {"train": data["train"]},
                "evaluate": {
                    "data": str(folder / "scenes/test.jsonl"),
                    "limit": 4,
                    "max_new_tokens": 2,
                    "controls": ["none"],
                },
            },
        ],
        "out": "out",
    }
    ablate = {
        "out": "out",
        "baseline": "logmel",
        "inputs": {**data, "test": str(folder / "scenes/test.jsonl"), "llm": str(llm)},
        "stages": {"align": {"projector": "linear", "optim": {**optim, "steps": 2}}},
        "axes": {"encoder": {"logmel": {"align": {"encoder": "logmel"}}}},
        "seeds": [0],
        "scoring": {"options": {"max_new_tokens": 2, "limit": 4}, "controls": ["no_audio"]},
    }
    deepspeed = {**align, "run": {**running, "deepspeed": str(CONFIGS / "deepspeed/zero1.json")}}
    configs = {"align": align, "pretrain": pretrain, "finetune": finetune, "recipe": recipe, "ablate": ablate}
    for name, values in (configs | {"deepspeed": deepspeed}).items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"out": "unused", **values}))


def _write_labels(scenes: Path, out: Path) -> None:
    """A label table with ESC-50's columns of the scenes' recordings, whose classes mean nothing."""
    out.mkdir()
    rows = ["filename,fold,category"]
    for number, file in enumerate(sorted((scenes / "audio").glob("*.wav"))[:12]):
        shutil.copy(file, out / file.name)
        rows.append(f"{file.name},{number % 3 + 1},{'ab'[number // 3 % 2]}")
    (out / "labels.csv").write_text("\n".join(rows) + "\n")


# ---- processes ----
def start(kind: Kind, words: Sequence[str], log: Path, mark: str, limit: int | None = None) -> int:
    """Start the command as the leader of a new session; returns its process id."""
    log.touch()  # a process that is killed at once opens no log
    if kind.launcher:
        with log.open("ab") as stream:
            command = child_command(*(word.format(port=free_port()) for word in kind.launcher), *words)
            more = {MARK: mark, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
            started = subprocess.Popen(
                command, env=child_environment(more), stdout=stream, stderr=stream, start_new_session=True
            )
        return started.pid
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        os.environ |= {MARK: mark, "OMP_NUM_THREADS": "1"}
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if limit is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        import torch

        from alm.cli import main

        torch.set_num_threads(1)
        code = main(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:  # before the command had begun
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int, seconds: float) -> int | None:
    """The exit code of a child (negative: the signal that ended it); None if it runs longer than that."""
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.01)


def alive(mark: str, session: int) -> list[int]:
    """Processes that a trial started and that still run: by their session, or by the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = int(fields[3]) == session or f"{MARK}={mark}".encode() in environment
        if ours and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def seconds_to_end(mark: str, session: int, seconds: float) -> float | None:
    """Seconds until all processes of a trial have ended; None if some live so long, which are then killed."""
    began = time.monotonic()
    while (found := alive(mark, session)) and time.monotonic() - began < seconds:
        time.sleep(0.1)
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return None if found else time.monotonic() - began


def tracebacks(log: str, ours_only: bool) -> int:
    """How many tracebacks a log holds, or only those through our files: launchers print their own when killed."""
    blocks = log.split("Traceback (most recent call last)")[1:]
    return sum(not ours_only or any(map(_in_our_file, block.splitlines())) for block in blocks)


def _in_our_file(line: str) -> bool:
    """Whether a line of a traceback names a file of ours; an environment may lie in the checkout."""
    return f'File "{ROOT}' in line and "site-packages" not in line


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# ---- results ----
def result(out: Path) -> dict[str, str]:
    """Relative path and content hash of every file that a command left; times are taken out of JSON files."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        cached = path.parent.name == "features" and path.suffix == ".safetensors"  # one shard for each start
        if path.is_file() and path.name not in _NOT_COMPARED and not cached:
            found[name] = hashlib.sha256(_content(path, out)).hexdigest()
    return found


def _content(path: Path, out: Path) -> bytes:
    """A file's content without times, and without the path of this trial."""
    data = path.read_bytes().replace(str(out).encode(), b"OUT")
    if path.suffix == ".json":
        return json.dumps(_without_times(json.loads(data)), sort_keys=True).encode()
    if path.suffix == ".jsonl":
        lines = [_without_times(json.loads(line)) for line in data.splitlines() if line]
        if path.name == "metrics.jsonl":  # after an interruption, losses are summed in another order
            lines = [
                {k: round(v, 5) if isinstance(v, float) else v for k, v in line.items()} for line in lines
            ]
        return "\n".join(json.dumps(line, sort_keys=True) for line in lines).encode()
    if path.suffix == ".safetensors":  # the order of the header's notes is random
        tensors = load_file(path)
        return b"".join(name.encode() + tensors[name].tobytes() for name in sorted(tensors))
    if path.suffix == ".csv":
        rows = list(csv.DictReader(data.decode().splitlines()))
        return json.dumps(_without_times(rows), sort_keys=True).encode()
    if path.suffix == ".pt" or path.name in ("report.md", "environment.json", "trainer_state.json"):
        return b""  # pickles are not canonical, and reports hold times: compare only whether the file exists
    return data


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.endswith(_TIMES) and k not in _FINGERPRINTS}
        return {key: _without_times(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [_without_times(item) for item in value]
    return value


# ---- trials ----
@dataclass
class Trials:
    """Counts and failures of a session.

    Attributes:
        folder: Where everything is written.
        draws: Random generator of all choices.
        alive_s: Seconds after an interruption in which all processes must end.
        counts: Trials by (kind, fault).
        failures: One line each.
        slow: Trials whose processes ended, but later; one line each.
    """

    folder: Path
    draws: random.Random
    alive_s: float = 10.0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slow: list[str] = field(default_factory=list)
    _references: dict[str, tuple[dict[str, str], float, int]] = field(default_factory=dict)

    def reference(self, name: str) -> tuple[dict[str, str], float, int]:
        """Result, seconds and bytes of an undisturbed run."""
        if name not in self._references:
            out, began = self._out(name), time.monotonic()
            code = wait(self._start(name, out, "reference"), _LONGEST_S)
            if code != 0:
                raise RuntimeError(
                    f"{name}: the undisturbed run ended with {code}; see {out.parent / 'log.txt'}"
                )
            size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
            self._references[name] = result(out), time.monotonic() - began, size
        return self._references[name]

    def _out(self, name: str) -> Path:
        out = self.folder / name / "out"
        shutil.rmtree(out.parent, ignore_errors=True)
        out.mkdir(parents=True)
        return out

    def _start(self, name: str, out: Path, mark: str, limit: int | None = None) -> int:
        words = KINDS[name].words(self.folder / "inputs", out)
        return start(KINDS[name], words, out.parent / "log.txt", mark, limit)

    def run(self, name: str, fault: str, number: int, at: float) -> bool:
        """One trial; returns whether it passed.

        Args:
            name: Key of `KINDS`.
            fault: Name of a signal, or `full`.
            number: Number of the trial.
            at: When, as a share of the undisturbed run's time or of its bytes.
        """
        try:
            wanted, seconds, size = self.reference(name)
        except RuntimeError as error:
            self.failures.append(str(error))
            return False
        mark = f"{os.getpid()}-{number}"
        out = self._out(name)  # always the same: fingerprints cover paths
        told = []
        mounted = fault == "full" and mount(out, int(size * (0.05 + 0.9 * at)) + 16384)
        limit = None
        if fault == "full" and not mounted:
            limit = int(max(512.0, size ** (0.4 + 0.55 * at)))
        pid = self._start(name, out, mark, limit)
        if fault == "full":
            code = wait(pid, _LONGEST_S)
            if code not in (0, 2):
                told.append(f"a full disk ended with {code}")
            if mounted:
                subprocess.run(["mount", "-o", "remount,size=512m", str(out)], check=True)
        else:
            code = wait(pid, at * seconds)
            if code is None and fault == signal.SIGINT.name:
                os.killpg(pid, signal.SIGINT)  # a terminal sends it to all processes of the command
            elif code is None:
                os.kill(pid, signal.Signals[fault])
            if code is None and wait(pid, 60.0) is None:
                told.append("it ignored the signal for 60 s")
        took = seconds_to_end(mark, pid, _SLOW * self.alive_s)
        if took is None:
            told.append("processes lived on")
        elif took > self.alive_s:
            load = os.getloadavg()[0]
            self.slow.append(f"{name} {fault} {number}: ended after {took:.0f} s at a load of {load:.0f}")
        log = (out.parent / "log.txt").read_text(errors="replace")
        if found := tracebacks(log, bool(KINDS[name].launcher)):
            told.append(f"{found} tracebacks")
        if not KINDS[name].once or differences(result(out), wanted):
            again = self._start(name, out, f"{mark}-again")
            code = wait(again, _LONGEST_S)
            if code != 0:
                told.append(f"the second run ended with {code}")
            seconds_to_end(f"{mark}-again", again, self.alive_s)
        told += differences(result(out), wanted)
        self.counts[name, fault] += 1
        if told:
            kept = self.folder / f"failed-{number}-{name}"
            shutil.copytree(out.parent, kept)
            self.failures.append(f"{name} {fault} {number}: {'; '.join(told)} (see {kept})")
        if mounted:
            subprocess.run(["umount", str(out)], check=True)
        return not told


def mount(out: Path, size: int) -> bool:
    """Mount a tmpfs of a size on a folder; False where this is not allowed."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size // 4096 * 4096}", "tmpfs", str(out)], capture_output=True
    )
    return done.returncode == 0


def differences(got: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """The files that a result lacks, has in addition, or has with other content than the undisturbed one."""
    sides = (
        ("is missing", wanted.keys() - got.keys()),
        ("is left over", got.keys() - wanted.keys()),
        ("differs", {name for name in got.keys() & wanted.keys() if got[name] != wanted[name]}),
    )
    return [f"{sorted(names)[:4]} {what}" for what, names in sides if names]


def choices(
    draws: random.Random, kinds: Sequence[str], faults: Sequence[str], n: int
) -> Iterator[tuple[str, str, float]]:
    """Random kinds with random faults at random moments; every kind comes up."""
    for number in range(n):
        weights = [KINDS[kind].weight for kind in kinds]
        name = kinds[number] if number < len(kinds) else draws.choices(kinds, weights)[0]
        possible = [fault for fault in faults if fault != "full" or KINDS[name].disk]
        yield name, draws.choice(possible), draws.uniform(0.0, 1.0)


def run_trials(
    folder: Path,
    n: int,
    seed: int,
    kinds: Sequence[str],
    minutes: float = 1e9,
    alive_s: float = 10.0,
    faults: Sequence[str] = (),
    at: float | None = None,
) -> Trials:
    """Run trials one after the other.

    Args:
        folder: An empty folder for everything.
        n: How many.
        seed: Seed of all choices.
        kinds: Keys of `KINDS`.
        minutes: Start no more after this time.
        alive_s: Seconds after an interruption in which all processes must end.
        faults: Skip other faults; empty: all.
        at: Interrupt always at this moment (0 to 1); None draws it.
    """
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell ignores it for commands in the background
    _preload()
    inputs = folder / "inputs"
    inputs.mkdir(parents=True)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            make_inputs(inputs)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if wait(pid, _LONGEST_S) != 0:
        raise RuntimeError("the inputs could not be made")
    trials, until = Trials(folder, random.Random(seed), alive_s), time.monotonic() + 60 * minutes
    for number, (name, fault, moment) in enumerate(choices(trials.draws, kinds, faults or FAULTS, n)):
        if time.monotonic() > until:
            break
        began, moment = time.monotonic(), moment if at is None else at
        passed = trials.run(name, fault, number, moment)
        said = "ok" if passed else f"FAILED: {trials.failures[-1]}"
        took = time.monotonic() - began
        print(f"{number + 1}/{n} {name} {fault} at {moment:.3f} ({took:.0f} s): {said}", flush=True)
    return trials


def _preload() -> None:
    """Import what the commands need, before anything is forked; nothing is computed here."""
    import deepspeed  # noqa: F401
    import peft  # noqa: F401
    import transformers.trainer  # noqa: F401

    import train.finetune.stage
    import train.pipeline.recipe
    import train.pretrain.stage
    import train.quickstart.workflow
    import train.tune.stage  # noqa: F401


def main(argv: Sequence[str] | None = None) -> int:
    """Run the trials, print a table; returns 1 if one failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="number of trials (20)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all choices (0)")
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="commands to interrupt"
    )
    parser.add_argument(
        "--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="what happens (all)"
    )
    parser.add_argument(
        "--at", type=float, metavar="SHARE", help="when: 0 to 1 of the run; random if not given"
    )
    parser.add_argument("--minutes", type=float, default=1e9, help="start no more trials after this time")
    parser.add_argument(
        "--alive-s",
        type=float,
        default=10.0,
        help="seconds until all processes must have ended (10)",
    )
    parser.add_argument("--folder", type=Path, help="empty folder for everything (a temporary one)")
    options = parser.parse_args(argv)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="alm-faults-"))
    limits = (options.minutes, options.alive_s, options.faults, options.at)
    trials = run_trials(folder, options.kills, options.seed, options.kinds, *limits)
    for (name, fault), count in sorted(trials.counts.items()):
        print(f"{name:<12} {fault:<8} {count}")
    print(f"{trials.counts.total()} trials, {len(trials.failures)} failed, {len(trials.slow)} slow")
    for line in trials.failures + trials.slow:
        print(line)
    if options.folder is None and not trials.failures:
        shutil.rmtree(folder)
    return 1 if trials.failures or trials.slow else 0


if __name__ == "__main__":
    sys.exit(main())
