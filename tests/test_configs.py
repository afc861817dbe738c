"""Every shipped config is read by the code it is for."""

import json
from pathlib import Path

import pytest
import yaml

from alm.common.settings import load_settings, parse_settings
from train.quickstart.workflow import QUICKSTART_STAGES, load_quickstart, stage_settings
from train.settings import TrainSettings
from train.stages.training import training_stages

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = sorted(CONFIGS.rglob("*.yaml"))
STAGE_YAMLS = [path for path in YAMLS if path.parent.name in training_stages()]


def test_there_is_a_test_for_every_folder():
    folders = {path.parent.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.*") if path.is_file()}
    assert folders == {".", "ablation", "deepspeed", "eval", "recipes", "slurm", *training_stages()}
    assert {path.name for path in CONFIGS.glob("*.yaml")} == {
        f"quickstart{kind}.yaml" for kind in ("", "-recordings", "-labelled")
    }


@pytest.mark.parametrize("path", STAGE_YAMLS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_stage_configs(path):
    settings = load_settings(TrainSettings, path)
    assert settings.stage == path.parent.name
    if settings.data.dataset:
        from train.finetune.datasets import dataset_class

        parse_settings(dataset_class(settings.data.dataset), settings.data.dataset_options)
    if settings.run.deepspeed:
        assert (CONFIGS.parent / settings.run.deepspeed).is_file()


@pytest.mark.parametrize("path", sorted((CONFIGS / "pretrain").glob("*.yaml")), ids=lambda p: p.stem)
def test_pretraining_configs_name_an_encoder_that_can_be_built(path):
    from encoders import encoder_class

    settings = load_settings(TrainSettings, path)
    encoder = encoder_class(settings.encoder)
    config = encoder.config_class().replace(**settings.encoder_options)
    assert config.grid[0] * config.grid[1] > 1 and config.model_class == "AudioMosaicPretrain"
    assert {p.stem for p in path.parent.glob("*.yaml")} == {
        f"audiomosaic-{s}" for s in ("tiny", "small", "base")
    }


def test_the_base_config_is_the_published_run():
    settings = load_settings(TrainSettings, CONFIGS / "pretrain" / "audiomosaic-base.yaml")
    optim, contrastive = settings.optim, settings.contrastive
    assert int(12 * settings.run.checkpoint_fraction) == 8
    assert optim.steps == 400 * 2_000_000 // (12 * optim.batch_size)
    assert optim.lr * optim.min_lr_ratio == pytest.approx(1e-6, rel=1e-3)
    assert optim.warmup_steps == round(2_000_000 / 6144)
    assert (contrastive.time_ratio, contrastive.freq_ratio, contrastive.temperature) == (0.6, 0.4, 0.1)
    views = contrastive.views
    chances = (
        views.polarity_p, views.time_stretch_p, views.noise_p, views.gain_p, views.high_pass_p,
        views.band_stop_p, views.pitch_p,
    )  # fmt: skip
    assert chances == (0.5, 0.7, 0.5, 0.3, 0.3, 0.5, 0.6)


@pytest.mark.parametrize("data", [None, "labels.csv"])
def test_quickstart_configs(data, tmp_path):
    settings = load_quickstart(data, 3, ["instruct.optim.steps=7", "llm=some/model"])
    assert settings.seed == settings.compose.seed == 3 and settings.llm == "some/model"
    assert (settings.compose.labels_csv is None) == (data is None)
    stages = [stage_settings(settings, tmp_path, stage, "in", "in") for stage in QUICKSTART_STAGES]
    assert [stage.stage for stage in stages] == list(QUICKSTART_STAGES) and stages[2].optim.steps == 7


@pytest.mark.parametrize("path", sorted((CONFIGS / "eval").glob("*.yaml")), ids=lambda p: p.stem)
def test_benchmark_configs(path):
    from eval.benchmarks import BENCHMARKS

    assert yaml.safe_load(path.read_text())["benchmark"] in BENCHMARKS.names()


@pytest.mark.parametrize("path", sorted((CONFIGS / "deepspeed").glob("*.json")), ids=lambda p: p.stem)
def test_deepspeed_configs(path):
    assert json.loads(path.read_text())["zero_optimization"]["stage"] == int(path.stem.removeprefix("zero"))
