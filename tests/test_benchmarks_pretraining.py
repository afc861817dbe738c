"""The comparison of pretrained with untrained encoders, on a handful of generated clips."""

import csv
import json

import numpy as np
import pytest
import torch

from benchmarks.pretraining import Bench, Held, advantage, main, over_seeds, percent, pretrained, released
from encoders.audio import save_wav
from eval.scoring.stats import Interval

CLASSES = ("high", "low")


def write_set(folder, column, parts):
    """Two clips per class and part."""
    (folder / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "meta.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["filename", "category", column])
        for part in parts:
            for pitch, kind in ((1500, "high"), (300, "low")):
                for take in range(2):
                    wave = np.sin(np.arange(4000) * 2 * np.pi * pitch / 8000) * 0.3
                    wave += rng.normal(0, 0.02, 4000)
                    name = f"{part}-{kind}-{take}.wav"
                    save_wav(folder / "audio" / name, wave.astype(np.float32), 8000)
                    table.writerow([name, kind, part])
    return folder


@pytest.fixture
def sets(tmp_path):
    return write_set(tmp_path / "esc", "fold", "1234"), write_set(
        tmp_path / "fsdd", "speaker", ("ann", "ben", "cy")
    )


def test_the_whole_comparison_and_its_reuse(sets, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # this process has other tests to run
    esc, fsdd = sets
    command = ["--esc10", str(esc), "--fsdd", str(fsdd), "--speaker", "cy", "--seeds", "1", "--quick"]
    main([*command, "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "PRETRAINING.md").read_text()
    for arm in (
        "official",
        "unstructured",
        "waveform, equal steps",
        "waveform, equal time",
        "released, equal time",
        "Quick mode",
    ):
        assert arm in text
    assert "speaker cy held out" in text and text.count("log-mel logistic regression") == 2
    tables = sorted((tmp_path / "out").glob("pretrain-*.jsonl"))
    heard = [json.loads(line)["id"] for table in tables for line in table.read_text().splitlines()]
    assert len(heard) == 12 + 8 and not any("/4-" in name or "/cy-" in name for name in heard)
    cost = json.loads((tmp_path / "out" / "pretrained" / "seed-0" / "cost.json").read_text())
    assert cost["steps"] == 2 and cost["seconds"] > 0
    assert "--seeds 1 --out DIR`." in text
    capsys.readouterr()
    main([*command, "--out", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert said.count("already done, reused") == 10 + 2 * (2 + 2 + 9)
    main([*command, "--out", str(tmp_path / "out"), "--steps", "2", "--parts", "released"])
    said = capsys.readouterr().out
    assert "--out DIR --steps 2 --parts released`." in said
    assert "The released recipe in equal CPU time" in said and "Masks and augmentation" not in said


def test_pretrained_and_untrained_have_the_same_shape(sets, tmp_path):
    esc, _ = sets
    bench = Bench([Held("ESC-10", esc / "meta.csv", "fold", "4")], tmp_path / "out", {})
    untrained = next(arm for arm in pretrained(5) if not arm.steps)
    name, options = bench.encoder(untrained, 0)
    assert name == "encoder=audiomosaic" and "spec_size" in options


def test_an_arm_takes_as_long_as_another(sets, tmp_path):
    """Ten steps took 5 s and four of the slower recipe 8 s: it gets 2.5, rounded, of the 5 s."""
    esc, _ = sets
    bench = Bench([Held("ESC-10", esc / "meta.csv", "fold", "4")], tmp_path / "out",
                  {"pretrain": ("optim.batch_size=4", "optim.warmup_steps=1")})  # fmt: skip
    for name, steps, seconds in (("pretrained", 10, 5.0), ("released-timing", 4, 8.0)):
        folder = tmp_path / "out" / name / "seed-0"
        folder.mkdir(parents=True)
        (folder / "cost.json").write_text(json.dumps({"steps": steps, "seconds": seconds}))
    equal = released(10, 4)[1]
    bench.encoder(equal, 0)
    folder = tmp_path / "out" / "released-equal-time" / "seed-0"
    assert json.loads((folder / "cost.json").read_text())["steps"] == 2
    config = (folder / "pretrain" / "config.yaml").read_text()
    assert "mask_layout: official" in config and "lr: 0.0006" in config and "augment: waveform" in config


def test_figures_average_over_seeds():
    right = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], dtype=float)
    other = np.array([[0, 0, 0, 0]], dtype=float)
    groups = ["a", "b", "c", "d"]
    assert over_seeds(right, groups).value == pytest.approx(3 / 8)
    assert over_seeds(right, groups).n_clips == 4
    better = advantage(right, other, groups)
    assert better.value == pytest.approx(3 / 8) and better.low < 3 / 8 < better.high
    assert percent(Interval(0.5, 0.25, 0.75, 4, 4), signed=True) == "+50.0 [+25.0, +75.0]"
