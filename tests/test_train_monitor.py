"""Figures of collapse, and the split and scores of the online probe."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from alm.common.errors import ConfigError, ManifestError
from encoders import AudioTokens, encoder_class
from encoders.audio import save_wav
from train.pretrain.monitor import agreement, collapse_warning, spread
from train.pretrain.online_probe import OnlineProbe, pool_tokens
from train.settings.pretrain import ProbeSettings

GENERATOR = torch.Generator().manual_seed(0)
CLIPS = torch.randn(64, 32, generator=GENERATOR)
MASKS = 0.1 * torch.randn(2, 64, 32, generator=GENERATOR)
FAR = torch.full((32,), 3.0)


def metrics_of(first: torch.Tensor, second: torch.Tensor) -> dict[str, float]:
    figures = {f"pooled_{key}": value for key, value in spread(first).items()}
    return figures | {"view_agreement": agreement(first, second)}


def test_spread_of_known_shapes() -> None:
    even = spread(torch.randn(500, 16, generator=GENERATOR))
    assert even["std"] == pytest.approx(1, abs=0.05) and 15 < even["effective_rank"] <= 16
    plane = torch.randn(500, 2, generator=GENERATOR) @ torch.linalg.qr(torch.randn(16, 2))[0].T
    assert spread(plane)["effective_rank"] == pytest.approx(2, abs=0.05)
    assert spread(torch.ones(8, 4))["std"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "collapsed"),
    [
        (CLIPS + MASKS[0], CLIPS + MASKS[1], False),
        (FAR + CLIPS + MASKS[0], FAR + CLIPS + MASKS[1], False),
        (FAR + MASKS[0], FAR + MASKS[1], True),  # only the masks move it
        (FAR + 1e-4 * CLIPS, FAR + 1e-4 * CLIPS, True),  # one point
        (CLIPS[:, :1] * FAR, CLIPS[:, :1] * FAR, True),  # one line
    ],
)
def test_collapse_is_told_from_health(first: torch.Tensor, second: torch.Tensor, collapsed: bool) -> None:
    said = collapse_warning(metrics_of(first, second), len(first))
    assert (said is not None) == collapsed
    assert said is None or "optim.lr" in said
    assert collapse_warning({}, 64) is None and collapse_warning(metrics_of(first, second), 15) is None


@pytest.mark.parametrize(
    ("std", "rank", "agreement", "collapsed"),
    [
        (0.5, 25.0, 0.06, False),  # 64 clips of rank 25: chance is below 2 / sqrt(1600) = 0.05
        (0.5, 25.0, 0.04, True),
        (0.5, 1.6, 0.19, True),  # at rank 1.6 it is below 0.198
        (0.009, 25.0, 0.9, True),
        (0.5, 1.4, 0.9, True),
    ],
)
def test_each_metric_alone_tells_of_a_collapse(
    std: float, rank: float, agreement: float, collapsed: bool
) -> None:
    metrics = {"pooled_std": std, "pooled_effective_rank": rank, "view_agreement": agreement}
    assert (collapse_warning(metrics, 64) is not None) == collapsed


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three recordings per kind and fold; one recording has takes in both folds."""
    root = tmp_path_factory.mktemp("probe")
    rows = []
    for fold in (1, 2):
        for kind, hz in (("low", 200), ("high", 3000)):
            for take in range(3):
                recording = 5 if kind == "low" and take == 0 else 100 * fold + hz + take
                name = f"{fold}-{recording}-{'AB'[fold - 1]}-0.wav"
                wave = 0.2 * np.sin(np.arange(8000) * 2 * np.pi * (hz + 10 * take + fold) / 16000)
                save_wav(root / name, wave.astype(np.float32), 16000)
                rows.append({"filename": name, "fold": fold, "category": kind})
    with (root / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "meta.csv"


def test_probe_splits_by_fold_and_recording(table: Path) -> None:
    probe = OnlineProbe(ProbeSettings(str(table), test_folds=("2",)), 16000)
    assert probe.n_fitted == 5 and len(probe.labels) == 11  # the take of recording 5 in fold 1 is left out
    with pytest.raises(ManifestError, match="no clips in fold '7'"):
        OnlineProbe(ProbeSettings(str(table), test_folds=("7",)), 16000)
    with pytest.raises(ConfigError, match=r"contrastive.probe.every: got 0"):
        ProbeSettings(str(table), every=0)


def test_probe_scores_and_leaves_the_encoder_as_it_was(table: Path) -> None:
    encoder = encoder_class("audiomosaic").tiny().train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    probe = OnlineProbe(ProbeSettings(str(table)), 16000)
    scores = probe.score(encoder, torch.device("cpu"))
    assert scores == probe.score(encoder, torch.device("cpu")) and encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert scores["probe_chance"] == 0.5 and scores["probe_linear_bands"] == scores["probe_knn_bands"] == 1.0
    probe.labels[: probe.n_fitted] = np.roll(
        probe.labels[: probe.n_fitted], 1
    )  # wrong lessons, wrong answers
    assert probe.score(encoder, torch.device("cpu"))["probe_linear_bands"] < 1.0


def test_tokens_are_pooled_over_real_ones_alone() -> None:
    tokens = torch.randn(2, 6, 3, generator=GENERATOR)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])  # 3 time steps of 2 frequencies; 2 of them
    pooled, bands = pool_tokens(AudioTokens(tokens, mask, (3, 2)))
    assert torch.allclose(pooled[1], tokens[1, :4].mean(dim=0), atol=1e-6)
    short = tokens[1, :4].unflatten(0, (2, 2))  # (T, F, D)
    assert torch.allclose(
        bands[1], torch.cat([short.mean(dim=0), short.std(dim=0, correction=0)]).flatten(), atol=1e-6
    )
