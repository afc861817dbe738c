"""A loss and a mask layout are one file each: in a plug-in folder, they pretrain an encoder from one YAML."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alm.cli import main
from alm.common.errors import ConfigError
from encoders import load_encoder
from encoders.audio import save_wav
from train.pretrain.losses import LOSSES
from train.pretrain.losses.base import ContrastiveLoss
from train.pretrain.masks import MASK_LAYOUTS
from train.settings import TrainSettings
from train.settings.pretrain import ContrastiveSettings
from train.stage import parse_stage

LOSS = """
from torch import nn, tensor

from train.pretrain.losses.base import ContrastiveLoss


class Distance(ContrastiveLoss):
    def __init__(self, temperature=0.1, chunk_rows=0):
        super().__init__(temperature, chunk_rows)
        self.weight = nn.Parameter(tensor(2.0))

    def forward(self, z0, z1):
        return self.weight * ((z0 - z1) ** 2).mean() / self.temperature

    def metrics(self):
        return {"distance_weight": float(self.weight.detach())}


LOSS = Distance
"""
LAYOUT = """
import torch

SEEN = []


def first_half(noise, grid, ratio, branch):
    SEEN.append((tuple(grid), ratio, branch))
    n = grid[0] * grid[1]
    return torch.arange(n // 2).expand(len(noise(1)), -1)


MASK_LAYOUT = first_half
"""


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "distance.py").write_text(LOSS)
    (folder / "first_half.py").write_text(LAYOUT)
    return folder


def test_a_file_each_and_one_yaml(plugins: Path, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    for i in range(5):
        wave = 0.1 * np.random.default_rng(i).standard_normal(8000)
        save_wav(tmp_path / "clips" / f"{i}.wav", wave.astype(np.float32), 16000)
    config = {
        "stage": "pretrain",
        "out": str(tmp_path / "run"),
        "encoder": "audiomosaic",
        "encoder_options": {"spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 1,
                            "num_heads": 2, "project_embedding_dim": 16},
        "data": {"train": [str(tmp_path / "clips")]},
        "optim": {"steps": 2, "batch_size": 4, "warmup_steps": 0},
        "run": {"log_every": 1},
        "contrastive": {"loss": "distance", "mask_layout": "first_half", "temperature": 0.5},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    assert main(["--plugins", str(plugins), "train", str(tmp_path / "run.yaml")]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    weights = [line["distance_weight"] for line in lines if "loss" in line]
    assert (
        len(weights) == 2 and weights[0] > weights[1] and 1.9 < weights[1] < 2
    )  # the loss's own parameter trains
    assert isinstance(load_encoder(tmp_path / "run" / "encoder"), torch.nn.Module)


def test_the_layout_gets_both_branches_and_their_ratios(
    plugins: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALM_PLUGINS", str(plugins))
    from test_train_contrastive import batch, build

    model = build(mask_layout="first_half", time_ratio=0.7, freq_ratio=0.2)
    model(**batch())
    seen = MASK_LAYOUTS.get("first_half").__globals__["SEEN"]
    assert seen[-2:] == [((8, 2), 0.7, "time"), ((8, 2), 0.2, "freq")]


def test_choices_are_what_is_found(plugins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LOSSES.names() == ["nt_xent", "siglip"]
    assert MASK_LAYOUTS.names() == ["freq", "official", "time", "time_frequency", "unstructured"]
    for name in LOSSES.names():
        assert issubclass(LOSSES.get(name), ContrastiveLoss)

    def parse(**contrastive: str) -> ContrastiveSettings:
        config = {"stage": "pretrain", "out": "run", "encoder": "audiomosaic", "data": {"train": ["clips"]}}
        settings = parse_stage(config | {"contrastive": contrastive}, "config")
        assert isinstance(settings, TrainSettings)
        return settings.contrastive

    with pytest.raises(
        ConfigError, match="contrastive.loss: got 'distance', expected one of nt_xent, siglip"
    ):
        parse(loss="distance")
    monkeypatch.setenv("ALM_PLUGINS", str(plugins))
    assert parse(loss="distance", mask_layout="first_half").loss == "distance"
    (plugins / "nt_xent.py").write_text(LOSS)
    with pytest.raises(ConfigError, match="contrastive loss 'nt_xent' is in .*rename one"):
        parse()
