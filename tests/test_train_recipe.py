"""Recipes: everything shipped loads; a chain runs, skips what is finished, and repeats what changed."""

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from survival import FORK, die_at

from alm.cli import main
from alm.common.errors import ConfigError
from eval.scoring.predictions import read_predictions
from train.pipeline.recipe import load_recipe, run_recipe
from train.pipeline.recipe_plan import plan_recipe
from train.pipeline.recipe_report import write_recipe_report

RECIPES = sorted((Path(__file__).resolve().parents[1] / "configs" / "recipes").glob("*.yaml"))
ENCODER = {"spec_size": [64, 32], "embed_dim": 24, "depth": 1, "num_heads": 2, "project_embedding_dim": 16}


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_and_says_where_it_comes_from(path):
    recipe = load_recipe(path)
    assert recipe.stages
    head = path.read_text().split("\nout:")[0]
    assert all(word in head for word in ("Data:", "Hardware:", "Numbers:"))


def test_the_report_of_a_recipe_is_a_row_per_stage(tmp_path):
    arms = {
        "none": {"scores": {"qa/overall": {"value": 0.5}, "answer/wer": {"value": 0.25}}},
        "other_clip": {"scores": {"qa/overall": {"value": 0.125}}},
    }
    results = [
        {
            "name": "a",
            "stage": "align",
            "facts": {"loss": 1.25, "seconds": 61.4, "trainable": ["projector: 7"]},
        },
        {"name": "b", "stage": "instruct", "facts": {"loss": 1.0}, "scores": {"arms": arms}},
    ]
    table = write_recipe_report(tmp_path, results)
    title, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    first, second = (dict(zip(title, row, strict=True)) for row in rows)
    assert first["stage"] == "a (align)" and first["time"] == "61 s" and second["time"] == ""
    assert second["qa/overall (own audio / other clip)"] == "0.500 / 0.125"
    assert second["answer/wer (own audio / other clip)"] == "0.250"
    text = (tmp_path / "report.md").read_text()
    assert table in text and "## a\n\n```\nprojector: 7\n```\n" in text and "## b" not in text
    assert json.loads((tmp_path / "report.json").read_text()) == {"stages": results}


def test_the_ltu_recipes_have_the_same_four_stages():
    full, tiny = (load_recipe(path) for path in RECIPES if path.stem in ("audiomosaic-ltu", "ltu-tiny"))
    for stage, small in zip(full.stages, tiny.stages[-4:], strict=True):
        own, other = full.settings(stage), tiny.settings(small)
        assert (own.policy, own.projector, own.optim.lr) == (other.policy, other.projector, other.optim.lr)
        assert own.data.supervise == other.data.supervise == "all"


def recipe(folder, **changes):
    data = {"train": ["stage:scenes/train.jsonl"], "validation": ["stage:scenes/validation.jsonl"]}
    optim = {"steps": 2, "batch_size": 4, "warmup_steps": 0}
    stages = [
        {"name": "scenes", "stage": "compose", "n_train": 6, "n_validation": 3, "n_test": 3, "scene_s": 1.5},
        {"name": "llm", "stage": "text_llm", "model": {"steps": 2, "n_layers": 1, "n_test_scenes": 2}},
        {"name": "some", "stage": "select", "data": "stage:scenes/train.jsonl", "kinds": ["caption", "what"]},
        {
            "name": "first", "stage": "align", "encoder": "audiomosaic", "encoder_options": ENCODER,
            "llm": "stage:llm", "data": {**data, "train": ["stage:some/train.jsonl"]},
        },
        {
            "name": "second", "stage": "instruct", "model": "stage:first", "data": data,
            "policy": {"llm": "lora"},
            "evaluate": {"data": "stage:scenes/test.jsonl", "limit": 12, "max_new_tokens": 2},
        },
    ]  # fmt: skip
    for stage in stages:
        stage.update(changes.get(stage["name"], {}))
    path = folder / "recipe.yaml"
    defaults = {"optim": optim, "run": {"save_every": 1}}
    path.write_text(yaml.safe_dump({"out": str(folder / "out"), "defaults": defaults, "stages": stages}))
    return path


def test_a_chain_runs_is_skipped_when_finished_and_repeated_from_what_changed(tmp_path, capsys):
    assert main(["train", str(recipe(tmp_path))]) == 0
    assert "already done" not in capsys.readouterr().out
    out = tmp_path / "out"
    report = json.loads((out / "report.json").read_text())["stages"]
    assert [item["name"] for item in report] == ["scenes", "llm", "some", "first", "second"]
    assert report[-1]["scores"] and {"loss", "loss_other_audio"} <= set(report[-1]["facts"])
    markdown = (out / "report.md").read_text()
    assert "second (instruct)" in markdown and "held-out loss" in markdown
    kinds = {json.loads(line).get("kind", "caption") for line in (out / "some/data/train.jsonl").open()}
    assert kinds <= {"caption", "what"}

    assert main(["train", str(recipe(tmp_path))]) == 0
    assert capsys.readouterr().out.count("already done") == 5
    assert main(["train", str(recipe(tmp_path)), "first.optim.lr=0.01"]) == 0
    said = capsys.readouterr().out
    assert [name for name in ("scenes", "llm", "some", "first", "second") if f"{name}: already done" in said] == [
        "scenes", "llm", "some",
    ]  # fmt: skip
    lines = read_predictions(out / "second-scores" / "predictions.jsonl")
    asked = {(line["id"], line["control"]) for line in lines}
    assert (
        len({line["model"] for line in lines}) == 2
    )  # no answer of the model before is taken for the new one's
    assert len(lines) == 2 * len(asked)


def test_what_is_wrong_with_any_stage_is_said_before_the_first_runs(tmp_path):
    for name, change, said in (
        ("second", {"model": "stage:frist"}, "refers to 'frist', which is not an earlier stage"),
        ("first", {"llm": "stage:second"}, "refers to 'second', which is not an earlier stage"),
        ("second", {"optim": {"step": 1}}, "unknown key 'optim.step'; did you mean 'optim.steps'"),
        (
            "second",
            {"stage": "instruckt"},
            "expected one of align, compose, finetune, instruct",
        ),
        ("second", {"out": "x"}, "out is the recipe's"),
        ("scenes", {"n_trian": 1}, "did you mean 'n_train'"),
        ("second", {"evaluate": {"data": "x", "limits": 1}}, "did you mean 'limit'"),
        ("first", {"projector": "mpl"}, "mpl"),
        ("second", {"name": "first"}, "'first' is used twice"),
    ):
        with pytest.raises(Exception, match=said) as caught:
            load_recipe(recipe(tmp_path, **{name: change}))
        assert isinstance(caught.value, ConfigError) or "projector" in type(caught.value).__module__
        assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="unknown key 'sceond'"):
        load_recipe(recipe(tmp_path), ["sceond.optim.lr=1"])


def child(path, event="", count=0):
    """Run a recipe; end the process at the given point."""
    import torch

    torch.set_num_threads(1)
    if event:
        die_at(event, count)
    run_recipe(load_recipe(path))
    os._exit(0)


def exit_code(path, *arguments):
    process = FORK.Process(target=child, args=(path, *arguments))
    process.start()
    process.join(900)
    return process.exitcode


@pytest.mark.slow
def test_kills_in_the_middle_of_a_chain_change_no_bit(tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, killed = recipe(tmp_path / "whole"), recipe(tmp_path / "killed")
    assert exit_code(whole) == 0
    out = tmp_path / "killed" / "out"
    # in the stage after the small LLM's two steps, after its first step
    assert exit_code(killed, "forward", 4) == -signal.SIGKILL
    assert (out / "first" / "checkpoints" / "checkpoint-1").is_dir()
    stamps = [(out / name / "finished.json").stat().st_mtime_ns for name in ("scenes", "llm", "some")]
    assert "resumes from step 1" in plan_recipe(load_recipe(killed))
    # one step of the first, then in the second's second
    assert exit_code(killed, "forward", 3) == -signal.SIGKILL
    assert (out / "first" / "finished.json").is_file() and not (out / "second" / "finished.json").exists()
    assert exit_code(killed) == 0
    assert [(out / name / "finished.json").stat().st_mtime_ns for name in ("scenes", "llm", "some")] == stamps
    for name in ("first", "second"):
        wanted, got = (
            load_file(x / "out" / name / "model" / "model.safetensors")
            for x in (tmp_path / "whole", tmp_path / "killed")
        )
        assert wanted.keys() == got.keys()
        assert all(np.array_equal(got[key].numpy(), value.numpy()) for key, value in wanted.items())
    reports = [
        json.loads((tmp_path / x / "out" / "report.json").read_text())["stages"] for x in ("whole", "killed")
    ]
    assert [stage["name"] for stage in reports[0]] == [stage["name"] for stage in reports[1]]
    assert reports[0][-1]["facts"]["loss"] == reports[1][-1]["facts"]["loss"]


def test_a_dry_run_plans_every_stage_and_writes_nothing(tmp_path, capsys, monkeypatch):
    path = str(recipe(tmp_path))
    assert main(["train", path, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert not (tmp_path / "out").exists()
    heads = [line.split()[1:3] for line in said.splitlines() if line.startswith("==")]
    assert heads == [
        [f"{i}/5", name] for i, name in enumerate(("scenes", "llm", "some", "first", "second"), 1)
    ]
    first = said.split("== 4/5 ")[1].split("== 5/5 ")[0]
    for before, after in (("runs after ", "\n"), ("inputs not built yet: ", "\n")):
        assert (
            {"scenes", "llm"}
            <= set(first.split(before)[1].split(after)[0].split(", "))
            <= {"scenes", "llm", "some"}
        )
    whole = load_recipe(path)
    run_recipe(dataclasses.replace(whole, stages=whole.stages[:3]))
    said = plan_recipe(load_recipe(path))
    assert said.count(": finished") == 3
    first, second = said.split("== 4/5 ")[1].split("== 5/5 ")
    assert first.startswith("first (align): runs\n") and "FLOPs" in first
    # Its model does not exist yet: the plan uses the parts that it will be made of, with LoRA on top.
    assert second.startswith("second (instruct): runs after first") and "trainable parameters" in second
    assert not (tmp_path / "out" / "first").exists()
    # results are compared by sizes alone: their content is read once, as the next stage's input
    monkeypatch.setattr("alm.common.files.sha256_of", None)
    assert plan_recipe(load_recipe(path)).count(": finished") == 3
    (tmp_path / "out" / "some" / "data" / "train.jsonl").write_text("")
    said = plan_recipe(load_recipe(path))
    assert "some (select): cannot run: its finished result has changed (data/train.jsonl has 0 of " in said
    assert "first (align): runs after some" in said


def test_defaults_that_are_no_section_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("out: runs/x\ndefaults: run\nstages:\n- {name: a, stage: align}\n")
    with pytest.raises(ConfigError, match="defaults is 'run', expected a section"):
        load_recipe(tmp_path / "r.yaml")
