# ruff: noqa: E501
"""The transfer stage: splits, heads, augmentation, selection, and whole runs on generated tones."""

import dataclasses
import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from alm.cli import main
from alm.common.errors import AudioError, CheckpointError, ConfigError, Preempted
from alm.common.json_text import read_json
from alm.common.settings import parse_settings
from encoders import AudioMosaicEncoder, encoder_class, load_encoder
from encoders.audio import load_audio, pad_batch
from eval.scoring.logistic import fit_logistic
from train.engine.groups import layer_scales
from train.engine.trainer import StageTrainer
from train.finetune.augment import _noisy, augmentation_key, augmented_clip_features
from train.finetune.datasets import LabelledClip, LabelledData
from train.finetune.folds import run_folds
from train.finetune.heads import AttentiveHead, FinetuneModel, LayerSumHead, build_head, encode
from train.finetune.inputs import DrawnClips, LabelledAudio, WaveformRows, compute_features, mix, predict
from train.finetune.optim import BestEpoch, FinetuneTrainer
from train.finetune.scores import fold_markdown, fold_summary, report, score
from train.finetune.splits import Split, choose_split, read_data
from train.finetune.stage import _regression, _scheduled, load_classifier
from train.pipeline.runner import run_stage
from train.settings import TrainSettings
from train.settings.finetune import AugmentSettings, FinetuneSettings

TONES = {"low": 300.0, "middle": 1000.0, "high": 3000.0}
TINY = {"spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Three kinds of tones, 48 clips in four folds, two takes of every recording."""
    folder = tmp_path_factory.mktemp("tones")
    rng = np.random.default_rng(0)
    rows = ["filename,category,fold,group"]
    for number in range(24):
        kind = list(TONES)[number % 3]
        for take in "ab":
            n_samples = int(rng.integers(7000, 9600))
            wave = 0.3 * np.sin(
                2 * np.pi * TONES[kind] * rng.uniform(0.9, 1.1) * np.arange(n_samples) / 16000
            )
            wave += 0.02 * rng.standard_normal(n_samples)
            soundfile.write(folder / f"{number}{take}.wav", wave.astype(np.float32), 16000)
            rows.append(f"{number}{take}.wav,{kind},{number // 3 % 4 + 1},r{number}")
    (folder / "meta.csv").write_text("\n".join(rows) + "\n")
    return folder / "meta.csv"


def settings_of(table, out="out", **changes):
    values = {
        "stage": "finetune",
        "out": str(out),
        "encoder": "audiomosaic",
        "encoder_options": TINY,
        "data": {"train": [str(table)], "folds": {"test": 4}},
        "optim": {"batch_size": 8, "lr": 0.01, "warmup_steps": 2},
        "finetune": {"mode": "linear", "epochs": 8, "baseline": False},
    }
    for key, value in changes.items():
        section, _, name = key.partition("__")
        if name:
            values[section] = values[section] | {name: value}
        else:
            values[section] = value
    return parse_settings(TrainSettings, values)


def clip(name, label="a", **fields):
    return LabelledClip(name, None, (label,), f"t.csv:{name}", fields.pop("group", name), **fields)


# ---- splits


def several(group, *label_sets):
    """The clips of one recording, each with its own classes."""
    return [
        LabelledClip(f"{group}{i}", None, labels, f"t.csv:{group}{i}", group, split="train")
        for i, labels in enumerate(label_sets)
    ]


def test_recordings_of_several_classes_are_held_out_whatever_the_order_of_their_rows(tones):
    settings = settings_of(tones, data={"train": ["x"]})
    test = [clip(f"t{name}", name, split="test") for name in "ab"]
    # each class is the rarest of one recording, so no class alone can spare one
    rows = [several("x", ("a",), ("c",)), several("y", ("b",), ("a",)), several("z", ("c",), ("b",), ("c",))]
    splits = []
    for order in itertools.permutations(sum(rows, [])):
        data = LabelledData(("a", "b", "c"), (*order, *test))
        split = choose_split(data, settings)
        assert {label for clip in split.train for label in clip.labels} == {"a", "b", "c"}
        splits.append({clip.group for clip in split.validation})
    assert all(groups == splits[0] for groups in splits) and splits[0]


def test_nothing_to_hold_out_is_an_error(tones):
    settings = settings_of(tones, data={"train": ["x"]})
    test = [clip(f"t{name}", name, split="test") for name in "ab"]
    data = LabelledData(("a", "b"), (*several("x", ("a",), ("a",)), *several("y", ("b",), ("b",)), *test))
    with pytest.raises(ConfigError, match="each of their 2 recordings is the only one"):
        choose_split(data, settings)


def test_no_recording_is_on_two_sides_and_the_share_is_stratified(tones):
    settings = settings_of(tones)
    split = choose_split(read_data(settings.data), settings)
    groups = [{c.group for c in part} for part in (split.train, split.validation, split.test)]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert len(split.clips) == 48 and {c.fold for c in split.test} == {"4"}
    assert sorted(c.labels[0] for c in split.validation) == sorted(2 * list(TONES))
    following = choose_split(
        read_data(settings.data),
        settings_of(tones, data={"train": [str(tones)], "folds": {"test": 4, "validation": "next"}}),
    )
    assert {c.fold for c in following.validation} == {"1"}


def test_takes_of_a_tested_recording_are_left_out_and_said_so(tones):
    clips = [
        clip(f"{i}", "ab"[i % 2], fold="12"[i >= 12], group="same" if i in (0, 12) else f"g{i}")
        for i in range(16)
    ]
    split = choose_split(
        LabelledData(("a", "b"), tuple(clips)),
        settings_of(tones, data={"train": ["x"], "folds": {"test": 2}}, finetune={"validation_share": 0.4}),
    )
    assert "0" not in {c.id for c in split.clips} and "source recording is in the test set" in split.notes[0]


@pytest.mark.parametrize("validation", ["auto", "3", "next"])
@pytest.mark.parametrize("tested", ["1", "2"])
def test_recordings_with_takes_in_several_folds_stay_on_one_side(tones, tested, validation):
    """No recording of the test fold trains or chooses the epoch, though most recordings have takes in several folds."""
    clips = [
        clip(f"{group}-{fold}", "ab"[group // 6 % 2], fold=fold, group=f"g{group}")
        for group in range(60)
        for fold in (["12", "23", "13", "1", "2", "3"][group % 6] if group % 5 else "123")
    ]
    folds = {"test": tested, "validation": validation}
    settings = settings_of(tones, data={"train": ["x"], "folds": folds}, finetune={"validation_share": 0.3})
    split = choose_split(LabelledData(("a", "b"), tuple(clips)), settings)
    train, chosen, test = ({c.group for c in part} for part in (split.train, split.validation, split.test))
    assert chosen and not chosen & test and not train & test and not train & chosen
    assert test == {c.group for c in clips if c.fold == tested}
    assert any("source recording is in the test set" in note for note in split.notes)


def test_published_validation_clips_of_tested_recordings_are_dropped(tones):
    parts = {"train": range(8), "validation": range(6, 14), "test": range(12, 18)}
    clips = [
        clip(f"{s}{i}", "ab"[i % 2], split=s, group=f"g{i}") for s, groups in parts.items() for i in groups
    ]
    split = choose_split(LabelledData(("a", "b"), tuple(clips)), settings_of(tones, data={"train": ["x"]}))
    assert [c.group for c in split.validation] == [f"g{i}" for i in range(6, 12)]
    assert [c.group for c in split.train] == [f"g{i}" for i in range(6)]
    assert any(note.startswith("2 ") for note in split.notes) and len(split.notes) == 2


@pytest.mark.parametrize(
    ("folds", "message"),
    [
        ({"test": 9}, "data.folds.test: no fold '9'; the folds are 1, 2, 3, 4"),
        ({"test": 4, "validation": 4}, "fold '4' is the test fold"),
        ({"test": 4, "validation": 7}, "no fold '7'"),
        ({}, "no test clips; give data.folds.test"),
    ],
)
def test_wrong_folds_are_one_clear_line(tones, folds, message):
    settings = settings_of(tones, data={"train": [str(tones)], "folds": folds})
    with pytest.raises(ConfigError, match=message):
        choose_split(read_data(settings.data), settings)


def test_too_few_clips_and_untaught_classes(tones):
    settings = settings_of(tones, data={"train": ["x"], "folds": {"test": 2}})
    few = LabelledData(
        ("a", "b"), (clip("0", fold="1"), clip("1", "b", fold="1"), clip("2", fold="2"), clip("3", fold="2"))
    )
    with pytest.raises(ConfigError, match="no validation clips can be split off 2 training clips"):
        choose_split(few, settings)
    clips = [clip(f"{i}", "ab"[i % 2], fold="1") for i in range(12)] + [
        clip("x", "a", fold="2"),
        clip("y", "c", fold="2"),
    ]
    with pytest.raises(ConfigError, match="t.csv:y: class 'c' has no training clips"):
        choose_split(LabelledData(("a", "b", "c"), tuple(clips)), settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "linaer"}, "expected one of full, linear, attentive, weighted_sum or layer:N"),
        ({"augment": {"mixup": 0.5}}, "set finetune.cache=false"),
        ({"test_crops": 3}, "crops need finetune.augment.crop_s"),
        ({"mode": "linear", "layer_decay": 0.5}, "the encoder is frozen"),
        ({"folds": "some"}, "expected all or a list"),
        ({"solver": "lbfgs"}, "finetune.solver: got 'lbfgs', expected one of adamw, logistic"),
        (
            {"solver": "logistic", "mode": "attentive"},
            "logistic is for mode linear or layer:N, not attentive",
        ),
        (
            {"solver": "logistic", "epochs": 5},
            "finetune.epochs: the logistic solver does not have this option",
        ),
        ({"solver": "logistic", "class_weights": {"a": 2.0}}, "finetune.class_weights: the logistic solver"),
        ({"solver": "logistic", "cache": False}, "finetune.cache: the logistic solver"),
        ({"probe_first": True}, "finetune.probe_first: is for mode full"),
        (
            {"probe_first": True, "mode": "full", "head": "attentive"},
            "finetune.probe_first: is for mode full",
        ),
        ({"draws": 5}, "set finetune.balanced=true"),
        ({"loss": "mse"}, "finetune.loss: got 'mse'"),
        ({"epoch": 5}, "did you mean 'finetune.epochs'"),
    ],
)
def test_wrong_options_are_one_clear_line(tones, values, message):
    with pytest.raises(ConfigError, match=message):
        settings_of(tones, finetune=values)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"finetune__mode": "layer:7"}, "got layer:7, the encoder has layer:0 to layer:2"),
        (
            {"finetune__mode": "attentive", "finetune__queries": 5},
            "expected a divisor of the encoder's width 32",
        ),
        ({"finetune__mode": "attentive", "optim__batch_size": 1}, "raise it to 2 or more"),
        (
            {"encoder": "logmel", "encoder_options": {}, "finetune__mode": "weighted_sum"},
            "LogMelEncoder does not offer",
        ),
        (
            {"encoder": "logmel", "encoder_options": {}, "finetune": {"mode": "full", "layer_decay": 0.5}},
            "has no list of blocks",
        ),
        ({"finetune__class_weights": {"hihg": 2.0}}, "no class 'hihg'"),
        ({"finetune__metric": "equal_error_rate"}, "this data set has accuracy, mean_average_precision"),
        (
            {
                "encoder": "logmel",
                "encoder_options": {},
                "finetune": {"mode": "full", "augment": {"noise": True}},
            },
            "for AudioMosaic",
        ),
    ],
)
def test_what_does_not_go_together_is_said_before_anything_runs(tones, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run_stage(settings_of(tones, tmp_path / "out", **changes))
    assert not (tmp_path / "out").exists()


# ---- what encoders give


def test_layers_end_with_the_encoders_own_output_and_pooling_is_the_classifiers(clips):
    encoder = AudioMosaicEncoder.tiny()
    waveforms, lengths = pad_batch(clips)
    out, layers = encoder(waveforms, lengths), encoder.forward_layers(waveforms, lengths)
    assert len(layers) == encoder.config.depth + 1
    torch.testing.assert_close(layers[-1].tokens, out.tokens)
    torch.testing.assert_close(layers[-1].clip_features(), out.clip_features())
    assert not torch.allclose(layers[0].tokens, layers[1].tokens)
    short = torch.from_numpy(clips[1])[
        None
    ]  # one window: the released classifier's own pooling, padding included
    mel, _ = encoder.log_mel_windows(short, torch.tensor([short.shape[1]]))
    own = encoder.pool(encoder.forward_mel(encoder.normalise(mel[:, 0])))
    torch.testing.assert_close(encoder(short, torch.tensor([short.shape[1]])).clip_features(), own)
    logmel = encoder_class("logmel").tiny()(waveforms, lengths)
    wanted = torch.stack([t[m].mean(dim=0) for t, m in zip(logmel.tokens, logmel.mask, strict=True)])
    torch.testing.assert_close(logmel.clip_features(), wanted)


def test_attentive_head_hears_no_padding():
    torch.manual_seed(0)
    head = AttentiveHead(16, 3, 0.5, 2).eval()
    tokens, mask = torch.randn(2, 6, 16), torch.ones(2, 6, dtype=torch.bool)
    mask[1, 4:] = False
    alone = head(tokens[1:, :4], mask[1:, :4])
    torch.testing.assert_close(head(tokens, mask)[1:], alone)
    tokens[1, 4:] = 100.0
    torch.testing.assert_close(head(tokens, mask)[1:], alone)


def test_attentive_head_starts_as_the_average_and_its_queries_share_the_channels():
    torch.manual_seed(0)
    head = AttentiveHead(8, 3, 0.5, 2)
    head.queries.data.zero_()
    tokens = torch.randn(5, 6, 8) * torch.tensor([100.0] + [1.0] * 7) + 3  # one loud channel
    average = tokens.mean(dim=1)
    standard = (average - average.mean(dim=0)) / average.std(dim=0, unbiased=False)
    torch.testing.assert_close(head(tokens), head.linear(standard), rtol=1e-3, atol=1e-4)
    head.eval()
    head.norm.reset_running_stats()
    head.linear = torch.nn.Identity()
    before = head(tokens)
    head.queries.data[1] = torch.randn(8)  # the second query moves the second half of the channels alone
    moved = (head(tokens) - before).abs().amax(dim=0) > 1e-4
    assert moved.tolist() == [False] * 4 + [True] * 4


def test_attentive_head_measures_scales_from_the_first_batches_on():
    torch.manual_seed(0)
    head = AttentiveHead(8, 3, 0.5, 2)
    head.queries.data.zero_()
    head.linear = torch.nn.Identity()
    scales = torch.tensor([100.0, 0.01] * 4)
    for _ in range(5):
        head(torch.randn(64, 6, 8) * scales + 2 * scales)
    alone = torch.randn(1, 6, 8) * scales
    standard = head(alone)  # a clip alone has no statistics of its own, and moves none
    torch.testing.assert_close(standard, head.eval()(alone))
    known = head(torch.randn(500, 6, 8) * scales + 2 * scales)
    assert (known.mean(dim=0).abs() < 0.3).all() and ((known.std(dim=0) - 1).abs() < 0.2).all()


def test_attentive_head_keeps_small_differences_under_autocast():
    torch.manual_seed(0)
    head, tokens = (
        AttentiveHead(8, 3, 0.5, 2),
        torch.randn(64, 6, 8) * 0.1 + 10,
    )  # bf16 has steps of 0.06 here
    wanted = head(tokens)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(head(tokens).float(), wanted, rtol=0.02, atol=0.02)


def test_layer_sum_is_an_average_that_learns():
    head = LayerSumHead(3, 8, 2, 0.5)
    features = torch.randn(4, 3, 8)
    torch.testing.assert_close(head(features), head.linear(head.norm(features.mean(dim=1))))
    head(features).square().sum().backward()
    assert head.weights.grad.abs().sum() > 0


def test_cached_features_are_what_the_encoder_gives_and_come_back_from_the_folder(
    tones, tmp_path, monkeypatch
):
    encoder, options = AudioMosaicEncoder.tiny(), FinetuneSettings(mode="attentive")
    clips = read_data(settings_of(tones).data).clips[:5]
    audio = LabelledAudio(encoder)
    device = torch.device("cpu")
    features = compute_features(encoder, options, audio, clips, device, 1.0, tmp_path)
    wave = torch.from_numpy(load_audio(clips[3].path, 16000))[None]
    out = encoder(wave, torch.tensor([wave.shape[1]]))
    torch.testing.assert_close(features[clips[3].id][0], out.tokens[0][out.mask[0]])
    monkeypatch.setattr(AudioMosaicEncoder, "forward", None)
    again = compute_features(encoder, options, audio, clips, device, 1.0, tmp_path)
    assert all(torch.equal(again[c.id][0], features[c.id][0]) for c in clips)
    monkeypatch.setattr("train.data.feature_cache.code_hash", lambda: "the encoder's file was edited")
    with pytest.raises(TypeError):  # they are computed again, by the forward that is not there
        compute_features(encoder, options, audio, clips, device, 1.0, tmp_path)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="raise the limit or turn the cache off"):
        compute_features(encoder, options, audio, clips, device, 1e-6)


# ---- augmentation


def test_augmentation_follows_from_seed_epoch_and_clip_alone(clips):
    encoder = AudioMosaicEncoder.tiny()
    augment = AugmentSettings(spec_freq=16, spec_time=32, mask_time=0.3, mask_freq=0.5, noise=True)
    waveforms, lengths = pad_batch(clips)
    keys = torch.tensor([augmentation_key(1, 0, str(i), 0) for i in range(4)])
    state = torch.random.get_rng_state()
    together = augmented_clip_features(encoder, waveforms, lengths, keys, augment)
    assert torch.equal(state, torch.random.get_rng_state())
    alone = augmented_clip_features(encoder, waveforms[2:3], lengths[2:3], keys[2:3], augment)
    torch.testing.assert_close(together[2:3], alone)
    others = torch.tensor([augmentation_key(1, 1, str(i), 0) for i in range(4)])
    changed = (
        (augmented_clip_features(encoder, waveforms, lengths, others, augment) - together).abs().amax(dim=1)
    )
    assert (changed > 1e-4).all()
    plain = augmented_clip_features(encoder, waveforms, lengths, keys, AugmentSettings())
    torch.testing.assert_close(plain, encoder(waveforms, lengths).clip_features())


@pytest.mark.parametrize(
    "part", [{"spec_freq": 16}, {"spec_time": 32}, {"mask_time": 0.4}, {"mask_freq": 0.5}, {"noise": True}]
)
def test_every_augmentation_does_something(clips, part):
    encoder = AudioMosaicEncoder.tiny()
    waveforms, lengths = pad_batch(clips)
    keys = torch.tensor([augmentation_key(0, 0, str(i), 0) for i in range(4)])
    changed = augmented_clip_features(encoder, waveforms, lengths, keys, AugmentSettings(**part))
    assert not torch.allclose(changed, encoder(waveforms, lengths).clip_features(), atol=1e-5)


def test_the_noise_augmentation_shifts_frames_and_adds_little():
    """Seen on a log-mel whose value is the frame's number: all mels of a frame move together, by ten frames at most."""
    frame = torch.arange(40.0)[:, None].expand(40, 8)
    shifts, strengths = set(), []
    for key in range(60):
        noisy = _noisy(frame, key)
        moved = noisy.floor()  # noise is in [0, 0.1)
        shift = (20 - int(moved[0, 0])) % 40 - 20
        assert torch.equal(moved, frame.roll(shift, dims=0))
        shifts.add(shift)
        strengths.append(float((noisy - moved).max()))
    assert shifts <= set(range(-10, 10)) and len(shifts) > 12
    assert max(strengths) > 0.09 and min(strengths) < 0.01


def test_every_window_of_a_clip_has_its_own_masks(monkeypatch):
    """Checked at the encoder's input: masked mels are 0 before normalisation, dropped patches are not kept."""
    encoder = AudioMosaicEncoder.tiny()
    heard = []
    original = encoder.forward_mel
    monkeypatch.setattr(
        encoder, "forward_mel", lambda mel, keep: heard.append((mel, keep)) or original(mel, keep)
    )
    lengths = torch.tensor([4 * 10240])
    wave = torch.randn(1, int(lengths), generator=torch.Generator().manual_seed(0))
    augment = AugmentSettings(spec_freq=16, spec_time=20, mask_time=0.5)
    augmented_clip_features(encoder, wave, lengths, torch.tensor([7]), augment)
    ((mel, keep),) = heard
    masked = mel == -encoder.config.norm.mean / encoder.config.norm.divisor
    assert len(mel) == 4
    frames, bands = masked.all(dim=2).tolist(), masked[:, :40].all(dim=1).tolist()
    for kind in (bands, keep.tolist(), frames[:3]):
        assert len({str(window) for window in kind}) == len(kind)


def rows_of(tones, options, seed=0):
    data = read_data(settings_of(tones).data)
    targets = torch.eye(3)[[data.classes.index(c.labels[0]) for c in data.clips]]
    return WaveformRows(LabelledAudio(AudioMosaicEncoder.tiny()), data.clips, targets, options, seed)


def test_mixup_mixes_labels_as_it_mixes_sound(tones):
    options = FinetuneSettings(mode="full", augment=AugmentSettings(mixup=1.0, crop_s=0.2))
    rows = rows_of(tones, options)
    first = [rows[i] for i in range(12)]
    assert all(len(row["waveform"]) == 3200 for row in first)
    shares = torch.stack([row["labels"] for row in first])
    torch.testing.assert_close(shares.sum(dim=1), torch.ones(12))
    assert (shares.max(dim=1).values < 1).any()
    again = rows_of(tones, options)
    assert all(np.array_equal(again[i]["waveform"], first[i]["waveform"]) for i in (11, 3))
    again.set_epoch(1)
    assert not np.array_equal(again[3]["waveform"], first[3]["waveform"])
    a, b = np.array([1.0, -1.0, 1.0, -1.0], np.float32), np.array([2.0, -2.0], np.float32)
    np.testing.assert_allclose(mix(a, b, 0.75), [1.25, -1.25, 0.75, -0.75])
    cut = mix(
        a + 5, np.array([9.0, 1.0, 1.0, 1.0, 8.0], np.float32), 0.5
    )  # means of 5 and 4, and the cut takes 4 away
    np.testing.assert_allclose(cut, [3.5, -1.5, -0.5, -1.5])


def test_labels_of_a_mixture_are_the_shares_of_its_sounds(tones):
    """Tones of different kinds are orthogonal: a projection tells how much of a clip is in its mixture."""
    rows = rows_of(tones, FinetuneSettings(mode="full", augment=AugmentSettings(mixup=1.0)))
    seen = []
    for i, own in enumerate(rows.clips):
        wave = rows.audio.read(own).astype(np.float64)
        wave -= wave.mean()
        share = rows[i]["waveform"] @ wave / (wave @ wave)
        labels = rows[i]["labels"]
        if labels.max() < 1:  # mixed with another kind
            assert float(labels @ rows.targets[i]) == pytest.approx(share, abs=0.02)
            seen.append(share)
    assert len(seen) > 10 and min(seen) < 0.4 and max(seen) > 0.6


def test_a_clip_that_is_drawn_again_is_augmented_anew(tones):
    options = FinetuneSettings(mode="full", balanced=True, draws=200, augment=AugmentSettings(crop_s=0.1))
    rows = rows_of(tones, options)
    most = max(set(rows.drawn), key=rows.drawn.count)
    places = [place for place, index in enumerate(rows.drawn) if index == most]
    crops = [rows[place] for place in places]
    assert len(places) > 4
    assert (
        len({row["waveform"].tobytes() for row in crops})
        == len({row["clip_key"] for row in crops})
        == len(places)
    )


def test_random_crops_begin_anywhere_and_test_crops_are_evenly_spaced(tmp_path):
    """On a ramp, the first sample of a crop tells where the crop begins."""
    ramp = (np.arange(4000) / 4000).astype(np.float32)
    soundfile.write(tmp_path / "ramp.wav", ramp, 16000, subtype="FLOAT")
    ramp_clip = LabelledClip("r", tmp_path / "ramp.wav", ("a",), "t.csv:1", "r")
    audio = LabelledAudio(AudioMosaicEncoder.tiny())
    options = FinetuneSettings(
        mode="full", augment=AugmentSettings(crop_s=0.245), test_crops=3
    )  # 3920 samples
    starts = []
    for seed in range(600):
        crop = audio.random_crop(ramp_clip, options, np.random.default_rng(seed))
        start = round(float(crop[0]) * 4000)
        np.testing.assert_array_equal(crop, ramp[start : start + 3920])
        starts.append(start)
    assert min(starts) == 0 and max(starts) == 80 and 36 < np.mean(starts) < 44  # of 0 to 80
    assert [round(float(crop[0]) * 4000) for crop in audio.crops(ramp_clip, options)] == [0, 40, 80]
    assert [len(crop) for crop in audio.crops(ramp_clip, options)] == [3920] * 3


def test_a_clips_probabilities_are_the_mean_over_its_crops():
    torch.manual_seed(0)
    encoder = AudioMosaicEncoder.tiny()
    options = FinetuneSettings(mode="full", head_std=1.0)
    head = build_head(encoder, options, torch.zeros(1, 32), 3)
    model = FinetuneModel(head, encoder, options, False).eval()
    crops = {"a": [torch.randn(8000).numpy(), torch.randn(5000).numpy()], "b": [torch.randn(9000).numpy()]}
    clips = [clip("a"), clip("b")]
    found = predict(model, clips, lambda one: crops[one.id], 2, torch.device("cpu"))
    for row, one in zip(found, clips, strict=True):
        with torch.no_grad():
            alone = [
                model(waveforms=torch.from_numpy(wave)[None], lengths=torch.tensor([len(wave)]))["logits"][0]
                for wave in crops[one.id]
            ]
        each = [np.exp(x) / np.exp(x).sum() for x in (logits.double().numpy() for logits in alone)]
        np.testing.assert_allclose(row, np.mean(each, axis=0), atol=1e-5)
    assert np.abs(each[0] - found[0]).max() > 0.05


def test_balanced_draws_make_classes_equally_frequent():
    targets = torch.eye(2)[[0] * 90 + [1] * 10]
    clips = [clip(str(i)) for i in range(100)]
    rows = DrawnClips(clips, targets, FinetuneSettings(mode="full", balanced=True, draws=4000), 0)
    share = float(targets[rows.drawn, 1].mean())
    assert 0.45 < share < 0.55 and len(rows) == 4000
    first = rows.drawn
    rows.set_epoch(1)
    assert rows.drawn != first
    rows.set_epoch(0)
    assert rows.drawn == first and max(rows.occurrences) > 50  # draws of one clip differ by their number


# ---- optimiser, loss, selection


@pytest.mark.parametrize("mode", ["full", "linear"])
def test_fine_tuning_leaves_batch_norm_statistics_of_the_encoder_as_they_were(tones, tmp_path, mode):
    encoder_class("dasheng").tiny().save_pretrained(tmp_path / "dasheng")
    before = load_encoder(tmp_path / "dasheng")
    statistics = {name: value for name, value in before.named_buffers() if "running" in name}
    options = {"mode": mode, "cache": False, "epochs": 1, "baseline": False}
    out = run_stage(
        settings_of(
            tones, tmp_path / "run", encoder=str(tmp_path / "dasheng"), encoder_options={}, finetune=options
        )
    )
    model, _ = load_classifier(out)
    after = dict(model.encoder.named_buffers())
    assert statistics and all(torch.equal(after[name], value) for name, value in statistics.items())
    moved = [
        not torch.equal(a, b) for a, b in zip(before.parameters(), model.encoder.parameters(), strict=True)
    ]
    assert any(moved) == (mode == "full")


def test_learning_rates_fall_with_depth():
    encoder = AudioMosaicEncoder.tiny()
    scales = layer_scales(encoder, 0.5)
    assert scales["cls_token"] == scales["patch_embed.proj.weight"] == scales["norm_pre.weight"] == 0.125
    assert scales["blocks.0.attn.qkv.weight"] == 0.25 and scales["blocks.1.mlp.fc2.bias"] == 0.5
    assert scales["fc_norm.weight"] == 1.0
    for name in (
        "hubert",
        "wav2vec2",
        "wavlm",
        "data2vec",
    ):  # more convolutions than blocks, and a weight norm
        speech = encoder_class(name).tiny()
        scales = layer_scales(speech, 0.5)
        layers = speech.model.encoder.layers
        for number in range(len(layers)):
            own = {s for n, s in scales.items() if n.startswith(f"model.encoder.layers.{number}.")}
            assert own == {0.5 ** (len(layers) - number)}, name
        lowest = {s for n, s in scales.items() if ".conv_layers." in n or ".pos_conv_embed." in n}
        assert lowest == {0.5 ** (len(layers) + 1)}, name
    fused = encoder_class("fusion").tiny()  # each part by its own blocks
    wanted = {
        f"{part}.{n}": s
        for part, one in fused.named_parts().items()
        for n, s in layer_scales(one, 0.5).items()
    }
    assert layer_scales(fused, 0.5) == wanted and len(set(wanted.values())) == 4
    from transformers import TrainingArguments

    options = FinetuneSettings(mode="full", layer_decay=0.5)
    head = build_head(encoder, options, torch.zeros(1, 32), 3)
    arguments = TrainingArguments(
        output_dir="unused", learning_rate=0.1, weight_decay=0.3, use_cpu=True, report_to="none"
    )
    trainer = FinetuneTrainer(model=FinetuneModel(head, encoder, options, False), args=arguments)
    groups = {
        id(p): (g["lr"], g["weight_decay"])
        for g in trainer.create_optimizer().param_groups
        for p in g["params"]
    }
    assert groups[id(head.linear.weight)] == (0.1, 0.3) and groups[id(head.linear.bias)] == (0.1, 0.0)
    assert groups[id(encoder.blocks[0].attn.qkv.weight)] == (0.025, 0.3)
    assert groups[id(encoder.pos_embed)] == (0.0125, 0.0)


def test_steps_and_learning_rate_count_clips_of_all_accumulated_batches(tones, monkeypatch):
    """Epochs of 100 clips in steps of 4 x 8, on one process and on three."""
    options = {"mode": "full", "epochs": 5, "base_lr": 0.02, "warmup_epochs": 0.5}
    settings = settings_of(tones, finetune=options, optim={"batch_size": 4, "accumulation": 8})
    one = _scheduled(settings, 100).optim
    assert (one.steps, one.warmup_steps, one.lr) == (5 * 4, 2, pytest.approx(0.02 * 32 / 256))
    monkeypatch.setattr("train.finetune.stage.world_size", lambda: 3)
    three = _scheduled(settings, 100).optim
    assert (three.steps, three.warmup_steps, three.lr) == (5 * 2, 1, pytest.approx(0.02 * 96 / 256))


def test_losses_are_the_libraries_own():
    logits, labels = torch.randn(5, 4), torch.eye(4)[[0, 1, 2, 3, 0]]
    head = nn.Identity()
    index = labels.argmax(dim=1)

    def loss(weights=None, **options):
        model = FinetuneModel(head, None, FinetuneSettings(**options), False, weights)
        return model._loss(logits, labels)

    entropy = nn.functional.cross_entropy
    torch.testing.assert_close(loss(), entropy(logits, index))
    torch.testing.assert_close(loss(label_smoothing=0.1), entropy(logits, index, label_smoothing=0.1))
    weights = torch.tensor([0.1, 0.9, 0.5, 0.2])
    torch.testing.assert_close(loss(weights), entropy(logits, index, weight=weights))
    wanted = nn.functional.binary_cross_entropy_with_logits(logits, labels)
    torch.testing.assert_close(loss(loss="bce"), wanted)


def test_the_best_epoch_is_kept_and_a_tie_goes_to_the_lower_loss(tmp_path):
    model = nn.Linear(1, 1)
    scores = iter([(0.5, 1.0), (0.8, 1.0), (0.8, 0.9), (0.6, 0.1)])
    best = BestEpoch(model, lambda: next(scores), tmp_path / "c", tmp_path / "m.jsonl")
    state = dataclasses.make_dataclass("State", ["epoch", "global_step"])
    args = dataclasses.make_dataclass("Args", ["save_strategy"])("steps")
    for epoch in range(1, 5):
        nn.init.constant_(model.weight, epoch)
        best.on_epoch_end(args, state(epoch, epoch), None)
    best.restore()
    assert model.weight.item() == 3 and best.best["epoch"] == 3
    resumed = BestEpoch(model, lambda: (0.0, 0.0), tmp_path / "c", tmp_path / "m.jsonl")
    nn.init.constant_(model.weight, 9)
    resumed.on_train_begin(args, state(1, 1), None)
    resumed.restore()
    assert model.weight.item() == 3
    for text, said in (("[" * 100_000, "nested too deeply"), ('{"score": "x"}', "'score' is not a number")):
        (tmp_path / "c/best.json").write_text(text)
        with pytest.raises(CheckpointError, match=rf"best\.json: .*{said}"):
            resumed.on_train_begin(args, state(1, 1), None)


def test_an_epoch_scored_again_after_an_interruption_has_one_line_in_the_log(tmp_path, monkeypatch):
    """The disk is full between the epoch's line and its weights."""
    log, state = tmp_path / "m.jsonl", dataclasses.make_dataclass("State", ["epoch", "global_step"])
    args = dataclasses.make_dataclass("Args", ["save_strategy"])("steps")

    def run(scores):
        return BestEpoch(nn.Linear(1, 1), lambda: scores, tmp_path / "c", log)

    first = run((0.5, 1.0))
    first.on_epoch_end(args, state(1, 2), None)
    with monkeypatch.context() as patch:
        patch.setattr("train.finetune.optim.write_weights", lambda *_: (_ for _ in ()).throw(OSError(28)))
        first.score = lambda: (0.75, 1.0)
        with pytest.raises(OSError, match="28"):
            first.on_epoch_end(args, state(2, 4), None)
    run((0.75, 1.0)).on_train_begin(args, state(2, 4), None)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["epoch"], line["validation"]) for line in lines] == [(1, 0.5), (2, 0.75)]


# ---- scores


def test_detection_scores_every_test_set_by_itself():
    data = LabelledData(("real", "fake"), (), metric="equal_error_rate", positive="fake")
    clips = [
        clip(f"{i}", subset="test01" if i < 10 else "test02", group=f"{i if i < 10 else i // 5}")
        for i in range(20)
    ]
    targets = np.eye(2)[np.arange(20) % 2]
    said = targets.copy()
    said[10:, :] = 0.5
    result = report(data, clips, said, targets)
    assert result["subsets"]["test01"]["value"] == 0.0 and result["subsets"]["test02"]["value"] == 0.5
    assert result["subset_mean"] == 0.25
    # Recordings are resampled: ten of the first set, two of the second.
    assert [result["subsets"][name]["n_clips"] for name in ("test01", "test02")] == [10, 2]
    assert score(data, "equal_error_rate", targets, targets) == 0.0


def test_multi_label_baseline_solves_scikit_learns_problem():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    x, asked = rng.normal(size=(80, 6)), rng.normal(size=(10, 6))
    y = (x[:, :3] + 0.5 * rng.normal(size=(80, 3)) > 0.3).astype(float)
    model = fit_logistic(x, y, [str(i // 2) for i in range(80)], multi_label=True)
    said = model.probabilities(asked)
    scaler = StandardScaler().fit(x)
    for column in range(3):
        theirs = LogisticRegression(C=model.strength, tol=1e-8, max_iter=1000)
        theirs.fit(scaler.transform(x), y[:, column])
        wanted = theirs.predict_proba(scaler.transform(asked))[:, 1]
        np.testing.assert_allclose(said[:, column], wanted, atol=2e-3)


def test_fold_summary_has_mean_and_deviation():
    folds = {
        f: {"metric": "accuracy", "systems": {"x": {"accuracy": {"value": v}}}}
        for f, v in (("1", 0.5), ("2", 0.7))
    }
    summary = fold_summary("esc", folds)
    assert summary["systems"]["x"]["mean"] == pytest.approx(0.6) and summary["systems"]["x"][
        "sd"
    ] == pytest.approx(0.1414, abs=1e-4)
    assert "| x | 50.0 | 70.0 | 60.0 ± 14.1 |" in fold_markdown(summary)


@pytest.mark.parametrize(("given", "mode", "shared"), [
    (None, "linear", "run/features"), ("kept", "linear", "kept"), ("kept", "full", "kept"), (None, "full", None),
])  # fmt: skip
def test_each_fold_is_a_run_of_its_own_and_all_share_the_features(given, mode, shared, tones, tmp_path):
    """In the folder of the config, else beside the folds; a trained encoder's features are not shared."""
    settings = settings_of(
        tones, tmp_path / "run", data__feature_folder=given and str(tmp_path / given), finetune__mode=mode,
        finetune__folds=[4, 2],
    )  # fmt: skip
    runs = []

    def run(one):
        runs.append(one)
        Path(one.out).mkdir(parents=True)
        systems = {"x": {"accuracy": {"value": 0.5}}}
        (Path(one.out) / "scores.json").write_text(json.dumps({"metric": "accuracy", "systems": systems}))

    assert run_folds(settings, run) == tmp_path / "run"
    assert [Path(one.out).name for one in runs] == ["fold-4", "fold-2"]
    assert [one.data.folds.test for one in runs] == ["4", "2"]
    assert {one.data.feature_folder for one in runs} == {shared and str(tmp_path / shared)}
    assert all(one.finetune.folds is None for one in runs)


# ---- whole runs


def test_folds_of_a_probe_with_controls_and_reuse(tones, tmp_path, capsys):
    out = tmp_path / "run"
    settings = settings_of(
        tones, out, finetune={"mode": "linear", "epochs": 8, "controls": True, "folds": [1, 4]}
    )
    assert run_stage(settings) == out
    summary = read_json(out / "scores.json")
    assert summary["folds"] == ["1", "4"] and len(summary["systems"]) == 3
    assert summary["systems"]["audiomosaic, linear"]["mean"] > 0.8
    assert summary["systems"]["log-mel logistic regression"]["mean"] > 0.8
    one = read_json(out / "fold-4" / "scores.json")
    assert one["split"]["test"] == 12 and one["split"]["train"] + one["split"]["validation"] == 36
    assert (
        len(list((out / "features").iterdir())) == 2
    )  # the encoder and the untrained one, shared by the folds
    capsys.readouterr()
    run_stage(settings)
    assert capsys.readouterr().out.count("already done, reused") == 2
    model, classes = load_classifier(out / "fold-4" / "classifier")
    said = [json.loads(line) for line in (out / "fold-4" / "predictions.jsonl").read_text().splitlines()]
    wave = torch.from_numpy(load_audio(tones.parent / said[0]["id"], 16000))[None]
    with torch.no_grad():
        logits = model(waveforms=wave, lengths=torch.tensor([wave.shape[1]]))["logits"]
    assert model.probabilities(logits)[0].tolist() == pytest.approx(said[0]["probabilities"], abs=1e-4)
    assert classes == ("high", "low", "middle")


def test_the_epoch_with_the_lowest_error_rate_is_kept(tones, tmp_path, monkeypatch):
    def detection(data):
        return dataclasses.replace(read_data(data), metric="equal_error_rate", positive="low")

    monkeypatch.setattr("train.finetune.stage.read_data", detection)
    place = tmp_path / "run"
    run_stage(settings_of(tones, place, finetune__epochs=5, finetune__head_std=1.0))
    lines = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    rates = {line["epoch"]: -line["validation"] for line in lines if "validation" in line}
    assert len(rates) == 5 and all(rate >= 0 for rate in rates.values()) and max(rates.values()) > 0
    (system,) = read_json(place / "scores.json")["systems"].values()
    assert system["validation"] == min(rates.values()) == rates[system["best_epoch"]]


def test_full_finetuning_with_everything_leaves_a_release_classifier(tones, tmp_path):
    finetune = {
        "mode": "full", "epochs": 3, "base_lr": 0.1, "warmup_epochs": 1, "layer_decay": 0.7, "loss": "bce", "balanced": True,
        "test_crops": 2, "baseline": False, "head_std": 0.02,
        "augment": {"mixup": 0.5, "crop_s": 0.4, "spec_freq": 4, "spec_time": 8, "mask_time": 0.2, "mask_freq": 0.2, "noise": True},
    }  # fmt: skip
    settings = settings_of(tones, tmp_path / "run", finetune=finetune)
    place = run_stage(settings)
    classifier = load_encoder(place.parent / "encoder")
    assert classifier.config.model_class == "AudioMosaicClassifier" and classifier.config.num_classes == 3
    model, _ = load_classifier(place)
    before = load_encoder("audiomosaic", **TINY)
    assert not torch.allclose(classifier.blocks[0].attn.qkv.weight, before.blocks[0].attn.qkv.weight)
    wave = torch.randn(1, 8000)
    with torch.no_grad():
        mel, _ = classifier.log_mel_windows(wave, torch.tensor([8000]))
        official = classifier.classify(
            classifier.pool(classifier.forward_mel(classifier.normalise(mel[:, 0])))
        )
        ours = model(waveforms=wave, lengths=torch.tensor([8000]))["logits"]
    torch.testing.assert_close(official, ours)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "validation" in line] == [1, 2, 3]


def test_full_finetuning_can_start_from_the_solved_probe(tones, tmp_path):
    finetune = {"mode": "full", "probe_first": True, "epochs": 1, "baseline": False}
    settings = settings_of(tones, tmp_path / "run", finetune=finetune, optim__lr=1e-12)
    model, _ = load_classifier(run_stage(settings))
    split = choose_split(read_data(settings.data), settings)
    assert model.encoder is not None

    @torch.no_grad()
    def normed(clips):
        waves = [torch.from_numpy(load_audio(clip.path, 16000))[None] for clip in clips]
        rows = [encode(model.encoder, settings.finetune, w, torch.tensor([w.shape[1]])) for w in waves]
        return model.head.norm(torch.cat([row["features"] for row in rows])).double().numpy()

    solved = fit_logistic(  # the validation clips have no part in it: they choose the epoch
        normed(split.train), split.targets(split.train).double().numpy(), [c.group for c in split.train]
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    wanted = solved.probabilities(normed(split.test))
    np.testing.assert_allclose([line["probabilities"] for line in lines], wanted, atol=1e-3)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "validation" in line] == [0, 1]


def test_an_interrupted_run_goes_on_to_the_same_result(tones, tmp_path, monkeypatch):
    finetune = {"mode": "full", "epochs": 3, "baseline": False, "head_std": 0.02, "augment": {"mixup": 0.5}}
    run = {"save_every": 3}  # four steps an epoch
    whole = settings_of(tones, tmp_path / "whole", finetune=finetune, run=run)
    broken = settings_of(tones, tmp_path / "broken", finetune=finetune, run=run)
    run_stage(whole)
    original, calls = BestEpoch.on_epoch_end, []

    def stop_in_the_third(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(BestEpoch, "on_epoch_end", stop_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_stage(broken)
    monkeypatch.undo()
    run_stage(broken)
    lines = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "validation" in line][:2] == [1, 2]
    assert (tmp_path / "broken" / "predictions.jsonl").read_text() == (
        tmp_path / "whole" / "predictions.jsonl"
    ).read_text()


def test_an_epoch_that_is_stopped_half_way_is_not_scored(tones, tmp_path, monkeypatch):
    """SIGTERM in the first of four steps of the second epoch: a score there could keep other weights than a whole run."""
    finetune = {"mode": "full", "epochs": 3, "baseline": False, "head_std": 0.02}
    whole, broken = (settings_of(tones, tmp_path / name, finetune=finetune) for name in ("whole", "broken"))
    run_stage(whole)
    inner, steps = StageTrainer.training_step, []

    def step(*args, **kwargs):
        steps.append(1)
        if len(steps) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*args, **kwargs)

    monkeypatch.setattr(StageTrainer, "training_step", step)
    with pytest.raises(Preempted):
        run_stage(broken)
    monkeypatch.undo()
    run_stage(broken)

    def scores(folder):
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        return [(line["epoch"], line["validation_loss"]) for line in lines if "validation" in line]

    assert scores(tmp_path / "broken") == scores(tmp_path / "whole")
    assert [epoch for epoch, _ in scores(tmp_path / "broken")] == [1, 2, 3]
    said = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("broken", "whole")]
    assert said[0] == said[1]


@pytest.mark.parametrize("mode", ["attentive", "weighted_sum", "layer:1"])
def test_other_probes_run_and_come_back(tones, tmp_path, mode):
    place = run_stage(settings_of(tones, tmp_path / "run", finetune__mode=mode, finetune__epochs=4))
    scores = read_json(tmp_path / "run" / "scores.json")
    assert scores["systems"][f"audiomosaic, {mode}"]["accuracy"]["n"] == 12
    model, _ = load_classifier(place)
    assert model.encoder is not None and not model.training


@pytest.mark.parametrize("mode", ["linear", "layer:1"])
def test_a_probe_by_logistic_regression_is_scikit_learns_and_comes_back(tones, tmp_path, mode):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    settings = settings_of(
        tones, tmp_path / "run", finetune={"mode": mode, "solver": "logistic", "baseline": False}
    )
    model, classes = load_classifier(run_stage(settings))
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    split = choose_split(read_data(settings.data), settings)
    options = settings.finetune
    assert model.encoder is not None

    def features(clips):
        rows = []
        for clip in clips:
            wave = torch.from_numpy(load_audio(clip.path, 16000))[None]
            rows.append(encode(model.encoder, options, wave, torch.tensor([wave.shape[1]]))["features"][0])
        return torch.stack(rows).detach().double().numpy()

    known = (*split.train, *split.validation)
    scaler = StandardScaler().fit(features(known))
    strength = read_json(tmp_path / "run" / "scores.json")["systems"][f"audiomosaic, {mode}"]["strength"]
    theirs = LogisticRegression(C=strength, max_iter=5000, tol=1e-8)
    theirs.fit(scaler.transform(features(known)), [clip.labels[0] for clip in known])
    wanted = theirs.predict_proba(scaler.transform(features(split.test)))
    assert tuple(theirs.classes_) == classes and [line["id"] for line in lines] == [c.id for c in split.test]
    np.testing.assert_allclose([line["probabilities"] for line in lines], wanted, atol=5e-3)
    wave = torch.from_numpy(load_audio(tones.parent / lines[0]["id"], 16000))[None]
    with torch.no_grad():
        logits = model(waveforms=wave, lengths=torch.tensor([wave.shape[1]]))["logits"]
    assert model.probabilities(logits)[0].tolist() == pytest.approx(lines[0]["probabilities"], abs=1e-4)


def test_takes_of_one_recording_never_choose_the_penalty():
    """The penalty is scikit-learn's with recordings kept together; takes apart would choose another."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(3)
    rows = np.repeat(rng.standard_normal((12, 8)), 4, axis=0) + 0.3 * rng.standard_normal((48, 8))
    clips = [clip(str(i), "ab"[i // 4 % 2], group=f"r{i // 4}") for i in range(48)]
    split = Split(LabelledData(("a", "b"), tuple(clips)), tuple(clips), (), (), ())
    chosen = []
    for groups in ([one.group for one in clips], range(48)):
        search = GridSearchCV(
            make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, tol=1e-3)),
            {"logisticregression__C": [0.001, 0.01, 0.1, 1.0, 10.0]}, refit=False,
            cv=StratifiedGroupKFold(5, shuffle=True, random_state=0),
        ).fit(rows, [one.labels[0] for one in clips], groups=groups)  # fmt: skip
        chosen.append(search.best_params_["logisticregression__C"])
    assert chosen[0] != chosen[1]
    assert _regression(split, clips, lambda one: rows[int(one.id)], 0).strength == chosen[0]


def test_logistic_regression_of_two_classes_and_of_one_that_no_clip_taught():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3)) * [1.0, 50.0, 0.0] + [0.0, 7.0, 2.0]
    y = np.zeros((40, 3))
    y[np.arange(40), np.where(x[:, 0] > 0, 2, 0)] = 1  # class 1 has no clip
    model = fit_logistic(x, y, [str(i) for i in range(40)])
    said = model.probabilities(x)
    np.testing.assert_allclose(said.sum(axis=1), 1)
    assert (said[:, 1] < 1e-9).all() and (said.argmax(axis=1) == y.argmax(axis=1)).mean() > 0.9


def test_any_encoder_without_cache_stays_frozen(tones, tmp_path):
    settings = settings_of(
        tones, tmp_path / "run", encoder="logmel", encoder_options={"n_mels": 32},
        finetune={"mode": "linear", "epochs": 4, "cache": False, "baseline": False, "augment": {"crop_s": 0.3, "mixup": 0.5}},
    )  # fmt: skip
    run_stage(settings)
    scores = read_json(tmp_path / "run" / "scores.json")
    assert scores["systems"]["logmel, linear"]["trained"] == 2 * 32 + 32 * 3 + 3


def test_a_frozen_encoder_stays_in_evaluation_mode_in_training():
    encoder = AudioMosaicEncoder.tiny().freeze()
    options = FinetuneSettings(mode="linear", cache=False)
    model = FinetuneModel(
        build_head(encoder, options, torch.zeros(1, 32), 3), encoder, options, False
    ).train()
    wave, lengths = torch.randn(2, 9000), torch.tensor([9000, 9000])
    state = {key: value.clone() for key, value in encoder.state_dict().items()}
    losses = [model(waveforms=wave, lengths=lengths, labels=torch.eye(3)[:2])["loss"] for _ in range(2)]
    assert model.training and not encoder.training and losses[0] == losses[1]
    losses[0].backward()
    assert all(p.grad is None for p in encoder.parameters()) and model.head.norm.weight.grad is not None
    assert all(torch.equal(value, encoder.state_dict()[key]) for key, value in state.items())
    assert encode(encoder, options, wave, lengths)["features"].shape == (2, 32)


def test_broken_audio_is_named_with_its_line(tones, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(100, np.float32), 16000)
    rows = ["filename,category,fold"] + [
        f"{tones.parent}/{i}a.wav,{list(TONES)[i % 3]},{i % 2 + 1}" for i in range(18)
    ]
    (tmp_path / "meta.csv").write_text("\n".join([*rows, "short.wav,low,1"]) + "\n")
    settings = settings_of(
        tmp_path / "meta.csv",
        tmp_path / "run",
        data={"train": [str(tmp_path / "meta.csv")], "folds": {"test": 2}},
    )
    with pytest.raises(AudioError, match="meta.csv:20: short.wav: clip of 100 samples"):
        run_stage(settings)


# ---- commands


def test_embed_writes_clips_and_frames_with_times(tones, tmp_path, capsys):
    AudioMosaicEncoder.tiny().save_pretrained(tmp_path / "encoder")
    soundfile.write(tmp_path / "b.wav", np.random.default_rng(0).normal(size=(22050, 2)) * 0.1, 44100)
    files = [str(tones.parent / "0a.wav"), str(tmp_path / "b.wav"), str(tones.parent / "1b.wav")]
    arguments = [
        "embed",
        str(tmp_path / "encoder"),
        *files,
        "--out",
        str(tmp_path / "x.npz"),
        "--batch-size",
        "2",
    ]
    assert main(arguments) == 0 and "3 clips of 32 numbers" in capsys.readouterr().out
    written = np.load(tmp_path / "x.npz")
    wave = torch.from_numpy(load_audio(files[1], 16000))[None]
    with torch.no_grad():
        out = AudioMosaicEncoder.from_pretrained(tmp_path / "encoder")(wave, torch.tensor([wave.shape[1]]))
    np.testing.assert_allclose(written["clip"][1], out.clip_features()[0], atol=1e-5)
    first, last = written["offsets"][1:3]
    frames = out.tokens.unflatten(1, out.grid).mean(dim=2)[0]
    np.testing.assert_allclose(written["frames"][first:last], frames, atol=1e-5)
    np.testing.assert_allclose(written["frame_times_s"][first : first + 2], [0.04, 0.12])
    assert main([*arguments[:5], "--out", str(tmp_path / "x.txt")]) == 2
    assert (
        main(
            ["embed", str(tmp_path / "encoder"), str(tmp_path / "gone.wav"), "--out", str(tmp_path / "y.npz")]
        )
        == 1
    )
    assert "gone.wav: no such file" in capsys.readouterr().err and not (tmp_path / "y.npz").exists()


def test_embed_with_untrained_weights_says_so_and_repeats(tones, tmp_path, capsys, monkeypatch):
    tiny = AudioMosaicEncoder.tiny().config
    monkeypatch.setattr(AudioMosaicEncoder.config_class, "from_dict", lambda values, where="": tiny)
    for name in "ab":
        out = tmp_path / f"{name}.npz"
        assert main(["embed", "audiomosaic", str(tones.parent / "[01]a.wav"), "--out", str(out)]) == 0
        assert "audiomosaic: untrained weights (seed 0)" in capsys.readouterr().err
    a, b = (np.load(tmp_path / f"{name}.npz") for name in "ab")
    np.testing.assert_array_equal(a["frames"], b["frames"])
    assert [Path(file).name for file in a["files"]] == ["0a.wav", "1a.wav"]


def test_encoder_info(tmp_path, capsys):
    AudioMosaicEncoder.tiny().save_pretrained(tmp_path)
    assert main(["encoders", "info", str(tmp_path)]) == 0
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert said["encoder"] == "AudioMosaicEncoder" and "0 missing" in said["weights"]
    assert said["normalisation"].startswith("audioset_train") and said["tokens per second"].startswith("25 ")
    assert main(["encoders", "info", "logmel"]) == 0 and "untrained" in capsys.readouterr().out
    file = tmp_path / "mine.py"
    file.write_text("from encoders.zoo.logmel import LogMelEncoder\nENCODER = LogMelEncoder\n")
    assert main(["encoders", "info", str(file)]) == 0 and "LogMelEncoder" in capsys.readouterr().out
    assert main(["encoders", "info", str(tmp_path / "gone")]) == 2
    assert "no such directory" in capsys.readouterr().err


def test_train_command_names_the_fault_in_one_line(tones, tmp_path, capsys):
    config = tmp_path / "x.yaml"
    config.write_text(
        f"stage: finetune\nout: {tmp_path / 'run'}\nencoder: audiomosaic\ndata: {{train: [{tones}], folds: {{test: 8}}}}\n"
    )
    assert main(["train", str(config)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: data.folds.test: no fold '8'") and error.count("\n") == 1
