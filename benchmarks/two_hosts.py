"""Commands on two hosts: started by every launcher, killed in the middle, resumed on two hosts and on one.

    python -m benchmarks.two_hosts --only torchrun killed

Two network namespaces joined by a cable stand for the hosts (Linux, root); they share the file system. Models are
tiny and train on the CPU through gloo: what is shown is that the processes find each other, that the result is the
same as one host's, and what happens when a host dies. Nothing here is a measurement of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

_LONGEST_S = 600.0
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}


@dataclass
class Bench:
    """What the cases share.

    Attributes:
        hosts: The two hosts, `tests/hosts.py`.
        folder: Seen by both.
        parts: Paths of the tiny encoder, LLM and model.
    """

    hosts: tuple[Any, Any]
    folder: Path
    parts: dict[str, Path]
    _port = 29500

    def config(self, name: str, **run: Any) -> tuple[Path, Path]:
        """The config of a training run and its run directory: both LoRAs, dropout everywhere, 12 steps."""
        from survival import of_stage

        from alm.common.settings import dump_settings

        out = self.folder / "runs" / name
        settings = of_stage(
            "instruct", self.folder / "data", out, self.parts, optim={"steps": 12, "accumulation": 1}, run=run
        )
        file = self.folder / f"{name}.yaml"
        file.write_text(dump_settings(settings))
        return file, out

    def port(self) -> int:
        """A port that no case has used."""
        self._port += 1
        return self._port

    def start(self, commands: Sequence[tuple[int, Sequence[str], dict[str, str]]], name: str) -> list[Any]:
        """Start a command per (host, words, variables)."""
        return [
            self.hosts[host].start(
                [sys.executable, *words],
                self.folder / f"{name}-{place}.log",
                {**_ENVIRONMENT, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1", **variables},
                self.folder,
            )
            for place, (host, words, variables) in enumerate(commands)
        ]

    def said(self, name: str) -> str:
        """What the commands of a case have printed."""
        return "\n".join(
            file.read_text(errors="replace") for file in sorted(self.folder.glob(f"{name}-?.log"))
        )

    def finish(self, processes: Sequence[Any], name: str) -> None:
        """Wait for commands, which must end well."""
        until = time.monotonic() + _LONGEST_S
        codes = [process.wait(max(1.0, until - time.monotonic())) for process in processes]
        if any(codes):
            raise RuntimeError(f"{name}: exit codes {codes}\n{self.said(name)[-4000:]}")

    def until(self, condition: Callable[[], bool], processes: Sequence[Any], name: str) -> None:
        """Wait for something to happen while commands run."""
        until = time.monotonic() + _LONGEST_S
        while not condition():
            if time.monotonic() > until or all(process.poll() is not None for process in processes):
                raise RuntimeError(f"{name}: ended before it could be interrupted\n{self.said(name)[-4000:]}")
            time.sleep(0.02)


def torchrun(
    bench: Bench, words: Sequence[str], both: bool = True
) -> list[tuple[int, list[str], dict[str, str]]]:
    """A command in one process on each host, or in two on the first."""
    shape = ["--nnodes", "2", "--nproc-per-node", "1"] if both else ["--nnodes", "1", "--nproc-per-node", "2"]
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"host-a:{bench.port()}", "--rdzv-id", "alm"]
    command = ["-m", "torch.distributed.run", *shape, *meet, "-m", "alm", *words]
    return [(host, command, {}) for host in range(1 + both)]


def deepspeed(bench: Bench, words: Sequence[str]) -> list[tuple[int, list[str], dict[str, str]]]:
    """DeepSpeed's launcher, started on each host, because without ssh one host cannot start processes on the other."""
    hostfile = bench.folder / "hostfile"
    hostfile.write_text("host-a slots=1\nhost-b slots=1\n")
    options = [
        "--hostfile",
        str(hostfile),
        "--no_ssh",
        "--master_addr",
        "host-a",
        "--master_port",
        str(bench.port()),
    ]
    command = ["-m", "deepspeed.launcher.runner", *options]
    rest = ["--module", "alm", *words]
    return [(host, [*command, "--node_rank", str(host), *rest], {}) for host in range(2)]


def slurm(bench: Bench, words: Sequence[str]) -> list[tuple[int, list[str], dict[str, str]]]:
    """The variables of two tasks of `srun`, one on each host."""
    job = {"SLURM_JOB_ID": str(bench.port()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    job["SLURM_NODELIST"] = "host-[a-b]"
    return [(host, ["-m", "alm", *words], {**job, "SLURM_PROCID": str(host)}) for host in range(2)]


def weights(out: Path) -> dict[str, np.ndarray]:
    """The weights that a run has saved."""
    return dict(load_file(out / "model" / "model.safetensors"))


def difference(out: Path, reference: Path) -> str:
    """How far the weights of two runs are apart."""
    got, wanted = weights(out), weights(reference)
    if got.keys() != wanted.keys():
        raise RuntimeError(f"{out}: other weights than {reference}")
    if all(np.array_equal(got[key], wanted[key]) for key in wanted):
        return "bit-equal"
    return f"largest difference {max(float(np.abs(got[key] - wanted[key]).max()) for key in wanted):.1e}"


def trained(bench: Bench, name: str, commands: Any, **run: Any) -> Path:
    """The run directory of an undisturbed run; made once."""
    config, out = bench.config(name, **run)
    if not (out / "finished.json").exists():
        bench.finish(bench.start(commands(bench, ["train", str(config)]), name), name)
    return out


def on_one_host(bench: Bench, words: Sequence[str]) -> Any:
    """Two processes on the first host."""
    return torchrun(bench, words, both=False)


def killed(bench: Bench, name: str, again: Any, unplugged: bool = False, **run: Any) -> tuple[Path, str]:
    """Train on both hosts, kill the second after a checkpoint, resume; the run directory, and what the first said."""
    config, out = bench.config(name, **run)
    words = ["train", str(config)]
    both = bench.start(torchrun(bench, words), name)
    bench.until(lambda: bool(list(out.glob("checkpoints/checkpoint-*/complete.json"))), both, name)
    started = time.monotonic()
    if unplugged:
        bench.hosts[1].unplug()
    bench.hosts[1].kill()
    code = both[0].wait(_LONGEST_S)
    took = time.monotonic() - started
    if code == 0 or (out / "finished.json").exists():
        raise RuntimeError(f"{name}: finished without the second host")
    steps = sorted(out.glob("checkpoints/checkpoint-*"))
    bench.finish(bench.start(again(bench, words), f"{name}-again"), f"{name}-again")
    return out, f"the other ended after {took:.0f} s; resumed from {steps[-1].name}"


# ---- cases: (what, expected of the result, result) ----
def case_torchrun(bench: Bench) -> list[tuple[str, str, str]]:
    """torchrun, c10d rendezvous, two hosts against two processes on one."""
    reference = trained(bench, "one-host", on_one_host)
    return [
        ("torchrun, c10d, 2 hosts", "bit-equal", difference(trained(bench, "torchrun", torchrun), reference))
    ]


def case_killed(bench: Bench) -> list[tuple[str, str, str]]:
    """A host killed in the middle, resumed on two and on one."""
    reference, rows = trained(bench, "one-host", on_one_host), []
    for what, again in (("two hosts", torchrun), ("one host", on_one_host)):
        out, note = killed(bench, f"killed-{what.replace(' ', '-')}", again)
        rows.append((f"host killed, resumed on {what} ({note})", "bit-equal", difference(out, reference)))
    return rows


def case_deepspeed(bench: Bench) -> list[tuple[str, str, str]]:
    """DeepSpeed with a hostfile."""
    options = {"deepspeed": "configs/deepspeed/zero2.json"}
    reference = trained(bench, "one-host", on_one_host)
    out = trained(bench, "deepspeed", deepspeed, **options)
    return [("deepspeed, hostfile, ZeRO-2, 2 hosts, against DDP", "up to 1e-4", difference(out, reference))]


def case_slurm(bench: Bench) -> list[tuple[str, str, str]]:
    """Slurm's variables, without another launcher."""
    reference = trained(bench, "one-host", on_one_host)
    return [
        ("variables of srun, 2 hosts", "bit-equal", difference(trained(bench, "slurm", slurm), reference))
    ]


def case_fsdp(bench: Bench) -> list[tuple[str, str, str]]:
    """FSDP2 on two hosts, and a host killed."""
    reference = trained(bench, "one-host", on_one_host)
    whole = trained(bench, "fsdp", torchrun, fsdp={})
    out, note = killed(bench, "fsdp-killed", on_one_host, fsdp={})
    return [
        ("torchrun, FSDP2, 2 hosts, against DDP", "up to 1e-4", difference(whole, reference)),
        (f"FSDP2, host killed, resumed on one host ({note})", "bit-equal", difference(out, whole)),
    ]


def case_unplugged(bench: Bench) -> list[tuple[str, str, str]]:
    """A host that is gone without a word; last, as the cable stays unplugged."""
    reference = trained(bench, "one-host", on_one_host)
    out, note = killed(bench, "unplugged", on_one_host, unplugged=True, trainer={"ddp_timeout": 30})
    return [
        (f"cable pulled, host killed, resumed on one host ({note})", "bit-equal", difference(out, reference))
    ]


def case_eval(bench: Bench) -> list[tuple[str, str, str]]:
    """`alm eval` by torchrun on both hosts, killed and started again; and a second one in the same folder."""
    common = [
        "eval",
        "manifest",
        "--model",
        str(bench.parts["aligned"]),
        "--data",
        str(bench.folder / "many.jsonl"),
    ]
    rows = [
        {"id": f"q{i}", "audio": f"data/audio/{i % 7}.wav", "question": f"what is {i}", "answer": "a bell"}
        for i in range(400)
    ]
    (bench.folder / "many.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outs = {name: bench.folder / "eval" / name for name in ("one", "two")}
    one = [*common, "--out", str(outs["one"])]
    bench.finish(bench.start([(0, ["-m", "alm", *one], {})], "eval-one"), "eval-one")
    two = [*common, "--out", str(outs["two"])]
    both = bench.start(torchrun(bench, two), "eval-two")
    bench.until(lambda: _answers(outs["two"]) > 30, both, "eval-two")
    bench.hosts[1].kill()
    both[0].wait(_LONGEST_S)
    kept = _answers(outs["two"])
    again = bench.start(torchrun(bench, two), "eval-again")
    bench.finish(again, "eval-again")
    lines = [sorted((out / "predictions.jsonl").read_text().splitlines()) for out in outs.values()]
    scores = [(out / "scores.json").read_text() for out in outs.values()]
    same = "equal" if lines[0] == lines[1] and scores[0] == scores[1] else "different"
    return [(f"alm eval, 2 hosts, one killed with {kept} of {len(lines[0])} answers there", "equal", same)]


def _answers(out: Path) -> int:
    return sum(file.read_bytes().count(b"\n") for file in out.glob("predictions*.jsonl"))


def case_ablate(bench: Bench) -> list[tuple[str, str, str]]:
    """Two `alm ablate` on one folder, one host killed; every step is run once but those that died."""
    optim = {"steps": 2, "batch_size": 4, "lr": 1e-3, "warmup_steps": 0}
    data = str(bench.folder / "data" / "train.jsonl")
    arms = {f"{name}-{stack}": {"align": {"encoder": name, "projector_options": {"stack": stack}}}
            for name in ("logmel", "random") for stack in (1, 2)}  # fmt: skip
    test = bench.folder / "test.jsonl"
    asked = (
        [json.loads(line) for line in (bench.folder / "many.jsonl").read_text().splitlines()[:7]]
        if (bench.folder / "many.jsonl").exists()
        else [
            {"id": f"q{i}", "audio": f"data/audio/{i}.wav", "question": "what", "answer": "a bell"}
            for i in range(7)
        ]
    )
    test.write_text("".join(json.dumps(row) + "\n" for row in asked))
    config = {
        "baseline": "logmel-1",
        "inputs": {"train": [data], "validation": [data], "test": str(test), "llm": str(bench.parts["llm"])},
        "stages": {"align": {"projector": "mlp", "optim": optim, "run": {"log_every": 1}}},
        "axes": {"encoder": arms},
        "seeds": [0],
        "jobs": 1,
        "scoring": {"options": {"max_new_tokens": 3}, "controls": ["no_audio"]},
    }
    reports = {}
    for name in ("alone", "shared"):
        out = bench.folder / "ablations" / name
        file = bench.folder / f"ablation-{name}.yaml"
        file.write_text(yaml.safe_dump({**config, "out": str(out)}))
        words = ["-m", "alm", "ablate", str(file)]
        hosts = (0, 1) if name == "shared" else (0,)
        running = bench.start([(host, words, {}) for host in hosts], f"ablate-{name}")
        if name == "shared":
            bench.until(
                lambda: "done" in (bench.folder / "ablate-shared-1.log").read_text(), running, "ablate-shared"
            )
            bench.hosts[1].kill()
        bench.finish(running[:1], f"ablate-{name}")
        reports[name] = _scores(out / "report" / "runs.csv")
    done = Counter(re.findall(r"\] (.*): done, ", bench.said("ablate-shared")))
    alone = Counter(re.findall(r"\] (.*): done, ", bench.said("ablate-alone")))
    by_b = len(re.findall(r": done, ", (bench.folder / "ablate-shared-1.log").read_text()))
    once = done == alone and reports["alone"] == reports["shared"]
    what = f"alm ablate on 2 hosts, one killed: {sum(done.values())} steps, {by_b} of them on the killed host"
    return [
        (
            what,
            "each once, equal scores",
            "each once, equal scores" if once else f"{done - alone} {alone - done}",
        )
    ]


def _scores(file: Path) -> list[list[str]]:
    """The columns of a report that hold no times."""
    rows = [line.split(",") for line in file.read_text().splitlines()]
    kept = [at for at, name in enumerate(rows[0]) if not re.search(r"second|time|_s$|hour|rate", name)]
    return [[row[at] for at in kept] for row in rows]


CASES: dict[str, Callable[[Bench], list[tuple[str, str, str]]]] = {
    "torchrun": case_torchrun,
    "killed": case_killed,
    "deepspeed": case_deepspeed,
    "slurm": case_slurm,
    "fsdp": case_fsdp,
    "eval": case_eval,
    "ablate": case_ablate,
    "unplugged": case_unplugged,
}


def main() -> int:
    """Run the cases and print their table; 1 where a result is not what is expected."""
    from hosts import missing, two_hosts
    from survival import make_data, make_parts

    from benchmarks.zero_matrix import tiny_llm

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="run these alone")
    parser.add_argument(
        "--folder", type=Path, help="keep everything there; default: a temporary one, removed"
    )
    options = parser.parse_args()
    if (why := missing()) is not None:
        print(f"not run: {why}")
        return 2
    folder = options.folder or Path(tempfile.mkdtemp(prefix="two-hosts-"))
    folder = folder.resolve()
    data = folder / "data"
    if not data.exists():
        data.mkdir(parents=True)
        make_data(data)
        make_parts(folder, data, tiny_llm(folder / "llm"))
    parts = {"encoder": folder / "encoder", "llm": folder / "llm", "aligned": folder / "aligned" / "model"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the hosts are removed
    failed = 0
    print("| what | expected | result |\n|---|---|---|", flush=True)
    for name in options.only:
        with two_hosts(folder) as hosts:
            rows = CASES[name](Bench(hosts, folder, parts))
        for what, expected, result in rows:
            print(f"| {what} | {expected} | {result} |", flush=True)
            small = re.search(r"difference (\S+)", result)
            failed += result not in (expected, "bit-equal") and not (
                expected == "up to 1e-4" and small and float(small[1]) <= 1e-4
            )
    if options.folder is None:
        shutil.rmtree(folder)
    return int(failed > 0)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    raise SystemExit(main())
