"""Stages are found by file: the shipped ones keep their contract, and one file in a plug-in folder adds another."""

import json

import pytest
import yaml

from alm.cli import main
from alm.common.errors import ConfigError
from alm.common.settings import parse_settings
from alm.data.manifest import read_manifest
from train import processes
from train.pipeline.runner import run_stage
from train.settings import TrainSettings
from train.stage import STAGES, Stage, StageSettings, parse_stage
from train.stages.training import training_stages, zero_stage

PLUGIN = """
import dataclasses
from pathlib import Path
from alm.common.errors import ConfigError
from train.stage import Stage, StageSettings


@dataclasses.dataclass(frozen=True)
class CountSettings(StageSettings):
    text: str = ""
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Cost:
    characters: int

    def __str__(self):
        return f"{self.characters} characters"


class CountStage(Stage[CountSettings]):
    settings = CountSettings
    artifact = "counts"
    outputs = ("notes.txt",)

    def check_values(self, settings):
        if settings.times < 1:
            raise ConfigError(f"times: got {settings.times}, expected 1 or more")

    def inputs(self, settings):
        return [settings.text]

    def dry_run(self, settings):
        return Cost(len(Path(settings.text).read_text()) * settings.times)

    def run(self, settings, folder):
        (folder / "counts").mkdir()
        (folder / "counts" / "n.txt").write_text(str(len(Path(settings.text).read_text()) * settings.times))
        (folder / "notes.txt").write_text("done")
        return {"characters": len(Path(settings.text).read_text())}


STAGE = CountStage()
"""


@pytest.mark.parametrize("name", STAGES.names())
def test_every_stage_keeps_the_contract(name):
    stage = STAGES.get(name)
    assert isinstance(stage, Stage) and issubclass(stage.settings, StageSettings)
    written = (stage.artifact, *stage.outputs, *stage.resumes)
    assert len(set(written)) == len(written) and all(name and "/" not in name for name in written)
    with pytest.raises(ConfigError, match="no_such_key"):
        parse_stage({"stage": name, "out": "x", "no_such_key": 1}, "a config")


def test_the_shipped_stages_are_those_of_the_files():
    assert STAGES.names() == ["align", "compose", "finetune", "instruct", "pretrain", "select", "text_llm"]
    assert set(training_stages()) == {"align", "finetune", "instruct", "pretrain"}


@pytest.mark.parametrize(
    ("stage", "values", "said"),
    [
        ("pretrain", {"data": {"pack": True}}, "data.pack: is for stages align and instruct, not pretrain"),
        ("pretrain", {"llm": "x"}, "llm: is for stages align and instruct, not pretrain"),
        ("pretrain", {"policy": {"llm": "full"}}, "policy: is for stages align and instruct, not pretrain"),
        ("align", {"contrastive": {"temperature": 0.2}}, "contrastive: is for stage pretrain, not align"),
        ("finetune", {"run": {"compile": True}}, "run.compile: is for stages align, instruct and pretrain, not f"),
        ("instruct", {"data": {"test": ["x.csv"]}}, "data.test: is for stage finetune, not instruct"),
        ("finetune", {"run": {"eval_every": 5}}, "run.eval_every: is for stages align and instruct, not finetune"),
    ],
)  # fmt: skip
def test_options_of_other_stages_are_refused(stage, values, said):
    data = {"train": ["a.jsonl"], **values.pop("data", {})}
    with pytest.raises(ConfigError, match=said):
        parse_settings(
            TrainSettings, {"stage": stage, "out": "x", "encoder": "audiomosaic", "data": data, **values}
        )


@pytest.mark.parametrize(
    ("values", "inputs"),
    [
        (
            {
                "stage": "finetune",
                "encoder": "e",
                "data": {"train": ["a"], "validation": ["b"], "test": ["c"]},
            },
            ["a", "b", "c", "e"],
        ),
        (
            {"stage": "align", "encoder": "e", "llm": "l", "run": {"deepspeed": "z.json"}},
            ["a", "e", "l", "z.json"],
        ),
        ({"stage": "instruct", "model": "m", "data": {"train": ["a"], "validation": ["b"]}}, ["a", "b", "m"]),
        ({"stage": "pretrain", "encoder": "e", "contrastive": {"probe": {"labels": "p"}}}, ["a", "e", "p"]),
    ],
)
def test_a_change_of_any_named_file_runs_the_stage_again(values, inputs):
    settings = parse_settings(TrainSettings, {"out": "x", "data": {"train": ["a"]}, **values})
    assert sorted(STAGES.get(settings.stage).inputs(settings)) == sorted(inputs)


def test_selected_records_keep_their_clips_segments_and_files(tmp_path):
    """A selection lies in another folder than its manifest, and its statistics are clustered by the same clips."""
    (tmp_path / "a.wav").touch()
    rows = [
        {"id": "0", "audio": "a.wav", "captions": ["rain"], "clip": "scene 7"},
        {"id": "1", "audio": {"path": "a.wav", "start_s": 1.0, "end_s": 2.5}, "captions": ["wind"]},
        {"id": "2", "audio": "a.wav", "question": "q", "answer": "a", "kind": "what", "clip": "scene 7"},
        {"id": "3", "audio": "a.wav", "question": "q", "answer": "a", "kind": "count"},
    ]
    manifest = tmp_path / "in.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {"stage": "select", "data": str(manifest), "kinds": ["caption", "what"]}
    out = run_stage(parse_stage({**values, "out": str(tmp_path / "run")}, "a config"))
    kept, whole = read_manifest(out / "train.jsonl"), read_manifest(manifest)
    assert [record.id for record in kept] == ["0", "1", "2"]
    for record, before in zip(kept, whole, strict=False):
        assert (record.clip, record.kind, record.messages) == (before.clip, before.kind, before.messages)
        assert [(ref.path, ref.start_s, ref.end_s) for ref in record.audio] == [
            (ref.path.resolve(), ref.start_s, ref.end_s) for ref in before.audio
        ]
    assert kept[0].clip == kept[2].clip == "scene 7"


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A plug-in folder with stage `count`, a config of it, and its input."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "count.py").write_text(PLUGIN)
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    (tmp_path / "in.txt").write_text("hello")
    values = {"stage": "count", "out": str(tmp_path / "run"), "text": str(tmp_path / "in.txt"), "times": 3}
    (tmp_path / "count.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_one_file_and_one_config_add_a_stage(plugin, capsys):
    config, run = str(plugin / "count.yaml"), plugin / "run"
    assert main(["train", config, "--dry-run"]) == 0
    assert capsys.readouterr().out == "15 characters\n" and not run.exists()
    assert main(["train", config, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"characters": 15}
    assert main(["train", config]) == 0
    assert (run / "counts" / "n.txt").read_text() == "15" and str(run / "counts") in capsys.readouterr().out
    marker = (run / "finished.json").read_bytes()
    assert main(["train", config]) == 0
    assert (
        "run: already done, reused" in capsys.readouterr().out
        and (run / "finished.json").read_bytes() == marker
    )
    assert main(["train", config, "times=2"]) == 0  # another option, another content: it runs again
    assert (run / "counts" / "n.txt").read_text() == "10"
    (plugin / "in.txt").write_text("hi")
    assert main(["train", config, "times=2"]) == 0
    assert (run / "counts" / "n.txt").read_text() == "4"
    assert main(["train", config, "tmies=2"]) == 2
    assert "unknown key 'tmies'; did you mean 'times'" in capsys.readouterr().err
    assert main(["train", config, "times=0"]) == 2  # what `check_values` of the stage refuses
    assert capsys.readouterr().err.endswith("count.yaml: times: got 0, expected 1 or more\n")


def test_a_recipe_runs_a_stage_of_a_plug_in(plugin, capsys):
    stages = [
        {"name": "first", "stage": "count", "text": str(plugin / "in.txt")},
        {"name": "second", "stage": "count", "text": "stage:first/n.txt"},
    ]
    (plugin / "recipe.yaml").write_text(yaml.safe_dump({"out": str(plugin / "out"), "stages": stages}))
    assert main(["train", str(plugin / "recipe.yaml"), "second.times=0"]) == 2
    assert "stage 'second': times: got 0" in capsys.readouterr().err and not (plugin / "out").exists()
    assert main(["train", str(plugin / "recipe.yaml")]) == 0
    assert (plugin / "out" / "second" / "counts" / "n.txt").read_text() == "1"
    assert main(["train", str(plugin / "recipe.yaml"), "--dry-run"]) == 0
    assert capsys.readouterr().out.count(": finished") == 2


def test_a_stage_without_estimate_says_so(tmp_path, capsys):
    values = {"stage": "compose", "out": str(tmp_path / "run"), "n_train": 1}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(values))
    assert main(["train", str(tmp_path / "c.yaml"), "--dry-run"]) == 2
    assert "stage 'compose' has no dry run" in capsys.readouterr().err.replace("stage: ", "stage ")


@pytest.mark.parametrize("stage", ["compose", "select"])
def test_only_the_main_process_prepares(stage, tmp_path, monkeypatch):
    """The others wait in `on_main`, whose barrier and exchange one process stands in for here."""
    made = tmp_path / "run" / STAGES.get(stage).artifact
    made.mkdir(parents=True)
    (made / "whole").write_text("what the main process wrote")
    monkeypatch.setattr(processes, "barrier", lambda: None)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    values = {"data": str(tmp_path / "in.jsonl"), "kinds": ["caption"]} if stage == "select" else {}
    (tmp_path / "in.jsonl").write_text("{}")
    run_stage(parse_stage({"stage": stage, "out": str(tmp_path / "run"), **values}, "a config"))
    assert [path.name for path in (tmp_path / "run").rglob("*")] == [made.name, "whole"]


def test_every_process_trains():
    together = {name for name in STAGES.names() if STAGES.get(name).every_process}
    assert together == {*training_stages(), "text_llm"}


@pytest.mark.parametrize(
    ("on_nan", "deepspeed", "accumulation", "refused"),
    [
        ("skip", "zero.json", 2, True), ("skip", "zero.json", 1, False),
        ("skip", None, 2, False), ("stop", "zero.json", 2, False),
    ],
)  # fmt: skip
def test_skipping_a_step_of_several_micro_batches_is_refused_with_deepspeed_alone(
    on_nan, deepspeed, accumulation, refused
):
    values = {"stage": "align", "out": "x", "encoder": "logmel", "llm": "x", "data": {"train": ["a.jsonl"]}}
    values |= {"run": {"on_nan": on_nan, "deepspeed": deepspeed}, "optim": {"accumulation": accumulation}}
    if refused:
        with pytest.raises(ConfigError, match=r"run.on_nan: DeepSpeed .* use stop, or optim.accumulation=1"):
            parse_settings(TrainSettings, values)
    else:
        assert parse_settings(TrainSettings, values).run.on_nan == on_nan


@pytest.mark.parametrize(
    "text", ["{", "[]", "7", "[" * 100_000, '{"zero_optimization": 3}', '{"a": 1, "a": 2}']
)
def test_a_broken_deepspeed_config_is_named(text, tmp_path):
    (tmp_path / "zero.json").write_text(text)
    data = {"train": ["a.jsonl"]}
    values = {"stage": "align", "out": "x", "encoder": "logmel", "llm": "x", "data": data}
    values["run"] = {"deepspeed": str(tmp_path / "zero.json")}
    with pytest.raises(ConfigError, match="^run.deepspeed: .*zero.json.*see configs/deepspeed$"):
        zero_stage(parse_settings(TrainSettings, values))
