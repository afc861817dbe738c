"""Configs by name, commented configs to start from, and what is generated from the dataclasses that parse them."""

import dataclasses
import json
import typing
from pathlib import Path

import pytest
import yaml

from alm.cli import main
from alm.commands.init import KINDS as INIT_KINDS
from alm.commands.init import starting_config
from alm.common.errors import ConfigError
from alm.common.settings import parse_settings, read_yaml, recorded_limits
from alm.configs.keys import REQUIRED, config_keys
from alm.configs.shipped import CONFIGS, find_config, find_deepspeed, shipped_configs, summary_of
from eval.ablation.settings import AblationSettings, load_ablation
from eval.runner.settings import EvalSettings
from train.config_kinds import KINDS, kind_of
from train.pipeline.recipe import RecipeEvaluation
from train.quickstart.workflow import QuickstartSettings
from train.settings import OptimSettings, RunSettings, TrainSettings
from train.settings.data import DataSettings
from train.settings.pretrain import ContrastiveSettings
from train.stage import STAGES
from train.stages.training import stages_of_key, zero_stage

CLASSES = [
    *dict.fromkeys(STAGES.get(name).settings for name in STAGES.names()),
    EvalSettings, AblationSettings, QuickstartSettings, RecipeEvaluation,
]  # fmt: skip


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """A working directory that is not the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    "given",
    [
        "recipes/ltu-tiny",
        "recipes/ltu-tiny.yaml",
        "configs/recipes/ltu-tiny.yaml",
        "./configs/recipes/ltu-tiny.yaml",
        "ltu-tiny",
    ],
)
def test_a_shipped_config_is_found_from_anywhere(given):
    assert find_config(given, ("recipes", "align")) == CONFIGS / "recipes" / "ltu-tiny.yaml"


def test_a_file_of_the_user_comes_first(tmp_path):
    mine = tmp_path / "recipes" / "ltu-tiny.yaml"
    mine.parent.mkdir()
    mine.write_text("out: mine\n")
    for given in ("recipes/ltu-tiny.yaml", "recipes/ltu-tiny"):
        assert read_yaml(find_config(given)) == {"out": "mine"}
    (tmp_path / "align").mkdir()  # a folder hides nothing
    assert find_config("align/audiomosaic-qwen2.5-0.5b").is_relative_to(CONFIGS)


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("recipes/ltu-tin", "did you mean recipes/ltu-tiny?"),
        ("esc5O", "did you mean finetune/esc50?"),
        ("configs/eval/clothoaq.yaml", "did you mean eval/clothoaqa?"),
        (
            "audiomosaic-qwen2.5-0.5b",
            "give align/audiomosaic-qwen2.5-0.5b or instruct/audiomosaic-qwen2.5-0.5b or",
        ),
        ("zzzzzzzz", "alm config list names the shipped ones"),
    ],
)
def test_a_wrong_name_gets_the_nearest(given, hint):
    with pytest.raises(ConfigError, match=r"^[^\n]*" + hint.replace("?", r"\?")):
        find_config(given)


def test_a_wrong_name_of_an_own_file_gets_the_nearest_file(tmp_path):
    (tmp_path / "mine").mkdir()
    for name in ("align.yaml", "mine/align.yaml"):
        (tmp_path / name).write_text("out: mine\n")
    for given, near in (("algin.yaml", "align.yaml"), ("mine/alignn.yaml", "mine/align.yaml")):
        with pytest.raises(ConfigError, match=f"^{given}: no such config file; did you mean {near}"):
            find_config(given)
    with pytest.raises(ConfigError, match="config list names the shipped ones"):
        find_config("nothing/zzzz.yaml")


def test_deepspeed_configs_are_found_too(tmp_path):
    settings = RunSettings(deepspeed="configs/deepspeed/zero2.json")
    assert settings.deepspeed_file == str(CONFIGS / "deepspeed" / "zero2.json")
    stage = TrainSettings(
        stage="finetune", out="o", encoder="audiomosaic", run=settings, data=DataSettings(train=("a.csv",))
    )
    assert zero_stage(stage) == 2 and settings.deepspeed == "configs/deepspeed/zero2.json"
    (tmp_path / "mine.json").write_text("{}")
    assert str(find_deepspeed("mine.json")) == "mine.json"
    with pytest.raises(
        ConfigError,
        match="^run.deepspeed: zero4.json: no such .*; did you mean deepspeed/",
    ):
        zero_stage(dataclasses.replace(stage, run=RunSettings(deepspeed="zero4.json")))


def test_an_ablation_extends_a_shipped_one_from_anywhere(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: configs/ablation/tiny.yaml\nout: mine\nseeds: [7]\n")
    settings = load_ablation(mine, [], None)
    assert settings.out == "mine" and settings.seeds == (7,) and settings.ceiling == "oracle"
    assert load_ablation("encoders-tiny", [], None).out == "ablations/encoders-tiny"


def test_commands_take_names(capsys):
    assert main(["config", "list", "recipes"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in shipped_configs() if name.startswith("recipes/"))
    assert (
        main(["config", "list", "nonsense"]) == 2
        and "expected one of ablation, align" in capsys.readouterr().err
    )
    assert (
        main(["train", "recipes/ltu-tin"]) == 2
        and "did you mean recipes/ltu-tiny?" in capsys.readouterr().err
    )
    assert main(["ablate", "encoders-tinny", "--dry-run"]) == 2
    assert "did you mean ablation/encoders-tiny?" in capsys.readouterr().err
    assert main(["eval", "mmaux", "--model", "m"]) == 2 and "did you mean mmau?" in capsys.readouterr().err


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_says_what_it_is_for_and_can_be_shown(name):
    path = shipped_configs()[name]
    assert len(summary_of(path)) > 10
    kind = kind_of(path)
    values = kind.resolve(path, ())
    assert yaml.safe_load(yaml.safe_dump(values)) == values


def test_show_fills_in_defaults_and_overrides(capsys):
    assert main(["config", "show", "recipes/ltu-tiny", "stage3.optim.lr=2e-4"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    stage3 = next(stage for stage in shown["stages"] if stage["name"] == "stage3")
    assert stage3["optim"]["lr"] == 2e-4 and stage3["optim"]["beta2"] == OptimSettings().beta2
    assert stage3["data"]["group_by_length"] is True  # of the recipe's defaults
    assert main(["config", "show", "recipes/ltu-tiny", "--raw"]) == 0
    assert capsys.readouterr().out == (CONFIGS / "recipes" / "ltu-tiny.yaml").read_text()


def test_a_resolved_stage_is_a_config_again(tmp_path, capsys):
    assert main(["config", "show", "align/audiomosaic-qwen2.5-0.5b", "optim.steps=7"]) == 0
    text = capsys.readouterr().out
    again = parse_settings(TrainSettings, yaml.safe_load(text))
    assert again.optim.steps == 7 and again.data.workers == 8


def test_check_names_every_wrong_config(tmp_path, capsys):
    (tmp_path / "good.yaml").write_text("stage: align\nout: o\nmodel: m\ndata: {train: [a.jsonl]}\n")
    (tmp_path / "bad.yaml").write_text(
        "stage: align\nout: o\nmodel: m\ndata: {train: [a.jsonl]}\noptim: {step: 3}\n"
    )
    (tmp_path / "worse.yaml").write_text("benchmark: mmao\ndata: d\n")
    (tmp_path / "none.yaml").write_text("a: 1\n")
    assert main(["config", "check", "good.yaml"]) == 0
    assert capsys.readouterr().out == "good.yaml: valid (stage, alm train)\n"
    assert main(["config", "check", "good.yaml", "bad.yaml", "worse.yaml", "none.yaml"]) == 1
    out = capsys.readouterr()
    assert out.out.count("valid") == 1
    starts = (
        "error: bad.yaml: unknown key",
        "error: unknown benchmark 'mmao'",
        "error: none.yaml: not recognised",
    )
    assert len(out.err.splitlines()) == 3
    assert all(line.startswith(start) for line, start in zip(out.err.splitlines(), starts, strict=True))
    assert "did you mean 'optim.steps'?" in out.err


def test_init_makes_the_folder_of_its_config(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["init", "eval", "--out", "configs/mine/eval.yaml"]) == 0
    assert main(["config", "check", "configs/mine/eval.yaml"]) == 0
    Path("file").write_text("")
    assert main(["init", "eval", "--out", "file/eval.yaml"]) == 2
    assert "error: file: cannot be made" in capsys.readouterr().err


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("kind", INIT_KINDS)
def test_what_init_writes_is_a_valid_config(kind, whole, tmp_path, capsys):
    assert main(["init", kind, *(["--all"] if whole else [])]) == 0
    path = tmp_path / f"{kind}.yaml"
    assert f"wrote {kind}.yaml" in capsys.readouterr().out
    assert main(["config", "check", path.name]) == 0
    text = path.read_text()
    assert text == starting_config(kind, whole) and max(map(len, text.splitlines())) < 130
    lines = [line.strip() for line in text.splitlines()]
    assert all(line and not line.startswith("# .") for line in lines) and lines[0].startswith("# alm ")
    assert main(["init", kind]) == 2  # nothing is overwritten
    assert "exists already" in capsys.readouterr().err and path.read_text() == text
    path.write_text("older\n")
    assert main(["init", kind, "--force", *(["--all"] if whole else [])]) == 0 and path.read_text() == text
    if whole and kind in STAGES.names():
        written = kind_of(path).resolve(path, ())
        own = {
            key.name
            for key in config_keys(TrainSettings)
            if kind in stages_of_key(key.name) and not key.section and ".mixture." not in key.name
        }
        assert {name for name in own if f"{name.rpartition('.')[2]}:" not in text} == set()
        assert written["run"]["seed"] == 0


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_key_says_what_it_means(cls):
    keys = list(config_keys(cls))
    assert [key.name for key in keys if len(key.text) < 5] == []
    assert {key.name for key in keys if "." not in key.name} == {
        field.name for field in dataclasses.fields(cls)
    }


def test_ranges_are_those_that_are_enforced():
    keys = {key.name: key for key in config_keys(TrainSettings)}
    assert keys["optim.batch_size"].allowed == "1 or more" and keys["optim.min_lr_ratio"].allowed == "0 to 1"
    assert keys["run.precision"].choices == ("fp32", "bf16", "fp16") and keys["policy.projector"].choices == (
        "frozen",
        "train",
    )
    assert keys["stage"].default is REQUIRED and keys["optim.lr"].default == 1e-3
    assert keys["contrastive.views.noise_snr_db"].type == "list of 2: number, number"
    for cls in (OptimSettings, RunSettings, ContrastiveSettings):
        hints = typing.get_type_hints(cls)
        for name, (low, high) in recorded_limits(cls).ranges.items():
            step = 1 if hints[name] is int else 1e-6
            for limit, beyond in ((low, -step), (high, step)):
                if (
                    limit is not None and name != "seed"
                ):  # checked for all configs, before the section's own checks
                    with pytest.raises(ConfigError, match=f"{name}: got .*, expected"):
                        parse_settings(cls, {name: limit + beyond})


def test_stages_of_a_key_are_those_that_take_it():
    assert stages_of_key("run.compile") == ("align", "instruct", "pretrain") and stages_of_key(
        "policy.llm_lora.r"
    ) == (
        "align",
        "instruct",
    )
    assert set(stages_of_key("optim.lr")) == {"align", "finetune", "instruct", "pretrain"}


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_accept_shipped_configs_and_refuse_wrong_ones(kind, capsys):
    jsonschema = pytest.importorskip("jsonschema")
    assert main(["config", "schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(schema)
    check = jsonschema.Draft202012Validator(schema)
    paths = [path for path in shipped_configs().values() if kind_of(path).name == kind]
    assert paths
    for path in paths:
        values = read_yaml(path)
        assert [error.message for error in check.iter_errors(values)] == [], path
        assert not check.is_valid(values | {"nonsense": 1})
    for values in ({"optim": {"steps": 0}, "out": "o"}, {"stage": "aline", "out": "o"}, {}):
        assert kind != "stage" or not check.is_valid({"stage": "align"} | values)
