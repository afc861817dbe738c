"""Two processes under DeepSpeed or DDP give what one gives with the same global batch, and fail together."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from survival import (
    FORK,
    N_CLIPS,
    be_rank,
    exit_codes,
    free_port,
    make_data,
    make_parts,
    of_stage,
    run_child,
    run_processes,
    weights_of,
)
from test_alm_processes import OURS, working_directory_of_a_user

import alm
from alm.common.errors import ConfigError
from alm.common.settings import dump_settings
from benchmarks.faults import alive
from train.data.order import epoch_order
from train.data.protocols import TrainingDataset
from train.data.sampling import EpochBatches
from train.pipeline.runner import run_stage
from train.processes import barrier
from train.settings import TrainSettings
from train.stage import STAGES

DEEPSPEED = Path(__file__).resolve().parents[1] / "configs" / "deepspeed"


class Numbers(TrainingDataset):
    """A dataset of which only the length is known."""

    def __init__(self, n):
        self.n = n

    def __len__(self):
        return self.n

    def name(self, index):
        return str(index)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def parts(data, llm_dir, tmp_path_factory) -> dict[str, Path]:
    return make_parts(tmp_path_factory.mktemp("parts"), data, llm_dir, drop_path_rate=0.0, attn_drop_rate=0.0)


def come_late(folder: Path, rank: int, port: int) -> None:
    """Rank 0 waits; rank 1 comes a while after it has begun to."""
    be_rank(rank, 2, port)
    waits, came = folder / "waits", folder / "came"
    barrier()  # the first one joins them, which takes its time
    if rank == 0:
        waits.touch()
    else:
        while not waits.exists():
            time.sleep(0.05)
        time.sleep(2.0)
        came.touch()
    barrier()
    os._exit(0 if came.exists() else 1)


def test_processes_wait_for_each_other_before_there_is_a_trainer(tmp_path):
    port = free_port()
    both = [FORK.Process(target=come_late, args=(tmp_path, rank, port)) for rank in range(2)]
    assert exit_codes(both) == [0, 0]


def never_come(settings: TrainSettings, rank: int, port: int) -> None:
    """Rank 1 joins and is not heard of again; what rank 0 waits for is in the config."""
    be_rank(rank, 2, port)
    STAGES.get(settings.stage).check(settings)
    barrier()
    if rank == 1:
        time.sleep(60)
    try:
        barrier()
    except RuntimeError:
        os._exit(7)
    os._exit(0)


def test_a_config_says_how_long_processes_wait(data, parts, tmp_path):
    """The Trainer's `ddp_timeout` counts although processes meet before there is a Trainer."""
    run = of_stage("align", data, tmp_path / "run", parts, run={"trainer": {"ddp_timeout": 2}})
    port = free_port()
    both = [FORK.Process(target=never_come, args=(run, rank, port)) for rank in range(2)]
    for process in both:
        process.start()
    try:
        both[0].join(50)
        assert both[0].exitcode == 7
    finally:
        for process in both:
            process.kill()
            process.join()


def runs(
    stage: str, data: Path, folder: Path, parts: dict, zero: int | str | None
) -> tuple[TrainSettings, ...]:
    """One process with batches of 4; two with batches of 2. No dropout: that differs between processes."""
    policy = {
        "llm": "lora",
        "encoder": "lora",
        "llm_lora": {"dropout": 0.0},
        "encoder_lora": {"dropout": 0.0},
    }
    values = {"policy": policy} if stage == "instruct" else {"policy": {}}
    if stage == "pretrain":
        from survival import TINY

        values = {"encoder_options": {**TINY, "drop_path_rate": 0.0}}
    sharded = {"deepspeed": str(DEEPSPEED / f"zero{zero}.json")} if zero else {}
    if zero == "fsdp":
        sharded = {"fsdp": {}}
    both = []
    for name, size in (("one", 4), ("two", 2)):
        optim = {"steps": 5, "batch_size": size, "accumulation": 1, "lr": 1e-3}
        run = {"log_every": 2, **(sharded if name == "two" else {})}
        both.append(of_stage(stage, data, folder / name, parts, optim=optim, run=run, **values))
    return tuple(both)


def metrics_of(run: TrainSettings) -> list[dict]:
    return [json.loads(line) for line in (Path(run.out) / "metrics.jsonl").read_text().splitlines()]


def assert_same_curve(run: TrainSettings, reference: TrainSettings, tolerance: float = 1e-4) -> None:
    for key in ("loss", "train_loss"):
        got, wanted = ([(m["step"], m[key]) for m in metrics_of(r) if key in m] for r in (run, reference))
        assert len(got) == len(wanted) > 0 and [s for s, _ in got] == [s for s, _ in wanted]
        assert [v for _, v in got] == pytest.approx([v for _, v in wanted], abs=tolerance), key


def assert_loads(run: TrainSettings, reference: TrainSettings) -> None:
    """The artifact loads strictly in one process and holds the same weights."""
    if run.stage != "pretrain":
        alm.load(Path(run.out) / "model", device="cpu")
    got, wanted = weights_of(run), weights_of(reference)
    assert got.keys() == wanted.keys()
    # Before a batch normalisation a bias has no gradient, and Adam makes whole steps of its rounding errors.
    idle = ("fc_norm.bias", "projector.0.bias", "projector.3.bias") if run.stage == "pretrain" else ()
    for key, value in wanted.items():
        if key in idle:
            continue
        off = (got[key] - value).float().abs()
        assert off.mean() < 2e-5 and off.max() <= 5 * 1e-3, key


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "zero"),
    [("pretrain", 2), ("align", 1), ("instruct", 3), ("instruct", None), ("instruct", "fsdp")],
)
def test_two_processes_equal_one_and_resume(stage, zero, data, parts, tmp_path):
    reference, run = runs(stage, data, tmp_path, parts, zero)
    assert run_child(reference) == 0
    assert run_processes(run, (("signal", 3), ("", 0))) == [75, 75]  # one is asked, both leave
    assert run_processes(run) == [0, 0]
    assert_same_curve(run, reference)
    assert_loads(run, reference)


@pytest.mark.slow
def test_fsdp_validates_keeps_the_best_and_clips_as_one_process_does(data, parts, tmp_path):
    """With a frozen encoder in every step, LoRA on the LLM, recomputed activations, and a limit for each component."""
    both = []
    for name, size, fsdp in (("one", 4, None), ("two", 2, {"reshard_after_forward": False})):
        both.append(
            of_stage(
                "align",
                data,
                tmp_path / name,
                parts,
                data={"cache_features": False, "validation": [str(data / "train.jsonl")]},
                policy={"llm": "lora", "llm_lora": {"dropout": 0.0}},
                optim={
                    "steps": 6, "batch_size": size, "accumulation": 1, "lr": 1e-3,
                    "components": {"llm_lora": {"max_grad_norm": 0.01, "lr": 1e-2}},
                },
                run={"log_every": 2, "eval_every": 2, "gradient_checkpointing": True, "fsdp": fsdp},
            )
        )  # fmt: skip
    reference, run = both
    assert run_child(reference) == 0
    assert run_processes(run) == [0, 0]
    assert_same_curve(run, reference)
    assert_loads(run, reference)
    facts = [json.loads((Path(one.out) / "finished.json").read_text()) for one in both]
    assert facts[0]["best_step"] == facts[1]["best_step"]
    for key in ("loss", "loss_other_audio"):
        assert facts[1][key] == pytest.approx(facts[0][key], abs=1e-4)
    assert [m["grad_norm"] for m in metrics_of(run) if "grad_norm" in m] == pytest.approx(
        [m["grad_norm"] for m in metrics_of(reference) if "grad_norm" in m], rel=1e-3
    )


def test_fsdp_is_refused_where_it_would_not_work(data, parts, tmp_path, monkeypatch):
    def refused(stage="align", more=None, **run):
        with pytest.raises(ConfigError) as caught:
            run_stage(of_stage(stage, data, tmp_path / "out", parts, run=run, **(more or {})))
        return str(caught.value)

    assert refused(fsdp={}).startswith(
        "run.fsdp: splits weights over processes, and there is one; start with torch"
    )
    assert refused("pretrain", fsdp={}) == "run.fsdp: is for stages align and instruct, not pretrain"
    assert refused(fsdp={}, deepspeed="configs/deepspeed/zero2.json").startswith("run.fsdp: DeepSpeed")
    assert refused(fsdp={"version": 1}) == "run.fsdp.version: only FSDP2 is supported; remove it"
    assert "reshard_after_forward" in refused(fsdp={"reshard": True})
    assert refused(fsdp={"reshard_after_forward": "often"}).startswith("run.fsdp: ")
    assert refused(trainer={"fsdp": True}) == "run.trainer.fsdp: is set by run.fsdp; use that"
    assert refused(fsdp={}, more={"llm_bits": 4}).startswith(
        "run.fsdp: the packed weights of a quantised LLM"
    )
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert refused().startswith("ACCELERATE_USE_FSDP: FSDP was chosen in the config of accelerate launch")


LAUNCHERS = {
    "torchrun": "--nproc-per-node 2 --master-port {port} -m alm",
    "deepspeed": "--num_gpus 2 --master_port {port} --module alm",
    # on CPUs it starts one process, whatever it is asked for
    "accelerate": "launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no -m alm",
}


def wait_until(condition: Callable[[], bool], seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"not within {seconds} s"
        time.sleep(0.1)


def launch(launcher: str, config: Path, **environment: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment with which the README starts a stage."""
    words = LAUNCHERS[launcher].format(port=free_port()).split()
    command = [str(Path(sys.executable).parent / launcher), *words, "train", str(config)]
    root = str(Path(alm.__file__).parents[1])
    environment = {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", **environment}
    return command, os.environ | environment


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_launchers_start_a_stage(launcher, data, parts, tmp_path):
    """The commands of the README, which add words of their own to the command line and the environment.

    Nothing is imported from the working directory, which holds a `train.py` and a `pickle.py` of the user's.
    """
    reference, run = runs("align", data, tmp_path, parts, 1)
    if launcher == "accelerate":
        run = dataclasses.replace(reference, out=str(tmp_path / "launched"))
    assert run_child(reference) == 0
    config = tmp_path / "two.yaml"
    config.write_text(dump_settings(run))
    here = working_directory_of_a_user(tmp_path / "here")
    command, environment = launch(
        launcher, config, **({"PYTHONSAFEPATH": "1"} if launcher == "deepspeed" else {})
    )
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert not (here / "IMPORTED").exists()
    assert_same_curve(run, reference)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["starting", "training"])
def test_a_killed_deepspeed_runner_takes_all_its_processes_with_it(moment, data, parts, tmp_path):
    """The runner starts a launcher, which starts the processes; killed, it cannot end them."""
    _, run = runs("align", data, tmp_path, parts, 1)
    run = dataclasses.replace(run, optim=dataclasses.replace(run.optim, steps=10**6))
    config = tmp_path / "two.yaml"
    config.write_text(dump_settings(run))
    here = working_directory_of_a_user(tmp_path / "here", OURS)
    command, environment = launch("deepspeed", config)
    with (tmp_path / "log.txt").open("wb") as log:
        runner = subprocess.Popen(
            command, env=environment, cwd=here, stdout=log, stderr=log, start_new_session=True
        )
    try:
        if moment == "training":
            wait_until(lambda: (Path(run.out) / "metrics.jsonl").exists(), 120)
            launcher, *workers = sorted(set(alive("", runner.pid)) - {runner.pid})
            assert len(workers) >= 2
        else:
            wait_until(lambda: len(alive("", runner.pid)) >= 2, 120)
        runner.kill()
        runner.wait()
        if moment == "training":
            wait_until(lambda: not set(alive("", runner.pid)) - {launcher}, 10)
        # The launcher ends after them; at the start it first imports what it needs to start them.
        wait_until(lambda: not alive("", runner.pid), 60)
    finally:
        for pid in alive("", runner.pid):
            os.kill(pid, signal.SIGKILL)
    said = (tmp_path / "log.txt").read_text()
    assert "the deepspeed runner " + ("has ended" if moment == "training" else "was killed") in said
    assert "Traceback" not in said and not (here / "IMPORTED").exists()
    if moment == "training":
        assert "saved step" in said and list((Path(run.out) / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 1])
def test_a_loss_that_is_no_number_on_one_process(zero, data, parts, tmp_path):
    """All processes stop, or all skip the step; each writes down its samples."""
    _, run = runs("align", data, tmp_path, parts, zero)
    assert run_processes(run, (("", 0), ("nan", 4))) == [2, 2]
    lines = [json.loads(line) for line in (Path(run.out) / "nonfinite.jsonl").read_text().splitlines()]
    assert [(line["step"], line["process"]) for line in lines] == [(3, 0), (3, 1)]
    assert lines[1]["loss"] == "nan" != lines[0]["loss"]
    batches = EpochBatches(
        Numbers(N_CLIPS), 2, run.run.seed, 1, 2
    )  # what a process that knows only numbers draws
    batches.set_epoch(1)
    assert lines[1]["ids"] == [f"r{index}" for index in batches.batch(1)]
    for rank in ("", "1"):
        assert "step 3: the loss is not a number" in (Path(run.out) / f"error{rank}.txt").read_text()
    out = str(tmp_path / "skips")
    skips = dataclasses.replace(run, out=out, run=dataclasses.replace(run.run, on_nan="skip"))
    assert run_processes(skips, (("", 0), ("nan", 4))) == [0, 0]
    assert all(value.isfinite().all() for value in weights_of(skips).values())
    assert metrics_of(skips)[-1]["step"] == 5


def test_every_world_draws_the_same_samples_in_the_same_order():
    for n, drop_last in ((7, False), (8, False), (9, True), (3, False)):
        for epoch in (0, 1):
            passes = {}
            for world, size in ((1, 4), (2, 2), (4, 1)):
                dealt = [EpochBatches(Numbers(n), size, 5, rank, world, drop_last) for rank in range(world)]
                for batches in dealt:
                    batches.set_epoch(epoch)
                assert len({len(list(batches)) for batches in dealt}) == 1
                passes[world] = [sum(parts, []) for parts in zip(*dealt, strict=True)]
            assert passes[1][: n // 4] == passes[2][: n // 4] == passes[4][: n // 4]
            seen = sum(passes[1], [])
            assert len(seen) == len(set(seen)) == (n // 4 * 4 if drop_last else n)
            assert drop_last or set(sum(passes[4], [])) == set(range(n))
            if n == 7:  # three samples on two processes: two and one
                assert passes[1] == passes[2]
    orders = {tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4
