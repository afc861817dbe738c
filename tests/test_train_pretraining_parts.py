"""Pretraining piece by piece: what is watched, what the held-out clips tell, and which options reach what."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from alm.common.errors import ConfigError
from alm.common.settings import parse_settings
from encoders.audio import save_wav
from encoders.mel import n_frames_for
from train.pretrain import stage
from train.pretrain.clips import read_clips
from train.pretrain.stage import (
    PretrainingWatch,
    check_batch,
    clip_dataset,
    retrieval_accuracy,
    starting_point,
)
from train.settings import TrainSettings

TINY = {"spec_size": [64, 32], "patch_size": [8, 16], "embed_dim": 32, "depth": 4, "num_heads": 2}


def settings(source, **values):
    base = {"stage": "pretrain", "out": "unused", "encoder": "audiomosaic", "encoder_options": TINY}
    return parse_settings(TrainSettings, {**base, "data": {"train": [str(source)]}, **values})


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Five clips of 1.5 s: a level of its own for a second, then another one."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(5):
        wave = np.repeat(np.float32([0.1 * (number + 1), -0.05]), [16000, 8000])
        save_wav(folder / f"{number}.wav", wave, 16000)
    return folder


def test_a_collapse_that_lasts_is_said_once(capsys):
    """Of two lines in a row, not of two odd ones; and again when it comes back. Warm-up does not count."""
    watch = PretrainingWatch(None, None)
    good = {"loss": 1.0, "pooled_std": 0.9, "pooled_effective_rank": 9.0, "view_agreement": 0.9}
    bad = {**good, "pooled_std": 0.0}
    said = []
    first = [bad, bad, bad]  # of a warm-up of four steps
    for step, line in enumerate(
        [*first, good, bad, good, bad, good, bad, bad, bad, {"eval_loss": 1.0}, good, bad, bad]
    ):
        args = SimpleNamespace(per_device_train_batch_size=64, warmup_steps=4)
        watch.on_log(args, SimpleNamespace(global_step=step, max_steps=100), None, line)
        if "has collapsed" in capsys.readouterr().out:
            said.append(step)
    assert said == [9, 14]
    short = PretrainingWatch(None, None)  # a warm-up longer than the run counts as half of it
    for step in range(4):
        args = SimpleNamespace(per_device_train_batch_size=64, warmup_steps=100)
        short.on_log(args, SimpleNamespace(global_step=step, max_steps=4), None, bad)
    assert "step 3: the encoder has collapsed" in capsys.readouterr().out


class Table(torch.nn.Module):
    """Embeddings of both views by the clip's key."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = torch.tensor(first), torch.tensor(second)

    def embed(self, waveforms, lengths, clip_keys):
        assert not self.training
        return self.first[clip_keys], self.second[clip_keys]


def test_retrieval_goes_from_the_first_view_to_the_second():
    """By hand: the second view of clip 0 is nearest to all first views, however long the vectors are."""
    dataset = [{"waveform": np.zeros(400, np.float32), "clip_key": key} for key in range(3)]
    model = Table([[1.0, 0.0], [9.0, 1.0], [1.0, -0.1]], [[1.0, 0.02], [0.1, 5.0], [1.0, -9.0]]).train()
    found = retrieval_accuracy(model, dataset, torch.device("cpu"))
    assert found == {"view_retrieval": pytest.approx(1 / 3), "view_retrieval_chance": pytest.approx(1 / 3)}
    assert model.training
    # The other way round, and over more than one batch: clips 0 and 1 are found, the others are not.
    rows = torch.eye(40)
    shuffled = rows[[0, 1, *range(3, 40), 2]]
    dataset = [{"waveform": np.zeros(400, np.float32), "clip_key": key} for key in range(40)]
    found = retrieval_accuracy(Table(rows.tolist(), shuffled.tolist()), dataset, torch.device("cpu"))
    assert found == {"view_retrieval": pytest.approx(2 / 40), "view_retrieval_chance": 1 / 40}


def test_options_reach_model_encoder_and_clips(clips):
    run = settings(
        clips, run={"seed": 7, "checkpoint_fraction": 0.5}, contrastive={"views": {"augment": "waveform"}}
    )
    model, dataset = starting_point(run)
    assert (model.seed, dataset.seed) == (7, 7) and model.encoder.checkpoint_fraction == 0.5
    # Views are as long as the encoder's window, to the last sample of its last frame.
    assert n_frames_for(dataset.window_samples, 16000) == 64 > n_frames_for(dataset.window_samples - 1, 16000)
    assert dataset[0]["waveform"].shape == (2, dataset.window_samples)


def test_batches_are_those_of_all_processes(clips, monkeypatch):
    run = settings(clips, optim={"batch_size": 1}, contrastive={"one_source_batches": True})
    with pytest.raises(ConfigError, match="needs at least two clips"):
        check_batch(run, 5)
    monkeypatch.setattr(stage, "world_size", lambda: 2)
    check_batch(run, 5)
    wide = dataclasses.replace(run, optim=dataclasses.replace(run.optim, batch_size=3))
    with pytest.raises(
        ConfigError, match="optim.batch_size=3 in 2 processes but data.train has only 5 clips"
    ):
        check_batch(wide, 5)
    (sizes, together) = starting_point(run)[1].own_order.args
    assert sizes == [5] and together == 2


def test_the_background_is_the_beginnings_of_clips_all_over_the_data(clips, monkeypatch):
    monkeypatch.setattr(stage, "_BACKGROUND_CLIPS", 2)
    monkeypatch.setattr(stage, "_BACKGROUND_S", 1)
    run = settings(clips)
    dataset = clip_dataset(run, read_clips(run.data.train), starting_point(run)[0].encoder)
    levels = [(len(clip), clip.unique().tolist()) for clip in stage._background_clips(dataset)]
    assert [length for length, _ in levels] == [16000, 16000]
    assert [level for _, (level,) in levels] == pytest.approx(
        [0.1, 0.4], abs=1e-4
    )  # the first and the fourth
