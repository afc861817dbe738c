"""Every stage under every ZeRO stage and launcher, two CPU processes against one: losses, artifact, resume.

Run by hand (a quarter of an hour on two cores): python benchmarks/zero_matrix.py. The suite runs a part of it
(tests/test_train_processes.py); this one starts the launchers themselves.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

LAUNCHERS = {
    "torchrun": ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611", "-m"],
    "deepspeed": ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", "29612", "--module"],
}
CASES = [(stage, zero) for stage in ("align", "instruct") for zero in (1, 2, 3)]
CASES += [("pretrain", 1), ("pretrain", 2)]


def main() -> int:
    from survival import make_data, make_parts

    parser = argparse.ArgumentParser(description=__doc__)
    stages = list(dict.fromkeys(stage for stage, _ in CASES))
    parser.add_argument("--stages", nargs="+", choices=stages, default=stages, help="only these")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="zero-matrix-"))
    data = folder / "data"
    data.mkdir()
    make_data(data)
    # without dropout, whose random numbers differ between one process and two
    parts = make_parts(folder, data, tiny_llm(folder / "llm"), drop_path_rate=0.0, attn_drop_rate=0.0)
    failed = 0
    for stage, zero in ((stage, zero) for stage, zero in CASES if stage in options.stages):
        for launcher in LAUNCHERS:
            worst = _case(stage, zero, launcher, folder / f"{stage}-{zero}-{launcher}", data, parts)
            failed += worst > 1e-4
            print(
                f"{stage:<9} ZeRO-{zero} {launcher:<10} largest difference of a loss {worst:.1e}", flush=True
            )
    return int(failed > 0)


def _case(stage: str, zero: int, launcher: str, folder: Path, data: Path, parts: dict[str, Path]) -> float:
    """The largest difference between a loss of two processes, resumed once, and of one."""
    from test_train_processes import assert_loads, runs

    from alm.common.settings import dump_settings

    one, two = runs(stage, data, folder, parts, zero)
    folder.mkdir()
    for name, run in (("one", one), ("two", two)):
        (folder / f"{name}.yaml").write_text(dump_settings(run))
    halfway = yaml.safe_load((folder / "two.yaml").read_text())
    command = ["alm", "train", str(folder / "one.yaml")]
    _call([sys.executable, "-m", *command])
    launch = [sys.executable, *LAUNCHERS[launcher], "alm", "train", str(folder / "two.yaml")]
    _call(launch)
    # as after a kill between the fourth step and the fifth
    import shutil

    (Path(halfway["out"]) / "finished.json").unlink()
    shutil.rmtree(Path(halfway["out"]) / "checkpoints" / "checkpoint-5")
    _call(launch)
    assert_loads(two, one)
    got, wanted = (_losses(Path(run.out)) for run in (two, one))
    assert [step for step, _ in got] == [step for step, _ in wanted]
    return max(abs(a - b) for (_, a), (_, b) in zip(got, wanted, strict=True))


def _losses(folder: Path) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line[key]) for line in lines for key in ("loss", "train_loss") if key in line]


def _call(command: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(command)} left with {done.returncode}:\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )


def tiny_llm(folder: Path) -> Path:
    """The tests' tiny LLM."""
    from conftest import llm_dir

    class Factory:
        def mktemp(self, name: str) -> Path:
            folder.mkdir()
            return folder

    return llm_dir.__wrapped__(Factory())  # type: ignore[attr-defined]


if __name__ == "__main__":
    raise SystemExit(main())
