"""Fine-tuning piece by piece: seeds, class weights, warm-up, crops, draws and heads, by hand."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from alm.common.settings import parse_settings
from encoders import AudioMosaicEncoder, load_encoder
from eval.scoring.stats import mean_interval
from train.finetune import stage
from train.finetune.augment import _noisy
from train.finetune.datasets import LabelledClip, LabelledData
from train.finetune.heads import build_head
from train.finetune.inputs import DrawnClips, LabelledAudio, _batches
from train.finetune.optim import BestEpoch
from train.finetune.scores import _detected, report
from train.finetune.splits import choose_split, read_data
from train.settings import TrainSettings
from train.settings.finetune import AugmentSettings, FinetuneSettings

TINY = {"spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Three classes, whose order is the user's, four clips of each in two folds."""
    folder = tmp_path_factory.mktemp("clips")
    rng, rows = np.random.default_rng(0), ["filename,category,fold"]
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", (0.1 * rng.standard_normal(6000)).astype(np.float32), 16000)
        rows.append(f"{number}.wav,{('low', 'middle', 'high')[number % 3]},{number // 6 + 1}")
    (folder / "meta.csv").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("middle\nlow\nhigh\n")
    return folder / "meta.csv"


def settings_of(table, out="unused", seed=0, encoder="audiomosaic", options=TINY, optim=None, **finetune):
    data = {
        "train": [str(table)],
        "folds": {"test": 2},
        "dataset_options": {"classes": str(table.parent / "classes.txt")},
    }
    return parse_settings(
        TrainSettings,
        {"stage": "finetune", "out": str(out), "encoder": encoder, "encoder_options": options, "data": data,
         "run": {"seed": seed}, "optim": {"batch_size": 4, "warmup_steps": 2, **(optim or {})},
         "finetune": {"mode": "linear", "epochs": 2, "baseline": False, **finetune}},
    )  # fmt: skip


def clip(name):
    return LabelledClip(name, None, ("a",), f"t.csv:{name}", name)


def weights_of(encoder):
    return torch.cat([parameter.detach().flatten() for parameter in encoder.parameters()])


def test_the_seed_draws_an_untrained_encoder_and_another_one_for_the_control(table, tmp_path, monkeypatch):
    state = torch.random.get_rng_state()
    first, again, other = (weights_of(stage._load(settings_of(table, seed=seed))) for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)
    seen = []

    def train(settings, split, encoder, folder):
        seen.append(weights_of(encoder))
        right = np.eye(3)[split.targets(split.test).argmax(dim=1)]
        return right, {"validation": 1.0, "best_epoch": 1}, SimpleNamespace(head=None)

    monkeypatch.setattr(stage, "_train", train)
    monkeypatch.setattr(stage, "_save", lambda *_: None)
    stage.finetune(settings_of(table, controls=True), tmp_path)
    assert torch.equal(seen[0], first) and not torch.equal(seen[1], first)
    stage.finetune(settings_of(table, controls=True, seed=1), tmp_path)
    assert torch.equal(seen[2], other) and not torch.equal(seen[3], seen[1])


def test_weights_belong_to_the_classes_of_their_names(table, tmp_path, monkeypatch):
    class Reached(Exception):
        pass

    def fit(loop, model, *_, **__):
        raise Reached(model.class_weights)

    monkeypatch.setattr(stage, "fit", fit)
    settings = settings_of(table, class_weights={"low": 5.0})
    split = choose_split(read_data(settings.data), settings)
    with pytest.raises(Reached) as reached:
        stage._train(settings, split, stage._load(settings), tmp_path)
    assert split.data.classes == ("middle", "low", "high")
    assert reached.value.args[0].tolist() == [1.0, 5.0, 1.0]


def test_warm_up_takes_a_tenth_of_a_short_run_at_most(table):
    """Of 20 clips in batches of 4: two epochs have 10 steps, ten have 50."""
    for epochs, warmup in ((2, 1), (10, 2)):
        optim = stage._scheduled(settings_of(table, epochs=epochs), 20).optim
        assert (optim.steps, optim.warmup_steps) == (5 * epochs, warmup)
    optim = stage._scheduled(settings_of(table, epochs=10, warmup_epochs=0.5), 20).optim
    assert optim.warmup_steps == 2  # half of five is rounded to an even number


def test_a_classifier_remembers_the_options_of_its_encoder(table, tmp_path):
    AudioMosaicEncoder.tiny().save_pretrained(tmp_path / "weights")
    settings = settings_of(table, encoder=str(tmp_path / "weights"), options={"layer": 1})
    encoder = load_encoder(settings.encoder, layer=1)
    split = choose_split(read_data(settings.data), settings)
    head = build_head(encoder, settings.finetune, torch.zeros(1, 32), 3)
    stage._save(settings, split, encoder, head, tmp_path / "run")
    described = json.loads((tmp_path / "run" / "classifier" / "classifier.json").read_text())
    assert described["encoder_options"] == {"layer": 1} and not (tmp_path / "run" / "encoder").exists()
    model, classes = stage.load_classifier(tmp_path / "run" / "classifier")
    assert model.encoder.config.layer == "1" and classes == ("middle", "low", "high")


def test_a_single_test_crop_is_the_whole_clip(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(8000, np.float32), 16000)
    audio = LabelledAudio(AudioMosaicEncoder.tiny())
    one = LabelledClip("a", tmp_path / "a.wav", ("a",), "t.csv:1", "a")
    augment = AugmentSettings(crop_s=0.2)
    sizes = [
        [len(crop) for crop in audio.crops(one, FinetuneSettings(mode="full", augment=augment, test_crops=n))]
        for n in (1, 2)
    ]
    assert sizes == [[8000], [3200, 3200]]


def test_draws_weigh_clips_by_their_classes_and_batches_count_crops():
    targets = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    rows = DrawnClips([clip(str(i)) for i in range(4)], targets, FinetuneSettings(mode="full"), 0)
    assert rows.weights.tolist() == pytest.approx([1 / 3, 1 / 3 + 1, 1 / 3, 0], abs=1e-6)
    batches = _batches([clip(str(i)) for i in range(5)], lambda one: [one.id] * 3, 4)
    assert [len(batch) for batch in batches] == [2, 2, 1]  # six crops are enough, three are not


def test_heads_follow_mode_and_options():
    """The head of the last layer begins with the encoder's own norm, that of another layer with a new one."""
    encoder = AudioMosaicEncoder.tiny()
    nn.init.constant_(encoder.fc_norm.weight, 2.0)
    norms = [
        build_head(encoder, FinetuneSettings(mode=mode), torch.zeros(1, 32), 3).norm.weight.tolist()
        for mode in ("linear", "layer:1")
    ]
    assert norms == [[2.0] * 32, [1.0] * 32]
    attentive = build_head(encoder, FinetuneSettings(mode="attentive", queries=4), torch.zeros(1, 8, 32), 3)
    assert attentive.queries.shape == (4, 32)


def test_noise_is_of_any_strength_up_to_a_tenth():
    largest = [float(_noisy(torch.zeros(20, 8), key).max()) for key in range(200)]
    assert min(largest) < 0.02 and 0.09 < max(largest) <= 0.1 and 0.04 < np.mean(largest) < 0.06


def test_absent_classes_are_counted_and_the_last_class_is_detected_where_none_is_named():
    data = LabelledData(("a", "b", "c"), ())
    targets = np.eye(3)[[0, 0, 1, 1]]
    assert report(data, [clip(str(i)) for i in range(4)], targets, targets)["n_absent_classes"] == 1
    assert _detected(data) == slice(2, 3)
    assert _detected(LabelledData(("a", "b"), (), positive="a")) == slice(0, 1)


def test_intervals_resample_recordings_not_the_clips_cut_from_them():
    """Twelve clips of four recordings, each all right or all wrong: as uncertain as four answers."""
    clips = [dataclasses.replace(clip(str(i)), group=f"recording {i // 3}") for i in range(12)]
    targets = np.tile(np.eye(2), (6, 1))
    right = np.repeat([True, False, True, True], 3)
    probabilities = np.where(right[:, None], targets, 1 - targets)
    found = report(LabelledData(("a", "b"), ()), clips, probabilities, targets)
    for metric in ("accuracy", "mean_average_precision"):
        assert (found[metric]["n"], found[metric]["n_clips"]) == (12, 4)
    four = mean_interval([1.0, 0.0, 1.0, 1.0], range(4), proportion=True)
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == pytest.approx((four.low, four.high))


def test_the_last_epoch_is_scored_also_where_it_is_a_part(tmp_path):
    scored = []
    best = BestEpoch(
        nn.Linear(1, 1), lambda: scored.append(1) or (0.5, 1.0), tmp_path / "c", tmp_path / "log"
    )
    args = SimpleNamespace(save_strategy="no")
    for epoch, step in ((1.0, 2), (1.5, 3), (2.5, 5)):
        best.on_epoch_end(args, SimpleNamespace(epoch=epoch, global_step=step, max_steps=5), None)
    assert len(scored) == 2 and best.best["last_epoch"] == 2.5
