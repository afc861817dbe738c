"""Runs that are killed, interrupted or out of disk space end with the same weights as an undisturbed run."""

import json
import random
import signal
from pathlib import Path

import numpy as np
import pytest
from survival import assert_bit_equal, of_stage, run_child, weights_of

from alm.common.errors import CheckpointError
from train.engine import checkpoints
from train.pipeline.runner import run_stage


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["pretrain", "align", "instruct"])
def test_kills_change_no_bit(stage, data, parts, tmp_path):
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
def test_signals_save_and_leave(count, data, parts, tmp_path):
    """SIGUSR1 and SIGTERM, also in the middle of a step and where checkpoints are off."""
    values = {"optim": {"steps": 4, "accumulation": 2}, "run": {"save_every": 0}}
    reference = of_stage("align", data, tmp_path / "whole", parts, **values)
    assert run_child(reference) == 0
    run = of_stage("align", data, tmp_path / "left", parts, **values)
    assert run_child(run, "signal", count) == 75
    assert [step for step, _ in checkpoints.found(Path(run.out) / "checkpoints")] == [2]
    assert not (Path(run.out) / "finished.json").exists()
    assert run_child(run) == 0
    assert_bit_equal(run, reference)


def test_a_damaged_checkpoint_falls_back(data, parts, tmp_path, capsys):
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
        assert "checkpoint-5 is damaged (optimizer.pt" in said and "resuming from checkpoint-4" in said
        assert all(np.array_equal(value, wanted[key]) for key, value in weights_of(run).items())
        assert checkpoints.damage(file.parent) is None  # written anew


def test_checkpoints_of_other_weights_are_refused(data, parts, tmp_path):
    run = of_stage("align", data, tmp_path / "run", parts, optim={"steps": 2})
    run_stage(run)
    newest = checkpoints.newest_complete(Path(run.out) / "checkpoints")[0]
    facts = json.loads((newest / "complete.json").read_text())
    facts["keys"] = facts["keys"][1:] + ["llm.other"]
    (newest / "complete.json").write_text(json.dumps(facts))
    (Path(run.out) / "finished.json").unlink()
    with pytest.raises(CheckpointError, match="other trainable weights .*llm.other"):
        run_stage(run)


def test_a_full_disk_leaves_the_last_checkpoint(data, parts, tmp_path):
    """Files may grow to 4 kB only once a run goes on: its next checkpoint does not fit."""
    reference = of_stage("align", data, tmp_path / "whole", parts, optim={"steps": 4})
    assert run_child(reference) == 0
    run = of_stage("align", data, tmp_path / "full", parts, optim={"steps": 4})
    assert run_child(run, "forward", 5) == -signal.SIGKILL
    folder = Path(run.out) / "checkpoints"
    before = (folder / "checkpoint-2" / "complete.json").read_bytes()
    assert run_child(run, limit=12_000) == 2
    said = (Path(run.out) / "error.txt").read_text()
    assert "the checkpoint of step 4 cannot be written" in said and "checkpoint-2 is complete" in said
    assert [path.name for path in folder.iterdir()] == ["checkpoint-2"]
    assert (folder / "checkpoint-2" / "complete.json").read_bytes() == before
    assert run_child(run) == 0
    assert_bit_equal(run, reference)


def test_the_best_weights_are_the_artifact_also_after_a_kill(data, parts, tmp_path):
    """A learning rate that soon does harm: the run ends early, with the weights of the best look."""
    values = {
        "data": {"cache_features": True, "validation": [str(data / "train.jsonl")]},
        "optim": {"steps": 40, "accumulation": 1, "lr": 0.5, "warmup_steps": 8},
        "run": {"save_every": 2, "eval_every": 1, "patience": 3},
    }
    reference = of_stage("align", data, tmp_path / "whole", parts, **values)
    # The reference is a child process as well, since sums depend on the number of threads.
    assert run_child(reference) == 0
    facts = json.loads((tmp_path / "whole" / "finished.json").read_text())
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    looks = {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}
    assert facts["best_step"] == min(looks, key=looks.get) == max(looks) - 3 and max(looks) < 40
    assert facts["loss"] == pytest.approx(looks[facts["best_step"]], abs=1e-5)
    run = of_stage("align", data, tmp_path / "killed", parts, **values)
    assert run_child(run, "forward", max(looks)) == -signal.SIGKILL
    assert run_child(run) == 0
    assert_bit_equal(run, reference)


@pytest.mark.parametrize(
    "text", ["{", "[]", "[" * 100_000, '{"files": []}', '{"files": {"a": 3}}', '{"files": {"a": {}}}']
)
def test_a_checkpoint_with_a_broken_list_of_files_is_damaged(text, tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "complete.json").write_text(text)
    newest, problems = checkpoints.newest_complete(tmp_path)
    assert newest is None and len(problems) == 1
    assert problems[0].startswith("checkpoint-1 is damaged (complete.json ")
