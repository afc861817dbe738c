"""Runs that are killed, asked to leave or short of disk end with the very weights of one that nothing happened to.

Children are forked off a server that has imported everything, and die of real signals.
"""

import json
import multiprocessing
import os
import random
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from alm.errors import Preempted, UserError
from alm.manifest import write_manifest
from alm.settings import parse_settings
from encoders import encoder_class
from encoders.audio import save_wav
from train import checkpoints
from train.settings import TrainSettings
from train.stages import run_stage

FORK = multiprocessing.get_context("forkserver")
PRELOAD = ["train.stages", "train.tuning", "train.pretraining", "peft", "deepspeed", "transformers.trainer"]
TINY = {
    "spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 2, "num_heads": 2,
    "project_embedding_dim": 16, "drop_path_rate": 0.2,
}  # fmt: skip
N_CLIPS = 7  # with batches of 2, two to a step: 4 passes, 2 steps to an epoch (the last pass holds one clip)


@pytest.fixture(scope="module", autouse=True)
def server():
    FORK.set_forkserver_preload(PRELOAD)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Seven tones with a caption or a question each."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "audio").mkdir()
    rows = []
    for i in range(N_CLIPS):
        wave = 0.4 * np.sin(2 * np.pi * 200 * 1.5**i * np.arange(11000) / 16000)
        save_wav(folder / "audio" / f"{i}.wav", wave.astype(np.float32), 16000)
        said = {"question": "what is this", "answer": f"tone {i}"} if i % 2 else {"captions": ["a", f"b {i}"]}
        rows.append({"id": f"r{i}", "audio": f"audio/{i}.wav", "clip": str(i), **said})
    write_manifest(folder / "train.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    encoder_class("audiomosaic").tiny().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def aligned(data, encoder_dir, llm_dir, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("aligned") / "run"
    return run_stage(
        settings("align", data, out, optim={"steps": 1}, encoder=str(encoder_dir), llm=str(llm_dir))
    )


def settings(stage: str, folder: Path, out: Path, **values) -> TrainSettings:
    base = {
        "stage": stage,
        "out": str(out),
        "data": {"train": [str(folder / "train.jsonl")]},
        "optim": {"steps": 7, "batch_size": 2, "accumulation": 2, "warmup_steps": 1, "lr": 3e-3},
        "run": {"save_every": 2, "log_every": 3, "seed": 5},
    }
    merged = {k: {**base.get(k, {}), **v} if isinstance(v, dict) else v for k, v in values.items()}
    return parse_settings(TrainSettings, {**base, **merged})


def of_stage(stage: str, data: Path, out: Path, parts: dict, **values) -> TrainSettings:
    """Each stage with everything random in it: augmentations and dropped paths, or dropout of both LoRAs."""
    if stage == "pretrain":
        own = {"encoder": "audiomosaic", "encoder_options": TINY}
    elif stage == "align":  # the cache of the frozen encoder's features is on
        own = {"encoder": str(parts["encoder"]), "llm": str(parts["llm"])}
        own |= {"data": {"cache_features": True}, "policy": {"llm": "lora", "llm_lora": {"dropout": 0.3}}}
    else:
        lora = {"dropout": 0.3}
        own = {"model": str(parts["aligned"])}
        own["policy"] = {"llm": "lora", "encoder": "lora", "llm_lora": lora, "encoder_lora": lora}
    return settings(stage, data, out, **{**own, **values})


def die_at(event: str, count: int) -> None:
    """Have this process killed when something happens for the n-th time."""
    import train.trainer as trainer

    seen = 0

    def killing(function):
        def call(*args, **kwargs):
            nonlocal seen
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    if event == "forward":
        trainer.StageTrainer.training_step = killing(trainer.StageTrainer.training_step)
    elif event == "optimiser file":  # weights are there, the optimiser is not
        trainer.torch.save = killing(trainer.torch.save)
    elif event == "flush":  # all files are there, not yet flushed, not yet renamed
        checkpoints._flush = killing(checkpoints._flush)
    elif event == "remove":  # the new one is there, an old one is renamed but not removed
        checkpoints.clear_unfinished = killing(checkpoints.clear_unfinished)


def child(run: TrainSettings, event: str, count: int, limit: int | None = None) -> None:
    import torch

    torch.set_num_threads(1)
    if event == "signal":
        signal_at(count)
    elif event:
        die_at(event, count)
    if limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        run_stage(run)
    except Preempted as error:
        os._exit(error.exit_code)
    except UserError as error:
        Path(run.out, "error.txt").write_text(str(error)) if limit is None or len(
            str(error)
        ) < limit else None
        os._exit(2)
    os._exit(0)


def signal_at(count: int) -> None:
    import train.trainer as trainer

    inner, seen = trainer.StageTrainer.training_step, 0

    def step(*args, **kwargs):
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), signal.SIGUSR1 if count % 2 else signal.SIGTERM)
        return inner(*args, **kwargs)

    trainer.StageTrainer.training_step = step


def run_child(run: TrainSettings, event: str = "", count: int = 0, limit: int | None = None) -> int:
    process = FORK.Process(target=child, args=(run, event, count, limit))
    process.start()
    process.join(120)
    assert process.exitcode is not None
    return process.exitcode


def weights_of(run: TrainSettings) -> dict:
    return load_file(
        Path(run.out) / ("encoder" if run.stage == "pretrain" else "model") / "model.safetensors"
    )


def assert_bit_equal(run: TrainSettings, reference: TrainSettings) -> None:
    got, wanted = weights_of(run), weights_of(reference)
    assert got.keys() == wanted.keys()
    different = [key for key in wanted if not np.array_equal(got[key].numpy(), wanted[key].numpy())]
    assert not different, f"{len(different)} of {len(wanted)} differ, for example {different[:3]}"

    def losses(of: TrainSettings) -> list:
        lines = [json.loads(line) for line in (Path(of.out) / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line["loss"]) for line in lines if "loss" in line]

    assert [step for step, _ in losses(run)] == [step for step, _ in losses(reference)]
    assert np.allclose([v for _, v in losses(run)], [v for _, v in losses(reference)], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "align", "instruct"])
def test_kills_change_no_bit(stage, data, encoder_dir, llm_dir, aligned, tmp_path):
    parts = {"encoder": encoder_dir, "llm": llm_dir, "aligned": aligned}
    reference = of_stage(stage, data, tmp_path / "whole", parts)
    assert run_child(reference) == 0
    run = of_stage(stage, data, tmp_path / "killed", parts)
    draws = random.Random(stage)
    kills = [("forward", draws.randint(5, 7)), ("optimiser file", 1), ("forward", draws.randint(2, 4))]
    kills += [("flush", draws.randint(1, 5)), ("remove", 3), ("forward", draws.randint(1, 3))]
    for event, count in kills:
        assert run_child(run, event, count) == -signal.SIGKILL, (event, count)
    assert run_child(run) == 0
    assert_bit_equal(run, reference)
    kept = [path.name for _, path in checkpoints.found(Path(run.out) / "checkpoints")]
    assert kept == ["checkpoint-6", "checkpoint-7"]


@pytest.mark.parametrize("count", [3, 4])
def test_signals_save_and_leave(count, data, encoder_dir, llm_dir, tmp_path):
    """SIGUSR1 and SIGTERM, also in the middle of a step and where checkpoints are off."""
    parts = {"encoder": encoder_dir, "llm": llm_dir}
    values = {"optim": {"steps": 4, "accumulation": 2}, "run": {"save_every": 0}}
    reference = of_stage("align", data, tmp_path / "whole", parts, **values)
    assert run_child(reference) == 0
    run = of_stage("align", data, tmp_path / "left", parts, **values)
    assert run_child(run, "signal", count) == 75
    assert [step for step, _ in checkpoints.found(Path(run.out) / "checkpoints")] == [2]
    assert not (Path(run.out) / "finished.json").exists()
    assert run_child(run) == 0
    assert_bit_equal(run, reference)


def test_a_damaged_checkpoint_falls_back(data, encoder_dir, llm_dir, tmp_path, capsys):
    parts = {"encoder": encoder_dir, "llm": llm_dir}
    values = {"optim": {"steps": 5}}
    run = of_stage("align", data, tmp_path / "run", parts, **values)
    run_stage(run)
    wanted = {key: value.clone() for key, value in weights_of(run).items()}
    folder = Path(run.out) / "checkpoints"
    assert [step for step, _ in checkpoints.found(folder)] == [4, 5]
    file = folder / "checkpoint-5" / "optimizer.pt"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-9] + b"x" + whole[-8:]):
        (Path(run.out) / "finished.json").unlink()
        file.write_bytes(damaged)
        capsys.readouterr()
        run_stage(run)
        said = capsys.readouterr().out
        assert "checkpoint-5 is damaged (optimizer.pt" in said and "going on from checkpoint-4" in said
        assert all(np.array_equal(value, wanted[key]) for key, value in weights_of(run).items())
        assert checkpoints.damage(file.parent) is None  # written anew


def test_checkpoints_of_other_weights_are_refused(data, encoder_dir, llm_dir, tmp_path):
    from alm.errors import CheckpointError

    run = of_stage(
        "align", data, tmp_path / "run", {"encoder": encoder_dir, "llm": llm_dir}, optim={"steps": 2}
    )
    run_stage(run)
    newest = checkpoints.newest_whole(Path(run.out) / "checkpoints")[0]
    facts = json.loads((newest / "complete.json").read_text())
    facts["keys"] = facts["keys"][1:] + ["llm.other"]
    (newest / "complete.json").write_text(json.dumps(facts))
    (Path(run.out) / "finished.json").unlink()
    with pytest.raises(CheckpointError, match="other weights trained .*llm.other"):
        run_stage(run)


def test_a_full_disk_leaves_the_last_checkpoint(data, encoder_dir, llm_dir, tmp_path):
    """Files may grow to 4 kB only once a run goes on: its next checkpoint does not fit."""
    parts = {"encoder": encoder_dir, "llm": llm_dir}
    reference = of_stage("align", data, tmp_path / "whole", parts, optim={"steps": 4})
    assert run_child(reference) == 0
    run = of_stage("align", data, tmp_path / "full", parts, optim={"steps": 4})
    assert run_child(run, "forward", 5) == -signal.SIGKILL
    folder = Path(run.out) / "checkpoints"
    before = (folder / "checkpoint-2" / "complete.json").read_bytes()
    assert run_child(run, limit=12_000) == 2
    said = (Path(run.out) / "error.txt").read_text()
    assert "the checkpoint of step 4 cannot be written" in said and "checkpoint-2 is whole" in said
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    assert (folder / "checkpoint-2" / "complete.json").read_bytes() == before
    assert run_child(run) == 0
    assert_bit_equal(run, reference)
