"""The cache of a frozen encoder's features: shared, bounded, and never wrong, whoever dies or writes beside."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from survival import FORK, of_stage, run_processes

from alm.common.errors import AudioError, ConfigError
from alm.data.manifest import read_manifest
from alm.data.records import AudioRef
from alm.data.shard_writer import write_shards
from alm.data.sources import open_records
from encoders import encoder_class
from encoders.audio import save_wav
from train.data.feature_cache import FeatureFolder
from train.pipeline.runner import run_stage
from train.tune.conversations import ClipFeatures, clips_of

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips(data) -> list[AudioRef]:
    return clips_of(read_manifest(data / "train.jsonl"))


class Counting:
    """The tiny encoder, and how many clips it has encoded."""

    def __init__(self, seed: int = 0) -> None:
        self.encoder = encoder_class("audiomosaic").tiny(seed)
        self.encoded = 0
        self.encoder.register_forward_pre_hook(self._count)

    def _count(self, module, arguments):
        self.encoded += len(arguments[0])

    def features(self, clips, folder, **options) -> ClipFeatures:
        self.encoded = 0
        options = {"limit_gb": 1.0, "batch_size": 2} | options
        return ClipFeatures(self.encoder, clips, device=CPU, folder=folder, **options)


def assert_same(one: ClipFeatures, other: ClipFeatures) -> None:
    assert one.features.keys() == other.features.keys()
    for clip, found in one.features.items():
        assert torch.equal(found.values, other.features[clip].values)
        assert found.n_samples == other.features[clip].n_samples


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def test_a_clip_is_encoded_once_whatever_list_it_stands_in(clips, tmp_path):
    counting = Counting()
    first = counting.features(clips[:4], tmp_path)
    assert counting.encoded == 4
    again = counting.features(clips, tmp_path)
    assert counting.encoded == len(clips) - 4
    for clip in clips[:4]:
        assert torch.equal(first.features[clip].values, again.features[clip].values)
    assert_same(counting.features(clips, tmp_path), again)
    assert counting.encoded == 0
    other = Counting(seed=1)  # another encoder finds nothing of this one's
    assert not torch.equal(
        other.features(clips[:1], tmp_path).features[clips[0]].values, first.features[clips[0]].values
    )
    assert other.encoded == 1


def test_a_changed_file_and_another_span_are_encoded_anew(tmp_path):
    counting, path, folder = Counting(), tmp_path / "a.wav", tmp_path / "kept"
    rng = np.random.default_rng(0)
    save_wav(path, 0.1 * rng.standard_normal(9000), 16000)
    whole, part = AudioRef(path), AudioRef(path, 0.1, 0.4)
    before = counting.features([whole, part], folder)
    assert counting.encoded == 2
    save_wav(path, 0.1 * rng.standard_normal(9000), 16000)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000))
    after = counting.features([whole], folder)
    assert counting.encoded == 1
    assert not torch.equal(before.features[whole].values, after.features[whole].values)
    spans = [
        AudioRef(path, *times) for times in ((0.1, 0.4), (0.1, 0.5), (0.2, 0.5), (0.1, None), (None, 0.4))
    ]
    for span in spans:  # each in a run of its own, so that one could be taken for another
        alone = counting.features([span], folder).features[span]
        assert counting.encoded == 1
        with torch.no_grad():
            wave = torch.from_numpy(span.load(16000))[None]
            wanted = counting.encoder(wave, torch.tensor([wave.shape[1]])).tokens[0]
        assert alone.n_samples == wave.shape[1]
        torch.testing.assert_close(alone.values, wanted)
    counting.features([whole, *spans], folder)
    assert counting.encoded == 0


def test_encoders_that_differ_in_their_config_alone_share_nothing(clips, tmp_path):
    first, other = Counting(), Counting()
    other.encoder.config = other.encoder.config.replace(normalisation="esc50")
    assert first.encoder.config.normalisation != "esc50"
    first.features(clips[:2], tmp_path)
    found = other.features(clips[:2], tmp_path)
    assert other.encoded == 2
    assert_same(other.features(clips[:2], tmp_path), found)
    assert other.encoded == 0


def test_clips_of_one_tar_are_told_apart(data, tmp_path):
    write_shards(read_manifest(data / "train.jsonl"), tmp_path / "tar")
    clips = clips_of(open_records([str(tmp_path / "tar")]))
    counting = Counting()
    found = counting.features(clips, tmp_path / "kept")
    assert_same(counting.features(clips, tmp_path / "kept"), found)
    assert counting.encoded == 0 and len(set(map(_hash, found.features.values()))) == len(clips)


def _hash(found) -> bytes:
    return found.values.numpy().tobytes()


@pytest.mark.parametrize("harm", ["truncated", "flipped", "header"])
def test_a_damaged_shard_is_computed_again(harm, clips, tmp_path, capsys):
    counting = Counting()
    good = counting.features(clips, tmp_path)
    wanted = {clip: found.values.clone() for clip, found in good.features.items()}
    file = shards(tmp_path)[0]
    content = file.read_bytes()
    spoilt = {
        "truncated": content[: len(content) // 2],
        "flipped": content[:-40] + bytes([content[-40] ^ 1]) + content[-39:],
        "header": b"\xff" * 64 + content[64:],
    }[harm]
    file.unlink()  # what is mapped stays as it is
    file.write_bytes(spoilt)
    capsys.readouterr()
    again = counting.features(clips, tmp_path)
    assert counting.encoded == len(clips) and "is damaged" in capsys.readouterr().out
    assert all(torch.equal(again.features[clip].values, value) for clip, value in wanted.items())
    counting.features(clips, tmp_path)
    assert counting.encoded == 0  # written anew


def test_beyond_the_limit_the_longest_unused_goes(clips, tmp_path, monkeypatch):
    monkeypatch.setattr("train.data.feature_cache.SHARD_BYTES", 1)  # a shard per batch
    counting = Counting()
    counting.features(clips[:6], tmp_path)
    files = shards(tmp_path)
    assert len(files) == 3
    for age, file in enumerate(files):
        os.utime(file, (1000 - age, 1000 - age))  # the last is the oldest
    used = FeatureFolder(tmp_path, 1.0)
    names = _names_in(files[2])
    assert used.read(names).keys() == names  # and the oldest has just been used
    room = sum(file.stat().st_size for file in files) + 100
    counting.features(clips[6:], tmp_path, limit_gb=room / 2**30)
    left = shards(tmp_path)
    assert files[1] not in left and files[2] in left and files[0] in left
    assert sum(file.stat().st_size for file in left) <= room


def _names_in(file: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as shard:
        return set(shard.keys())


def test_a_run_that_needs_more_than_the_limit_says_so(clips, tmp_path):
    counting = Counting()
    counting.features(clips, tmp_path)
    for folder in (tmp_path, None):  # kept already, or not yet
        with pytest.raises(ConfigError, match=f"features of {len(clips)} clips take about"):
            counting.features(clips, folder, limit_gb=1e-6)
    held = sum(found.n_bytes for found in counting.features(clips, None).features.values())
    with pytest.raises(
        ConfigError, match="take about"
    ):  # the first batch shows it, before the limit is reached
        counting.features(clips, None, limit_gb=0.9 * held / 2**30)
    assert counting.encoded == 2


def encode_in_child(clips, folder, die: bool, start) -> None:
    """Encode all clips; a dying one is killed once its first shard is written but not yet renamed."""
    import encoders.checkpoint
    import train.data.feature_cache

    torch.set_num_threads(1)
    train.data.feature_cache.SHARD_BYTES = 1
    if die:
        encoders.checkpoint.os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
    start.wait()
    Counting().features(clips, folder)
    os._exit(0)


def children(clips, folder, deaths: list[bool]) -> list[int]:
    start = FORK.Barrier(len(deaths))
    processes = [FORK.Process(target=encode_in_child, args=(clips, folder, die, start)) for die in deaths]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def test_two_writers_at_once_leave_whole_shards(clips, tmp_path):
    assert children(clips, tmp_path, [False, False]) == [0, 0]
    assert not list(tmp_path.glob(".*"))
    counting = Counting()
    found = counting.features(clips, tmp_path)
    assert counting.encoded == 0 and set(found.features) == set(clips)
    torch.testing.assert_close(
        [found.features[clip].values for clip in clips],
        [counting.features([clip], None).features[clip].values for clip in clips],
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip


def test_a_kill_in_the_middle_of_a_write_leaves_nothing_to_trust(clips, tmp_path):
    assert children(clips, tmp_path, [True]) == [-signal.SIGKILL]
    left = list(tmp_path.iterdir())
    assert len(left) == 1 and ".partial-" in left[0].name
    counting = Counting()
    assert set(counting.features(clips, tmp_path).features) == set(clips)
    assert counting.encoded == len(clips) and not left[0].exists()


def test_a_full_disk_costs_only_what_is_kept(clips, tmp_path, monkeypatch, capsys):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("encoders.checkpoint.save_file", full)
    found = Counting().features(clips, tmp_path)
    assert set(found.features) == set(clips)
    assert "features are not cached for other runs" in capsys.readouterr().out


def test_clips_that_cannot_be_used_are_named_and_never_kept(data, clips, tmp_path):
    bad = tmp_path / "bad.wav"
    bad.write_bytes(b"RIFF")
    listed, folder = [*clips[:2], AudioRef(bad), AudioRef(tmp_path / "gone.wav")], tmp_path / "kept"
    with pytest.raises(AudioError, match=r"bad\.wav"):
        Counting().features(listed, folder)
    for _ in range(2):
        counting = Counting()
        found = counting.features(listed, folder, collect_bad=True)
        with pytest.raises(AudioError, match=r"gone\.wav.*no such file"):
            found.check(listed[3])
        assert set(found.bad) == set(listed[2:])
    assert counting.encoded == 0


def losses(out: Path) -> list[float]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line] + [
        json.loads((out / "finished.json").read_text())["loss"]
    ]


def align(name: str, data: Path, parts: dict, tmp_path: Path, batch_size: int = 4, **changes):
    """Without dropout, which differs between processes."""
    values = {"validation": [str(data / "train.jsonl")], "feature_folder": str(tmp_path / "kept"), **changes}
    optim = {"steps": 5, "lr": 1e-3, "batch_size": batch_size, "accumulation": 1}
    run = {"log_every": 1}
    return of_stage("align", data, tmp_path / name, parts, data=values, run=run, optim=optim, policy={})


def test_losses_are_those_without_the_cache(data, parts, tmp_path):
    for name in ("without", "computed", "read"):
        run_stage(align(name, data, parts, tmp_path, cache_features=name != "without"))
    assert shards(tmp_path / "kept")
    np.testing.assert_allclose(losses(tmp_path / "computed"), losses(tmp_path / "without"), atol=1e-6, rtol=0)
    assert losses(tmp_path / "read") == losses(tmp_path / "computed")


@pytest.mark.slow
def test_two_processes_share_the_encoding(data, parts, tmp_path):
    run_stage(align("one", data, parts, tmp_path, cache_features=True, feature_folder=None))
    run = align("two", data, parts, tmp_path, batch_size=2, cache_features=True)
    assert run_processes(run) == [0, 0]
    assert len(shards(tmp_path / "kept")) == 2  # each wrote its half
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), atol=1e-4)
