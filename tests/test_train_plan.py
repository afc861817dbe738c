"""Dry runs and the list of runs."""

import dataclasses
import json

import pytest
from survival import of_stage

from alm.cli import main
from alm.common.errors import UserError
from train.pipeline.run_listing import compare_runs, find_runs, read_run, runs_table
from train.pipeline.runner import run_stage
from train.settings.optim import OptimSettings
from train.stage import STAGES


@pytest.mark.parametrize("stage", ["pretrain", "align", "instruct"])
def test_a_dry_run_counts_and_writes_nothing(stage, data, parts, tmp_path):
    run = of_stage(stage, data, tmp_path / "run", parts)
    if stage == "pretrain":
        views = dataclasses.replace(run.contrastive.views, background_p=0.5)
        run = dataclasses.replace(run, contrastive=dataclasses.replace(run.contrastive, views=views))
    found = STAGES.get(stage).dry_run(run)
    assert not (tmp_path / "run").exists()
    assert found.samples == 7 and found.global_batch == 4 and found.steps == 7
    assert 0 < found.trainable < found.parameters or stage == "pretrain"
    assert found.state_bytes == 4 * found.parameters + 12 * found.trainable
    # a multiply-add is two operations; forward and backward of what trains are at least three passes over a token
    assert found.flops > 14 * 6 * found.trainable and 0 < found.seconds < 600
    assert (found.tokens is None) == (stage == "pretrain")
    assert "trainable parameters" in str(found) and "(4.00 epochs)" in str(found)


def test_accumulated_batches_cost_as_much_as_steps(data, parts, tmp_path):
    """Twice the batches in a step: twice the work and the tokens for the same number of steps."""
    once, twice = (
        STAGES.get("align").dry_run(
            of_stage("align", data, tmp_path / "run", parts, optim={"accumulation": n})
        )
        for n in (1, 2)
    )
    assert (once.steps, once.global_batch) == (7, 2) and (twice.steps, twice.global_batch) == (7, 4)
    assert twice.flops == 2 * once.flops and abs(twice.tokens - 2 * once.tokens) <= 1


def test_a_dry_run_counts_what_all_processes_do(data, parts, tmp_path, monkeypatch):
    """As many steps of two processes: twice the samples, tokens and FLOPs. The clips are encoded by both where they
    share a folder of features, else by each."""
    import train.engine.estimate as loop
    import train.tune.estimate as estimate

    def cost(world, ticks, **values):
        for module in (loop, estimate):
            monkeypatch.setattr(module, "world_size", lambda: world)
        monkeypatch.setattr(estimate.time, "perf_counter", lambda: float(next(ticks)))
        return STAGES.get("align").dry_run(
            of_stage("align", data, tmp_path / "run", parts, data={"cache_features": True, **values})
        )

    once, twice = (cost(world, iter(range(10**6))) for world in (1, 2))
    assert (once.steps, twice.steps) == (7, 7)
    assert twice.flops == 2 * once.flops and twice.global_batch == 2 * once.global_batch == 8
    assert abs(twice.tokens - 2 * once.tokens) <= 1
    assert twice.other_s["encoding clips"] == once.other_s["encoding clips"] > 0
    shared = cost(2, iter(range(10**6)), feature_folder=str(tmp_path / "features"))
    assert 2 * shared.other_s["encoding clips"] == once.other_s["encoding clips"]


def test_a_dry_run_drops_the_last_batch_where_the_run_does(data, parts, tmp_path):
    """Seven clips in batches of two: pretraining makes three steps of an epoch, alignment four."""
    optim = OptimSettings(epochs=1.0, batch_size=2, warmup_steps=1)
    runs = {
        stage: dataclasses.replace(of_stage(stage, data, tmp_path / stage, parts), optim=optim)
        for stage in ("pretrain", "align")
    }
    steps = {stage: STAGES.get(stage).dry_run(run).steps for stage, run in runs.items()}
    assert steps == {"pretrain": 3, "align": 4}
    run_stage(runs["pretrain"])
    assert read_run(tmp_path / "pretrain").step == 3


def test_a_dry_run_counts_encodings_validation_and_start_up(data, parts, tmp_path, monkeypatch):
    """Clips are encoded once, and only those that the folder lacks; validation runs count as often as they happen."""
    import train.tune.estimate as estimate
    from train.tune.conversations import ClipFeatures

    encoded, ticks = [], iter(range(100_000))
    own = ClipFeatures._encode
    monkeypatch.setattr(ClipFeatures, "_encode", lambda self, refs: encoded.extend(refs) or own(self, refs))
    monkeypatch.setattr(
        estimate.time, "perf_counter", lambda: float(next(ticks))
    )  # a second between two looks
    validation = {"cache_features": True, "feature_folder": str(tmp_path / "features")}
    validation |= {"validation": [str(data / "train.jsonl")]}

    def cost(**run):
        return STAGES.get("align").dry_run(
            of_stage("align", data, tmp_path / "run", parts, data=validation, run=run)
        )

    found = cost()
    # Each step's micro-batches hold 2 of the 7 clips, and the validation batch 2: no clip is encoded twice.
    assert 2 <= len(encoded) == len(set(encoded)) <= 6
    assert found.other_s["start up"] == 1.0
    per_clip = found.other_s["encoding clips"] / 7
    assert per_clip in (0.5, 1.0)  # two or one clips in the fastest batch
    assert (
        found.other_s["validation"] == 2 * 7 / 2
    )  # two passes over 7 samples, in batches of 2 that take a second
    steps_s = found.seconds - sum(found.other_s.values())
    assert steps_s == pytest.approx(14 * (1 + 1))  # of a second each, and another to load its batch
    assert cost(eval_every=3).other_s["validation"] == (2 + 7 // 3) * 7 / 2
    assert f"7 steps of {steps_s / 7:.3g} s, start up 0 min 01 s, encoding clips 0 min" in str(found)
    run_stage(of_stage("align", data, tmp_path / "run", parts, data=validation, optim={"steps": 1}))
    assert "encoding clips" not in cost().other_s


def test_runs_are_listed_and_compared(data, parts, tmp_path, capsys):
    for name, lr in (("a", 1e-3), ("b", 2e-3)):
        run_stage(
            of_stage(
                "align", data, tmp_path / name, parts, optim={"steps": 2, "lr": lr}, run={"log_every": 1}
            )
        )
    (tmp_path / "b" / "finished.json").unlink()
    with (tmp_path / "b" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3, "lo')
    first, second = find_runs([tmp_path])
    assert (first.state, second.state) == ("finished", "unfinished, saved at 2")
    lines = [json.loads(line) for line in (tmp_path / "a" / "metrics.jsonl").read_text().splitlines()]
    assert first.metrics["loss"] == [line["loss"] for line in lines if "loss" in line][-1]
    assert "align" in runs_table([first, second]) and "2/2" in runs_table([first, second])
    compared = compare_runs([first, second])
    assert "optim.lr" in compared and "0.002" in compared and "optim.steps" not in compared
    assert main(["runs", str(tmp_path)]) == 0
    assert main(["runs", "--compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    assert "optim.lr" in capsys.readouterr().out
    with pytest.raises(UserError, match="holds no run"):
        read_run(tmp_path)


def test_the_list_of_runs_says_how_far_a_run_came_and_whether_its_result_is_whole(tmp_path):
    (tmp_path / "config.yaml").write_text("stage: align\nout: x\noptim: {steps: 30}\n")
    (tmp_path / "attempt.json").write_text("{}")
    assert read_run(tmp_path).state == "unfinished"
    for step in (2, 10, 9):
        (tmp_path / "checkpoints" / f"checkpoint-{step}").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text('{"step": 9, "loss": 3.0}\n{"step": 12, "loss": 2.0}\n')
    run = read_run(tmp_path)
    assert (run.state, run.step, run.metrics["loss"]) == ("unfinished, saved at 10", 12, 2.0)
    assert "12/30" in runs_table([run])
    (tmp_path / "model").write_text("weights")
    (tmp_path / "finished.json").write_text('{"files": {"model": {"bytes": 7}}, "records": 5}')
    run = read_run(tmp_path)
    assert run.state == "finished" and run.metrics["final_records"] == 5
    (tmp_path / "model").write_text("weigh")
    run = read_run(tmp_path)
    assert run.state == "damaged: model has 5 of 7 bytes" and "final_records" not in run.metrics
