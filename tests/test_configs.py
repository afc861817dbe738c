"""Every shipped config is read by the code it is for."""

import json
from pathlib import Path

import pytest
import yaml

from alm.settings import load_settings
from train.quickstart import load_quickstart, stage_settings
from train.settings import STAGES, TrainSettings

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = sorted(CONFIGS.rglob("*.yaml"))
STAGE_YAMLS = [path for path in YAMLS if path.parent.name in STAGES]


def test_there_is_a_test_for_every_folder():
    folders = {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.*") if path.is_file()}
    assert folders == {".", "deepspeed", "eval", *STAGES}
    assert {path.name for path in CONFIGS.glob("*.yaml")} == {"quickstart.yaml", "quickstart-recordings.yaml"}


@pytest.mark.parametrize("path", STAGE_YAMLS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_stage_configs(path):
    settings = load_settings(TrainSettings, path)
    assert settings.stage == path.parent.name
    if settings.run.deepspeed:
        assert (CONFIGS.parent / settings.run.deepspeed).is_file()


@pytest.mark.parametrize("data", [None, "labels.csv"])
def test_quickstart_configs(data, tmp_path):
    settings = load_quickstart(data, 3, ["instruct.optim.steps=7", "llm=some/model"])
    assert settings.seed == settings.compose.seed == 3 and settings.llm == "some/model"
    assert (settings.compose.labels_csv is None) == (data is None)
    stages = [stage_settings(settings, tmp_path, stage, "in", "in") for stage in STAGES]
    assert [stage.stage for stage in stages] == list(STAGES) and stages[2].optim.steps == 7


@pytest.mark.parametrize("path", sorted((CONFIGS / "eval").glob("*.yaml")), ids=lambda p: p.stem)
def test_benchmark_configs(path):
    from eval.benchmarks import list_benchmarks

    assert yaml.safe_load(path.read_text())["benchmark"] in list_benchmarks()


@pytest.mark.parametrize("path", sorted((CONFIGS / "deepspeed").glob("*.json")), ids=lambda p: p.stem)
def test_deepspeed_configs(path):
    assert json.loads(path.read_text())["zero_optimization"]["stage"] == int(path.stem.removeprefix("zero"))
