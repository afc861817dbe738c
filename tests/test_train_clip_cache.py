"""Clips and their log-mel are kept while they fit, and are what they would be if made anew."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from alm.common.errors import AudioError
from alm.data.records import AudioRef
from encoders.audio import pad_batch, save_wav
from encoders.mel import KaldiFbank
from train.data.clip_cache import ArrayCache, ClipCache, MelCache
from train.pretrain.clips import ClipDataset, read_clips


def noise(n_samples, seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, n_samples).astype(np.float32)


def test_a_recording_is_decoded_once(tmp_path):
    file = tmp_path / "a.wav"
    save_wav(file, noise(4000), 16000)
    audio = ClipCache(8000)
    first = audio.read(AudioRef(file))
    part = audio.read(AudioRef(file, 0.05, 0.1))
    assert len(first) == 2000 and len(part) == 400
    file.unlink()
    assert audio.read(AudioRef(file)) is first and audio.read(AudioRef(file, 0.05, 0.1)) is part
    with pytest.raises(AudioError):
        ClipCache(8000).read(AudioRef(file))


def test_pretraining_clips_are_decoded_once(tmp_path):
    save_wav(tmp_path / "a.wav", noise(4000), 16000)
    clips = ClipDataset(read_clips([str(tmp_path)]), 16000)
    before = clips[0]["waveform"]
    (tmp_path / "a.wav").unlink()
    assert np.array_equal(clips[0]["waveform"], before)


def test_what_does_not_fit_is_made_each_time():
    kept, made = ArrayCache(limit_bytes=9), []

    def make(size):
        made.append(size)
        return np.zeros(size, dtype=np.int8)

    for size in (5, 5, 8, 8, 4, 4, 1, 1):
        assert len(kept.get(size, lambda size=size: make(size))) == size
    assert made == [5, 8, 8, 4, 1, 1]  # 5 and 4 fill it to the last byte


class Counted(Dataset):
    """Gives how many arrays are kept after each item's was asked for."""

    def __init__(self):
        self.kept = ArrayCache()

    def __len__(self):
        return 3

    def __getitem__(self, index):
        self.kept.get(index, lambda: np.zeros(4))
        return len(self.kept._values)


@pytest.mark.parametrize(("workers", "expected"), [(0, [1, 2, 3]), (1, [0, 0, 0])])
def test_loader_processes_keep_nothing(workers, expected):
    assert [int(n) for n in DataLoader(Counted(), batch_size=1, num_workers=workers)] == expected


def test_kept_log_mel_is_the_front_ends():
    fbank = KaldiFbank(16000, 64)
    waveforms, lengths = pad_batch([noise(n, n) for n in (16000, 500, 9000)])
    keys = torch.tensor([7, 8, 9])
    mels = MelCache(fbank)
    expected, n_expected = fbank(waveforms, lengths)
    for _ in range(2):
        mel, n_frames = mels(waveforms, lengths, keys)
        assert torch.equal(n_frames, n_expected) and mel.shape == expected.shape
        assert torch.allclose(mel, expected, atol=1e-4)
    # Known by its key: other samples under the same key are not looked at, under another they are.
    again, _ = mels(torch.zeros_like(waveforms), lengths, keys)
    assert torch.equal(again, mel)
    other, _ = mels(torch.zeros_like(waveforms), lengths, keys + 3)
    assert not torch.allclose(other, mel, atol=1.0)


def test_a_clips_log_mel_does_not_depend_on_the_batch():
    fbank = KaldiFbank(16000)
    waveforms, lengths = pad_batch([noise(n, n) for n in (16000, 3000)])
    together, _ = MelCache(fbank)(waveforms, lengths, torch.tensor([1, 2]))
    alone, _ = MelCache(fbank)(waveforms[1:, :3000], lengths[1:], torch.tensor([2]))
    assert torch.equal(together[1, : alone.shape[1]], alone[0])
