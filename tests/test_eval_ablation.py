"""The grid, its hashes, token matching, and what the report may say."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from fuzz_ablation import case_in, index_of
from fuzzing import fuzz

from alm.common.errors import ConfigError, UserError
from alm.common.settings import parse_settings
from encoders.registry import encoder_class
from eval.ablation import probe
from eval.ablation import run as ablation
from eval.ablation.arm_steps import arm_steps, plan_steps, probe_step, shared_inputs
from eval.ablation.claims import (
    Comparison,
    compare,
    findings,
    rank_stability,
    score_arms,
    spearman,
    statements,
)
from eval.ablation.costs import ArmPlan, budgeted, cost_table, merge_costs, plan_arms
from eval.ablation.grid import make_arms
from eval.ablation.progress import Watch
from eval.ablation.proxies import EARLY, PROBE, VALIDATION, early_loss, proxies
from eval.ablation.report import _arm_row, write_ablation_report
from eval.ablation.results import ArmResult, Results, SeedRun, read_results
from eval.ablation.settings import AblationSettings, ScoringSettings, load_ablation
from eval.ablation.steps import Step, placed
from eval.ablation.tokens import match_tokens
from eval.errors import EvaluationError, MetricError
from eval.reports.charts import Spot, heat_map, pareto_chart, pareto_front
from eval.scoring.stats import Interval
from train.settings import TrainSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "ablation"
ALL = sorted(CONFIGS.glob("*.yaml"))


def settings_of(**changes):
    values = {
        "out": "x",
        "baseline": "logmel",
        "inputs": {"train": ["a.jsonl"], "validation": ["b.jsonl"], "test": "c.jsonl", "llm": "some/llm"},
        "stages": {"align": {"optim": {"lr": 1e-3, "steps": 10}}, "instruct": {"optim": {"lr": 1e-3}}},
        "axes": {"encoder": {"logmel": {"align": {"encoder": "logmel"}}}},
    } | changes
    return parse_settings(AblationSettings, values)


# ---- the grid ----
@pytest.mark.parametrize("path", ALL, ids=lambda p: p.stem)
def test_shipped_configs_are_read(path):
    settings = load_ablation(path, [], None)
    assert len(settings.seeds) >= 3
    assert Path(settings.out).name == path.stem


@pytest.mark.parametrize("path", [p for p in ALL if "tiny" in p.stem], ids=lambda p: p.stem)
def test_tiny_configs_make_their_arms(path):
    settings = load_ablation(path, [], "labels.csv")
    arms = make_arms(settings, "table.json")
    assert {settings.baseline, "random", "oracle"} <= {arm.name.split(" @")[0] for arm in arms}
    assert settings.inputs.recordings == str(Path("labels.csv").resolve())
    inputs = shared_inputs(settings)
    for arm in arms:
        run = arm_steps(settings, arm, inputs, 1)
        for step in run.train:
            values = parse_settings(TrainSettings, placed(step.config, Path("/root"), step))
            assert values.stage == step.name and values.data.validation
            assert step.name == "pretrain" or values.run.seed == 1
    if path.stem == "projectors-tiny":
        assert {arm.tokens_per_s for arm in arms} == {3.125} and len(arms) == 7


def planned(settings):
    """The arms of an ablation, with a step per stage that measures its cost, before any are merged."""
    inputs = shared_inputs(settings)
    return [ArmPlan(arm, plan_steps(arm, inputs)) for arm in make_arms(settings)]


def measured(plans):
    """Arm -> the arm whose measurement it takes, for stage align."""
    merge_costs(plans)
    return {plan.arm.name: plan.costs["align"].label.split(":")[0] for plan in plans}


def test_stages_of_equal_shapes_are_measured_once(tmp_path):
    """Learning rate, seed and weights make no other shape; sizes, batches, trainable parts and data do."""
    tiny = {name: tmp_path / name for name in ("a", "b", "c")}
    for name, folder in tiny.items():
        encoder_class("audiomosaic" if name != "c" else "whisper").tiny().save_pretrained(folder)
    changes = {
        "lr": {"optim": {"lr": 2e-3, "weight_decay": 0.1}, "run": {"seed": 3}},
        "alpha": {"policy": {"llm_lora": {"alpha": 32}}},
        "batch": {"optim": {"batch_size": 2}},
        "lora": {"policy": {"llm": "lora"}},
        "stack": {"projector_options": {"stack": 4}},
        "invalid": {"optim": {"lr": -1.0}},
    }
    levels = {name: {"align": {"encoder": str(tiny["a"]), **change}} for name, change in changes.items()}
    levels = {name: {"align": {"encoder": str(folder)}} for name, folder in tiny.items()} | levels
    stages = {"align": {"policy": {"llm_lora": {"r": 4, "alpha": 8}}, "optim": {"lr": 1e-3, "steps": 10}}}
    settings = settings_of(stages=stages, axes={"encoder": levels}, baseline="a")
    same = {"a": "a", "b": "a", "lr": "a", "alpha": "a"}
    alone = {name: name for name in ("c", "batch", "lora", "stack", "invalid")}
    assert measured(planned(settings)) == same | alone


def test_an_arm_is_measured_alone_where_the_measurement_of_its_shape_failed(tmp_path):
    levels = {
        name: {"align": {"encoder": "logmel", "optim": {"lr": lr}}} for name, lr in (("a", 1.0), ("b", 2.0))
    }
    settings = settings_of(stages={"align": {}}, axes={"encoder": levels}, baseline="a")
    ran = []

    def run(steps):
        for step in {one.key: one for one in steps}.values():
            ran.append(step.label)
            (folder := tmp_path / "steps" / step.folder).mkdir(parents=True, exist_ok=True)
            broken = step.label.startswith("a:")
            (folder / ("failed.json" if broken else "finished.json")).write_text('{"error": "out of memory"}')

    plans = plan_arms(settings, tmp_path, shared_inputs(settings), run)
    assert ran == ["a: cost of align", "b: cost of align"]
    assert [plan.costs["align"].label for plan in plans] == ran


def test_real_encoders_hear_recordings(tmp_path):
    """Directories come from variables, also inside a fusion; questions about the recordings are made by a step."""
    given = {name: tmp_path / name for name in ("audiomosaic", "whisper")}
    for name, folder in given.items():
        encoder_class(name).tiny().save_pretrained(folder)
    words = [f"variables.{name}={folder}" for name, folder in given.items()]
    words += ["inputs.held_out=speaker=ann", "inputs.question=Which digit is spoken?", "inputs.llm=some/llm"]
    settings = load_ablation(CONFIGS / "encoders-real.yaml", words, "digits.csv")
    inputs = shared_inputs(settings)
    arms = {arm.name: arm for arm in make_arms(settings, inputs.table)}
    assert set(arms) == {"audiomosaic", "whisper", "fused", "logmel", "untrained", "oracle"}
    parts = arms["fused"].stages["align"]["encoder"]["parts"]
    assert parts == [str(given["audiomosaic"]), str(given["whisper"])]
    assert arms["oracle"].stages["align"]["encoder_options"]["table"] == inputs.table
    made = inputs.needs[0]
    assert made.words[-2:] == ("speaker=ann", "question=Which digit is spoken?")
    assert (
        str(Path("digits.csv").resolve()) in made.words and str(Path("digits.csv").resolve()) in inputs.reads
    )
    step = arm_steps(settings, arms["fused"], inputs, 1).train[0]
    values = parse_settings(TrainSettings, placed(step.config, Path("/root"), step))
    assert "train.jsonl" in str(values.data.train)
    assert values.llm == "some/llm" and values.data.validation
    with pytest.raises(ConfigError, match="variables.whisper: is not given; add variables.whisper=DIR"):
        make_arms(load_ablation(CONFIGS / "encoders-real.yaml", words[:1], "digits.csv"))


def test_a_real_encoder_is_adapted_on_the_budget_of_the_frozen_one(tmp_path):
    encoder_class("whisper").tiny().save_pretrained(tmp_path / "whisper")
    words = [
        f"variables.encoder={tmp_path / 'whisper'}",
        "inputs.held_out=speaker=ann",
        "inputs.llm=some/llm",
    ]
    settings = load_ablation(CONFIGS / "frozen-vs-lora-real.yaml", words, "digits.csv")
    inputs = shared_inputs(settings)
    runs = {}
    for arm in make_arms(settings, inputs.table):
        step = arm_steps(settings, arm, inputs, 1).train[0]
        runs[arm.name] = parse_settings(TrainSettings, placed(step.config, Path("/root"), step))
    frozen, adapted = runs["frozen"], runs["encoder-lora"]
    assert (frozen.policy.encoder, adapted.policy.encoder) == ("frozen", "lora")
    assert frozen.data.cache_features and not adapted.data.cache_features
    assert frozen.optim == adapted.optim and frozen.encoder == adapted.encoder == str(tmp_path / "whisper")


def test_every_combination_is_an_arm_and_single_levels_go_unnamed():
    axes = {
        "encoder": {"logmel": {"align": {"encoder": "logmel"}}},
        "projector": {"lin": {"align": {"projector": "linear"}}, "pool": {"align": {"projector": "pool"}}},
        "data_size": [0.5, 1.0],
    }
    settings = settings_of(
        axes=axes, baseline="pool/1", references={"random": {"align": {"encoder": "random"}}}
    )
    arms = make_arms(settings)
    assert [arm.name for arm in arms] == ["lin/0.5", "lin/1", "pool/0.5", "pool/1", "random"]
    assert arms[0].stages["align"]["projector"] == "linear" and arms[0].data_size == 0.5
    assert arms[4].levels["projector"] == "lin" and arms[4].encoder[0] == "random"


def test_options_of_another_encoder_do_not_stay():
    stages = {"align": {"encoder": "random", "encoder_options": {"depth": 2}}}
    arm = make_arms(settings_of(stages=stages))[0]
    assert "encoder_options" not in arm.stages["align"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"baseline": "logmol"}, "did you mean 'logmel'"),
        ({"axes": {"encodr": {}}}, "did you mean 'axes.encoder'"),
        ({"axes": {"encoder": {"a": {"aling": {}}}}}, "axes.encoder.a.aling"),
        ({"axes": {"data_size": [1.5]}}, "data_size"),
        ({"stages": {"pretrain": {}}}, "neither align nor instruct"),
        ({"inputs": {"recordings": "a.csv"}}, "inputs.llm: give a directory or hub id"),
        ({"inputs": {"recordings": "a.csv", "llm": "l", "test": "t"}}, "remove inputs.test"),
        ({"inputs": {"scenes": {}, "held_out": "fold=1"}}, "inputs.held_out: needs inputs.recordings"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"budget": {"unit": "hours"}}, "budget.unit"),
        ({"inputs": {"train": ["a"]}}, "give scenes"),
        ({"references": {"logmel": {}}}, "two arms are named 'logmel'"),
        ({"stages": {"pretrain": {"encoder": "audiomosaic"}, "align": {}}}, "pretrain makes another"),
    ],
)
def test_wrong_configs_are_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        make_arms(settings_of(**changes))


# ---- tokens ----
@pytest.mark.parametrize(
    "projector", ["mlp", "linear", "pool", "conv1d", "ultravox", "qformer", "window_qformer"]
)
def test_every_projector_is_brought_to_a_rate(projector):
    encoder = encoder_class("logmel").config_class()  # 6.25 time steps a second
    found = match_tokens(encoder, projector, {}, 3.125, 5.12)
    assert found.tokens_per_s == pytest.approx(3.125)
    assert found.options and set(found.options) <= {"stack", "stride", "window_s", "n_queries"}


def test_an_arm_that_cannot_be_matched_says_so():
    arm = make_arms(settings_of(tracks={"native": False, "matched_per_s": 50.0}))[0]
    assert "not matched: 6.25" in arm.remark
    both = make_arms(settings_of(tracks={"matched_per_s": 3.125}))
    assert [arm.name for arm in both] == ["logmel @native", "logmel @matched"]


# ---- hashes ----
def steps_of(settings, seed=0, scale=1.0):
    inputs = shared_inputs(settings)
    return arm_steps(settings, make_arms(settings)[0], inputs, seed, scale)


def test_hashes_follow_what_decides():
    base = steps_of(settings_of())
    assert steps_of(settings_of(out="elsewhere")).score.key == base.score.key  # not where it lies
    assert steps_of(settings_of(seeds=[5, 0, 1])).train[0].key == base.train[0].key
    assert steps_of(settings_of(), seed=1).train[0].key != base.train[0].key
    assert steps_of(settings_of(), scale=2.0).train[0].key != base.train[0].key
    stages = {"align": {"optim": {"lr": 1e-3, "steps": 11}}, "instruct": {"optim": {"lr": 1e-3}}}
    longer = settings_of(stages=stages)
    assert steps_of(longer).score.key != base.score.key  # what comes before counts


def test_hashes_follow_the_content_of_files(tmp_path):
    from eval.ablation.steps import _content

    keys = []
    for text in ("one", "two"):
        _content.cache_clear()
        (tmp_path / "a.jsonl").write_text(text)
        keys.append(Step("x", "", (), "out", reads=(str(tmp_path / "a.jsonl"),)).key)
    assert keys[0] != keys[1]


def test_a_pretrained_encoder_is_made_once_for_all_seeds_unless_asked_for():
    pretrain = {"pretrain": {"encoder": "audiomosaic"}, "align": {}}
    axes = {"encoder": {"audiomosaic": {}}}
    one = settings_of(stages=pretrain, axes=axes, baseline="audiomosaic")
    assert steps_of(one, seed=0).train[0].key == steps_of(one, seed=1).train[0].key
    each = replace(one, pretrain_per_seed=True)
    assert steps_of(each, seed=0).train[0].key != steps_of(each, seed=1).train[0].key


def test_a_sweep_of_learning_rates_pretrains_once():
    stages = {"pretrain": {"encoder": "audiomosaic", "optim": {"lr": 0.1}}, "align": {"optim": {"lr": 0.01}}}
    settings = settings_of(stages=stages, axes={"encoder": {"audiomosaic": {}}}, baseline="audiomosaic")
    one, twice = steps_of(settings), steps_of(settings, scale=2.0)
    assert one.train[0].key == twice.train[0].key
    assert [made.train[1].config["optim"]["lr"] for made in (one, twice)] == [0.01, 0.02]


def test_scoring_and_probe_are_as_the_settings_say():
    """Controls for the first seeds alone, options of the evaluation, and most clips of the probe."""
    settings = settings_of(
        seeds=[5, 6, 7],
        scoring={"options": {"batch_size": 3, "limit": 7}, "control_seeds": 2, "controls": ["no_audio"]},
        proxies={"probe_clips": 11},
        inputs={"train": ["a.jsonl"], "validation": ["b.jsonl"], "test": "c.jsonl", "llm": "x/llm", "labels": "l.csv"},
    )  # fmt: skip
    words = {seed: steps_of(settings, seed).score.words for seed in (5, 6, 7)}
    controls = {seed: next(word for word in said if "controls" in word) for seed, said in words.items()}
    assert controls == {5: "controls=[none,no_audio]", 6: "controls=[none,no_audio]", 7: "controls=[none]"}
    assert {"batch_size=3", "limit=7"} <= set(words[7])
    inputs = shared_inputs(settings)
    arm = make_arms(settings, inputs.table)[0]
    assert probe_step(settings, arm, inputs, arm_steps(settings, arm, inputs, 5)).config["most_clips"] == 11


def test_the_best_learning_rate_is_that_of_the_lowest_validation_loss(monkeypatch, tmp_path):
    settings = settings_of(lr_scales=[1.0, 0.5, 2.0])
    arm = make_arms(settings)[0]
    plan, failed = ArmPlan(arm, {}), ArmPlan(arm, {}, error="too long")
    found, ran = iter([3.0, 1.0, 2.0]), []
    monkeypatch.setattr(ablation, "validation_loss", lambda *_: next(found))
    ablation._choose_learning_rates(settings, tmp_path, shared_inputs(settings), [failed, plan], ran.extend)
    assert plan.lr_scale == 0.5 and plan.losses == {1.0: 3.0, 0.5: 1.0, 2.0: 2.0} and not plan.error
    assert len(ran) == 3 and not failed.sweep and failed.error == "too long"


def test_every_seed_is_scored_and_the_first_is_probed(tmp_path):
    settings = settings_of(
        seeds=[4, 5], pretrain_per_seed=True, axes={}, baseline="arm",
        stages={"pretrain": {"encoder": "audiomosaic"}, "align": {"optim": {"lr": 1e-3, "steps": 10}}},
        inputs={"train": ["a.jsonl"], "validation": ["b.jsonl"], "test": "c.jsonl", "llm": "x/llm", "labels": "l.csv"},
    )  # fmt: skip
    inputs = shared_inputs(settings)
    arm = make_arms(settings, inputs.table)[0]
    plan = ArmPlan(arm, plan_steps(arm, inputs))
    failed, ran = ArmPlan(plan.arm, {}, error="too long"), []
    ablation._run_arms(
        settings, tmp_path, tmp_path, inputs, [failed, plan], ran.extend, Watch(tmp_path, tmp_path, 1)
    )
    runs = {seed: arm_steps(settings, plan.arm, inputs, seed) for seed in (4, 5)}
    probe = probe_step(settings, plan.arm, inputs, runs[4])
    assert [step.key for step in ran] == [runs[4].score.key, runs[5].score.key, probe.key]
    assert probe.key != probe_step(settings, plan.arm, inputs, runs[5]).key and not failed.runs


def test_a_table_of_costs_counts_every_run_and_what_is_shared_once(tmp_path, monkeypatch):
    """Two arms that pretrain alike, two seeds and three learning rates: four runs of each arm, one pretraining."""
    stages = {"pretrain": {"encoder": "audiomosaic"}, "align": {"optim": {"lr": 1e-3, "steps": 10}}}
    axes = {"projector": {"mlp": {}, "linear": {"align": {"projector": "linear"}}}}
    settings = settings_of(
        stages=stages, axes=axes, baseline="mlp", seeds=[0, 1], lr_scales=[1, 2, 4], jobs=1,
        budget={"unit": "steps", "amount": {"align": 20}},
    )  # fmt: skip
    plans = [ArmPlan(arm, plan_steps(arm, shared_inputs(settings))) for arm in make_arms(settings)]
    cost = {"steps": 10, "tokens": 100, "flops": 1e3, "trainable": 1, "parameters": 7}
    for plan in plans:
        for stage, step in plan.costs.items():
            folder = tmp_path / "steps" / step.folder
            folder.mkdir(parents=True, exist_ok=True)
            # 50 s of steps; alignment also encodes its clips, once for all runs, and starts up, in each
            other = {} if stage == "pretrain" else {"encoding clips": 8.0, "start up": 2.0}
            found = cost | {"seconds": 50.0 + sum(other.values()), "other_s": other}
            (folder / "log.txt").write_text(json.dumps(found) + "\n")
            (folder / "finished.json").write_text("{}")
        plan.steps = budgeted(settings, tmp_path, plan)
    *_, last = (table := cost_table(settings, tmp_path, plans)).splitlines()
    assert table.count("50 s x 1") == table.count("50 s x 0") == 1 and table.count("102 s x 4 + 8 s") == 2
    assert f"about {(50 + 2 * (4 * 102 + 8)) / 60:.0f} min" in last


def test_arms_of_one_seed_get_the_same_data_in_the_same_order():
    axes = {"encoder": {n: {"align": {"encoder": n}} for n in ("logmel", "random")}}
    settings = settings_of(axes=axes)
    inputs = shared_inputs(settings)
    runs = [arm_steps(settings, arm, inputs, 2) for arm in make_arms(settings)]
    for first, second in zip(runs[0].train, runs[1].train, strict=True):
        # The order of samples is a function of (seed, epoch) and the manifests.
        assert first.config["run"] == second.config["run"] == {"seed": 2}
        assert first.config["data"] == second.config["data"]


def test_references_become_paths():
    first = Step("a", "", ("x", "{here}/y"), "out")
    second = Step("b", "", ("x", f"{first.ref}/y", "{root}/features"), "out", needs=(first,))
    root = Path("/r")
    assert placed(second.words, root, second) == ["x", f"/r/steps/a-{first.key}/y", "/r/features"]
    assert placed(first.words, root, first)[1] == f"/r/steps/a-{first.key}/y"


def test_costs_are_found_on_small_inputs_from_scratch():
    settings = load_ablation(CONFIGS / "tiny.yaml", [], None)
    sketch = shared_inputs(settings, sketch=True)
    assert "compose.n_train=48" in sketch.needs[0].words and "text_llm.steps=1" in sketch.needs[0].words
    arm = next(arm for arm in make_arms(settings, sketch.table) if arm.name == "audiomosaic")
    made = plan_steps(arm, sketch)
    assert list(made) == ["pretrain", "align", "instruct"]
    assert made["instruct"].config["encoder"] == "audiomosaic" and "model" not in made["instruct"].config


@pytest.mark.parametrize(("unit", "steps"), [("steps", 500), ("tokens", 50), ("flops", 5)])
def test_a_budget_becomes_steps(unit, steps, tmp_path):
    settings = settings_of(budget={"unit": unit, "amount": {"align": 500}}, scoring={"control_seeds": 3})
    arm = make_arms(settings)[0]
    plan = ArmPlan(arm, plan_steps(arm, shared_inputs(settings)))
    if unit != "steps":
        with pytest.raises(UserError, match="plan: was not run"):
            budgeted(settings, tmp_path, plan)
    folder = tmp_path / "steps" / plan.costs["align"].folder
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text('loading\n{"steps": 10, "tokens": 100, "flops": 1000.0}\n')
    (folder / "finished.json").write_text("{}")
    assert budgeted(settings, tmp_path, plan) == {"align": steps}
    made = arm_steps(settings, arm, shared_inputs(settings), 0, 1.0, {"align": steps})
    assert made.train[0].config["optim"]["steps"] == steps
    assert "controls=[none,no_audio,other_clip]" in made.score.words


def test_the_probe_hears_validation_clips_and_never_the_test_set():
    stages = {"pretrain": {"encoder": "audiomosaic"}, "align": {}}
    settings = settings_of(
        stages=stages, axes={"encoder": {"audiomosaic": {}}}, baseline="audiomosaic",
        inputs={"train": ["a.jsonl"], "validation": ["b.jsonl"], "test": "c.jsonl", "llm": "x/llm", "labels": "l.csv"},
    )  # fmt: skip
    inputs = shared_inputs(settings)
    arm = make_arms(settings, inputs.table)[0]
    run = arm_steps(settings, arm, inputs, 0)
    step = probe_step(settings, arm, inputs, run)
    assert (step.config["train"], step.config["test"]) == (["a.jsonl"], ["b.jsonl"])
    assert step.config["encoder"] == f"{run.train[0].ref}/run/encoder" and run.train[0] in step.needs
    assert step.config["labels"] == "l.csv" and "c.jsonl" not in str(step.config)


def test_an_arm_with_less_data_trains_on_a_share_of_every_manifest():
    settings = settings_of(
        inputs={"train": ["a.jsonl", "b.jsonl"], "validation": ["v.jsonl"], "test": "c.jsonl", "llm": "x/llm"},
        axes={"encoder": {"logmel": {"align": {"encoder": "logmel"}}}, "data_size": [1.0, 0.25]},
        baseline="1",
    )  # fmt: skip
    whole, part = (arm_steps(settings, arm, shared_inputs(settings), 0) for arm in make_arms(settings))
    assert whole.train[0].config["data"]["train"] == ["a.jsonl", "b.jsonl"]
    cuts = [step for step in part.train[0].needs if step.name == "share"]
    assert [cut.words for cut in cuts] == [
        ("alm", "data", "share", name, "--share", "0.25", "--out", "{here}/train.jsonl")
        for name in ("a.jsonl", "b.jsonl")
    ]
    assert part.train[0].config["data"]["train"] == [f"{cut.ref}/train.jsonl" for cut in cuts]
    assert part.train[0].config["data"]["validation"] == ["v.jsonl"]


def test_costs_are_those_of_the_steps_that_the_budget_allows(tmp_path):
    """Steps are measured at 10 and 20 and planned for 5 and 60: half and three times the cost."""
    index = index_of()
    index["arms"][0] |= {
        "plan": {"align": "plan-0", "instruct": "plan-1"},
        "steps": {"align": 5, "instruct": 60},
    }
    measured = [
        {"steps": 10, "tokens": 100, "flops": 1e3, "seconds": 8.0, "trainable": 1, "parameters": 7},
        {"steps": 20, "tokens": 300, "flops": 5e3, "seconds": 2.0, "trainable": 2, "parameters": 7},
    ]
    for number, cost in enumerate(measured):
        folder = tmp_path / "steps" / f"plan-{number}"
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text(json.dumps(cost) + "\n")
        (folder / "finished.json").write_text("{}")
    (tmp_path / "arms.json").write_text(json.dumps(index))
    (arm,) = read_results(tmp_path).arms
    assert arm.cost == {
        "steps": 65, "tokens": 50 + 900, "flops": 500 + 15e3, "seconds": 4 + 6, "trainable": 2, "parameters": 7
    }  # fmt: skip


def test_a_run_is_read_from_the_folders_of_its_own_steps(tmp_path):
    """Losses of both stages in order, the validation loss of the last, seconds of stages and score."""
    index = index_of()
    index["arms"][0]["runs"][0] |= {
        "train": ["align-0", "instruct-0"],
        "chain": ["align-0", "instruct-0", "score-0"],
    }
    for name, seconds, loss in (("align-0", 10.0, 3.0), ("instruct-0", 20.0, 2.0), ("score-0", 5.0, None)):
        run = tmp_path / "steps" / name / "run"
        run.mkdir(parents=True)
        (run.parent / "finished.json").write_text(json.dumps({"step": name, "seconds": seconds}))
        if loss is not None:
            (run / "finished.json").write_text(json.dumps({"loss": loss}))
            log = [
                {"step": 5, "loss": loss + 1},
                {"step": 5, "eval_loss": 9.0},
                {"step": 9, "loss": loss + 0.5},
            ]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    answers = lines_of(0.5, 0)
    (tmp_path / "steps/score-0/run/predictions.jsonl").write_text(
        "".join(json.dumps(a) + "\n" for a in answers)
    )
    (tmp_path / "steps/score-0/run/scores.json").write_text('{"run": {"benchmark": "clotho"}}')
    (tmp_path / "arms.json").write_text(json.dumps(index))
    (run,) = read_results(tmp_path).arms[0].runs
    assert run.benchmark == "clotho"
    assert (run.seed, run.key, run.lines, run.seconds) == (0, "k", answers, 35.0)
    assert run.losses == [[(5, 4.0), (9, 3.5)], [(5, 3.0), (9, 2.5)]] and run.validation_loss == 2.0


# ---- what may be said ----
def lines_of(right, seed, control="none"):
    """Answers to two questions about each of many clips; `right` is the share answered right."""
    rng = np.random.default_rng(seed)
    return [
        {"id": f"{c}-{q}", "key": f"{seed}{control}{c}{q}", "clip": f"clip{c}", "kind": "what" if q else "order",
         "control": control, "question": "?", "references": ["yes"], "choices": [],
         "prediction": "yes" if rng.random() < right else "no"}
        for c in range(60) for q in range(2)
    ]  # fmt: skip


def arm_of(name, right, seeds=(0, 1, 2), probe=None, error="", loss=1.0):
    runs = [
        SeedRun(seed, f"key{seed}", lines_of(right, 10 * seed + round(100 * right)), 1.0,
            [[(10, loss + 1), (20, loss)]], loss)
        for seed in seeds
    ]  # fmt: skip
    return ArmResult(name, "native", 6.25, "", {}, 1.0, {}, {"flops": 1e9}, probe, runs, error)


def results_of(*arms):
    roles = {"baseline": "base", "floor": "low", "ceiling": "oracle", "seeds": [0, 1, 2]}
    return Results({**asdict(settings_of()), **roles}, list(arms))


def test_orders_are_stated_only_where_the_test_supports_them():
    results = results_of(
        arm_of("base", 0.6), arm_of("oracle", 0.95), arm_of("low", 0.3), arm_of("same", 0.61)
    )
    scored, _ = score_arms(results)
    found = compare(results, scored, "qa/overall")
    said = statements(found, scored, "qa/overall")
    assert said[0].startswith("oracle > base > low")
    text = "\n".join(said)
    assert "oracle > base (" in text and "base > low (" in text
    assert "no significant difference between same and base" in text and "same > base" not in text
    assert all(one.p_holm >= one.p for one in found)


def test_a_difference_that_one_seed_contradicts_is_not_stated():
    clear = Comparison("a", "b", Interval(0.1, 0.05, 0.15, 10, 5), 0.001, 0.003, {0: 0.2, 1: 0.2, 2: 0.1})
    assert clear.supported and clear.statement(True).startswith("a > b")
    below = replace(clear, difference=Interval(-0.1, -0.15, -0.05, 10, 5), by_seed={0: -0.1})
    assert below.statement(True) == "b > a (+10 [+5, +15] points, p = 0.003 (Holm), in one seed)"
    torn = replace(clear, by_seed={0: 0.3, 1: 0.2, 2: -0.1})
    assert not torn.supported and "not every seed agrees" in torn.statement(True)
    weak = replace(clear, p_holm=0.06)
    assert not weak.supported and "no significant difference" in weak.statement(True)


def test_the_score_that_decides_is_that_of_the_benchmark():
    """Its own rule of what is right, and its metrics; a score that the answers do not have is named."""

    def scored_by(score, benchmark):
        lines = [
            {"id": f"e{i}", "key": str(i), "clip": f"c{i}", "kind": "sound_events", "control": "none",
             "references": ["dog: 1.00 - 2.00"], "prediction": "dog: 1.50 - 2.00" if i % 2 else "cat: 1.00 - 2.00"}
            for i in range(8)
        ]  # fmt: skip
        runs = [SeedRun(0, "key", lines, benchmark=benchmark)]
        arm = ArmResult("base", "native", 6.25, "", {}, 1.0, {}, {}, None, runs)
        results = results_of(arm)
        results.settings["scoring"]["score"] = score
        ((one,), _) = score_arms(results)
        return one.interval(score).value

    assert scored_by("qa/overall", "sound_events") == 0.5 and scored_by("qa/overall", "") == 0.0
    # Seconds: half of the answers name the second that the sound is in, the others another sound in it.
    assert scored_by("answer/segment_f1", "sound_events") == pytest.approx(2 * 4 / (2 * 4 + 4 + 4))
    with pytest.raises(
        EvaluationError, match="scoring.score: the answers have no score 'caption/cider_d', but qa/ov"
    ):
        scored_by("caption/cider_d", "sound_events")
    with pytest.raises(ConfigError, match="scoring.score: 'answer/wer' counts errors"):
        ScoringSettings(score="answer/wer")
    with pytest.raises(MetricError, match="unknown metric 'segment_f'"):
        ScoringSettings(score="answer/segment_f")


def test_the_baseline_listens_only_where_the_interval_says_so():
    """A gap above 0 alone is not enough. Beside scores in percent, deviations of seeds are in percent too."""
    settings = {**asdict(settings_of()), "baseline": "base", "floor": "low"}
    said = []
    for other in (0.58, 0.2):
        arm = arm_of("base", 0.6)
        runs = [replace(run, lines=[*run.lines, *lines_of(other, 77, "other_clip")]) for run in arm.runs[:1]]
        scored, _ = score_arms(results_of(replace(arm, runs=[*runs, *arm.runs[1:]])))
        gap = scored[0].pooled["qa/overall"].gap(scored[0].controls["other_clip"]["qa/overall"], 0)
        assert gap.value > 0 and (gap.low > 0) is (other < 0.5)
        said.append(findings(settings, [], scored, "qa/overall")[2])
    assert "base is not shown to listen: +" in said[0] and "base listens: +" in said[1]
    row = _arm_row(scored[0].arm, settings | {"ceiling": "oracle"}, scored, [], "qa/overall")
    deviation = np.std(list(scored[0].by_seed("qa/overall").values()), ddof=1)
    assert row[3].text == "3 of 3" and row[3].note == f"({100 * deviation:.2g})"


def test_whole_recordings_with_labels_are_probed_once(tmp_path):
    lines = [
        {"id": "a", "audio": "a.wav"}, {"id": "b", "audio": {"path": "b.wav", "start_s": 1.0}},
        {"id": "c", "audio": "c.wav"}, {"id": "d", "audio": ["a.wav", "d.wav"], "question": "?", "answer": "x"},
    ]  # fmt: skip
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    known = {(tmp_path / f"{name}.wav").resolve(): {"dog"} for name in "abd"}
    found = probe._clips([str(tmp_path / "m.jsonl")], known)
    assert [path.name for path in found] == ["a.wav", "d.wav"]


def test_arms_are_compared_on_the_seeds_they_share_and_failed_ones_on_none():
    results = results_of(arm_of("base", 0.5), arm_of("two", 0.9, seeds=(1, 2)), arm_of("none", 0.5, seeds=()))
    scored, _ = score_arms(results)
    assert [one.arm.name for one in scored] == ["base", "two"]
    (found,) = compare(results, scored, "qa/overall")
    assert set(found.by_seed) == {1, 2}


def test_a_score_over_seeds_is_their_mean():
    """Shares of right answers are counted here; so is the difference to the baseline."""
    scored, _ = score_arms(results_of(arm_of("base", 0.4), arm_of("two", 0.8)))
    shares = {}
    for one in scored:
        shares[one.arm.name] = [
            np.mean([a["prediction"] == "yes" for a in run.lines]) for run in one.arm.runs
        ]
        assert len(set(shares[one.arm.name])) == 3
        assert one.interval("qa/overall").value == pytest.approx(np.mean(shares[one.arm.name]))
        assert list(one.by_seed("qa/overall").values()) == pytest.approx(shares[one.arm.name])
    (found,) = compare(results_of(), scored, "qa/overall")
    assert found.difference.value == pytest.approx(np.mean(shares["two"]) - np.mean(shares["base"]))


def test_runs_of_different_questions_are_refused():
    from eval.errors import EvaluationError

    other = arm_of("other", 0.5)
    other.runs[1].lines.pop()
    with pytest.raises(EvaluationError, match="arm 'other': no answer to"):
        score_arms(results_of(arm_of("base", 0.5), other))


def test_ranks_that_repeat_are_stable():
    scored, _ = score_arms(results_of(arm_of("base", 0.5), arm_of("b", 0.95), arm_of("c", 0.1)))
    assert rank_stability(scored, "qa/overall") == (1.0, 3)


def test_spearman_is_exact_for_few():
    assert spearman([1, 2, 3, 4], [1, 3, 5, 9]) == (1.0, pytest.approx(2 / 24))
    assert spearman([1, 1, 1], [1, 2, 3]) == (None, None)


def test_proxies_leave_the_oracle_out():
    arms = [arm_of("base", 0.6, probe=0.5, loss=2.0), arm_of("b", 0.9, probe=0.7, loss=1.0),
            arm_of("c", 0.2, probe=0.1, loss=3.0), arm_of("oracle", 0.99, probe=0.0, loss=9.0)]  # fmt: skip
    scored, _ = score_arms(results_of(*arms))
    found = {one.name: one for one in proxies(scored, "qa/overall", 0.5, "oracle")}
    assert found[PROBE].rho == 1.0 and set(found[PROBE].values) == {"base", "b", "c"}
    assert found[EARLY].rho == 1.0 and found[EARLY].values["base"] == 3.0  # losses count the lower the better
    assert found[VALIDATION].rho == 1.0


def test_arms_that_share_an_encoder_share_its_probe():
    arms = [arm_of("base", 0.5, probe=0.5, loss=2.0), arm_of("b", 0.9, probe=0.5, loss=1.0),
            arm_of("c", 0.2, probe=0.1, loss=3.0), arm_of("d", 0.8, probe=0.9, loss=1.5)]  # fmt: skip
    scored, _ = score_arms(results_of(*arms))
    found = {one.name: one for one in proxies(scored, "qa/overall", 0.5)}
    assert found[PROBE].rho == 1.0 and len(found[PROBE].values) == 4  # 0.1, 0.5 (0.7 on average), 0.9
    assert found[EARLY].rho == 1.0
    scored, _ = score_arms(results_of(*arms[:3]))
    assert {one.name: one for one in proxies(scored, "qa/overall", 0.5)}[PROBE].rho is None


def test_the_early_loss_is_read_before_its_share():
    assert early_loss([(10, 5.0), (20, 4.0), (40, 3.0)], 0.5) == 4.0
    assert early_loss([(40, 3.0)], 0.25) is None


# ---- what a stranger left ----
def test_an_index_of_a_stranger_is_refused_in_one_line_and_leads_nowhere_else(tmp_path):
    (tmp_path / "arms.json").write_text(json.dumps(index_of()))
    page = write_ablation_report(tmp_path).read_text()
    assert "not run" in page
    evil = index_of()
    evil["arms"][0] |= {"name": "<script>alert(1)</script>", "config": {"<img src=x>": {}}}
    (tmp_path / "arms.json").write_text(json.dumps(evil))
    page = write_ablation_report(tmp_path).read_text()
    assert "<script" not in page and "<img src=x" not in page and "&lt;script&gt;" in page
    assert "<script" not in (tmp_path / "report" / "report.md").read_text()
    away = index_of()
    away["arms"][0]["runs"][0]["chain"] = ["../../x"]
    (tmp_path / "arms.json").write_text(json.dumps(away))
    with pytest.raises(UserError, match="path separator"):
        write_ablation_report(tmp_path)

    assert not fuzz("arms.json", case_in(tmp_path), n=80, seed=1).findings


# ---- pictures ----
def test_costs_of_several_sizes_are_written_as_powers_that_do_not_overlap(monkeypatch):
    def labels(figure):
        figure.canvas.draw()
        axis = figure.axes[0].xaxis
        return [one.get_text() for one in (*axis.get_majorticklabels(), *axis.get_minorticklabels())]

    monkeypatch.setattr("eval.reports.charts._svg", labels)
    spots = [Spot("a", 2e9, 0.5, None, None), Spot("b", 1.5e18, 0.6, None, None)]
    written = [text for text in pareto_chart(spots, "FLOPs", "accuracy", "t").svg if text]
    assert "1e+10" in written and all(re.fullmatch(r"\de\+\d\d", text) for text in written)


def test_the_front_is_what_nothing_cheaper_beats():
    spots = [Spot(n, c, s, s - 1, s + 1) for n, c, s in (("a", 1, 5), ("b", 2, 4), ("c", 3, 9), ("d", 3, 8))]
    assert [spot.name for spot in pareto_front(spots)] == ["a", "c"]
    drawn = pareto_chart(spots, "FLOPs", "accuracy", "t")
    assert drawn.svg.startswith("<svg") and drawn == pareto_chart(spots, "FLOPs", "accuracy", "t")
    assert heat_map(["a"], ["k"], np.array([[50.0]]), "%").svg.startswith("<svg")
    same = [Spot(n, 6.25, s, None, None) for n, s in (("a", 1), ("b", 2))]
    assert pareto_chart(same, "tokens", "accuracy", "t") is None  # arms of one cost: there is nothing to see
    assert heat_map([], [], np.zeros((0, 0)), "%") is None
