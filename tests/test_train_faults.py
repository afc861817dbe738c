"""Faults in data: nothing is lost, nothing is silently replaced, and every message names the place."""

import json
from pathlib import Path

import numpy as np
import pytest
from survival import make_data, of_stage, weights_of

from alm.common.errors import ConfigError, ManifestError, UserError
from alm.data.manifest import read_manifest, write_manifest
from alm.data.shard_writer import write_shards
from alm.data.shards import ShardError
from encoders.audio import save_wav
from train.data.quarantine import FILE, GuardedDataset, check_audible
from train.data.sampling import EpochBatches
from train.pipeline.runner import run_stage
from train.pretrain.clips import ClipDataset, read_clips

N_CLIPS, BAD = 300, (17, 170, 299)  # 1 %


@pytest.fixture
def data(tmp_path) -> Path:
    (tmp_path / "data").mkdir()
    return make_data(tmp_path / "data")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """300 short clips, as files and as shards."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for i in range(N_CLIPS):
        save_wav(folder / f"{i}.wav", 0.1 * rng.standard_normal(1200), 16000)
    rows = [{"id": f"c{i}", "audio": f"{i}.wav", "captions": ["noise"]} for i in range(N_CLIPS)]
    write_manifest(folder / "train.jsonl", rows)
    write_shards(read_manifest(folder / "train.jsonl"), folder / "shards", shard_mb=0.3)
    return folder


def spoil_files(many: Path) -> None:
    for i in BAD:
        (many / f"{i}.wav").write_bytes(b"<html>404</html>" * 20)


def spoil_members(many: Path) -> None:
    """Damage the same clips inside the tars, whose sizes stay as they are."""
    for clip in read_clips([str(many / "shards")]):
        if int(clip.name[1:]) in BAD:
            with clip.ref.path.open("r+b") as tar:
                tar.seek(clip.ref.at)
                tar.write(b"<html>404</html>" * 20)


@pytest.mark.parametrize(("source", "spoil"), [("train.jsonl", spoil_files), ("shards", spoil_members)])
def test_one_percent_of_bad_files_is_put_aside_and_every_other_clip_is_heard(source, spoil, many, tmp_path):
    assert len(list((many / "shards").glob("*.tar"))) > 1
    spoil(many)
    clips = ClipDataset(read_clips([str(many / source)]), 16000)
    keys = {clips.name(i): i for i in range(len(clips))}
    guarded = GuardedDataset(
        clips, lambda sample: check_audible(sample["waveform"], "a clip"), tmp_path / FILE, 0.01
    )
    heard: list[str] = []
    for epoch in range(2):
        batches = EpochBatches(guarded, 16, seed=0)
        batches.set_epoch(epoch)
        samples = [guarded[index] for batch in batches for index in batch]
        assert len(samples) == N_CLIPS
        heard += [sample["clip_key"] for sample in samples]
    good = {i for name, i in keys.items() if int(name[1:]) not in BAD}
    assert len(set(heard)) == len(good) == N_CLIPS - len(BAD)
    lines = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(f"c{i}" for i in BAD)
    assert all("cannot be decoded" in line["reason"] and ".wav" in line["reason"] for line in lines)
    assert guarded.complaint() is None
    assert "3 of 300 samples are bad" in str(
        GuardedDataset(clips, check_audible, tmp_path / FILE, 0.009).complaint()
    )


def cut(tar: Path) -> None:
    with tar.open("r+b") as file:
        file.truncate(tar.stat().st_size // 2)


@pytest.mark.parametrize(("harm", "said"), [(cut, "bytes, .* were written"), (Path.unlink, "is missing")])
def test_a_broken_shard_is_named_before_anything_is_replaced(harm, said, data, parts, tmp_path):
    shards = tmp_path / "shards"
    write_shards(read_manifest(data / "train.jsonl"), shards, shard_mb=0.05)
    tars = sorted(shards.glob("*.tar"))
    assert len(tars) > 1
    run = of_stage("align", data, tmp_path / "run", parts, data={"train": [str(shards)]}, optim={"steps": 2})
    run_stage(run)
    before = {key: value.clone() for key, value in weights_of(run).items()}
    whole = tars[1].read_bytes()
    harm(tars[1])
    with pytest.raises(ShardError, match=f"{tars[1].name}: the shard.*{said}.*records from record"):
        run_stage(run)
    assert all(np.array_equal(value, weights_of(run)[key]) for key, value in before.items())
    tars[1].write_bytes(whole)
    run_stage(run)


def test_an_id_used_twice_is_named_with_both_places(data, parts, tmp_path):
    lines = (data / "train.jsonl").read_text().splitlines(keepends=True)
    twice, other = data / "twice.jsonl", data / "other.jsonl"
    twice.write_text("".join([*lines, lines[2]]))
    other.write_text(lines[4])
    write_shards(read_manifest(other), tmp_path / "shards")
    for sources, error, said in (
        ([twice], ManifestError, r"twice.jsonl:8: id 'r2' was already used at .*twice.jsonl:3"),
        ([data / "train.jsonl", other], ConfigError, r"other.jsonl:1: id 'r4' was already used at .*train.jsonl:5"),
        ([data / "train.jsonl", tmp_path / "shards"], ConfigError, r"shard-0.*id 'r4' was already used at .*:5"),
    ):  # fmt: skip
        values = {"data": {"train": [str(source) for source in sources]}}
        run = of_stage("align", data, tmp_path / "run", parts, **values)
        with pytest.raises(error, match=said) as caught:
            run_stage(run)
        assert isinstance(caught.value, UserError)
    assert not (tmp_path / "run").exists()


def test_bad_recordings_are_put_aside_in_mixed_grouped_and_packed_data(data, parts, tmp_path):
    (data / "audio" / "2.wav").write_bytes(b"RIFF")  # not even a header
    file = data / "audio" / "5.wav"
    file.write_bytes(file.read_bytes()[:4000])
    first = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    write_manifest(data / "more.jsonl", [{**row, "id": f"m{row['id']}"} for row in first[:3]])
    weights = []
    for name, workers in (("one", 0), ("two", 2)):
        values = {
            "train": [str(data / "train.jsonl"), str(data / "more.jsonl")], "workers": workers,
            "mixture": {"weights": [1, 2]}, "group_by_length": True, "pack": True,
            "on_bad": "quarantine", "max_bad_share": 0.4, "validation": [],
        }  # fmt: skip
        run = of_stage("instruct", data, tmp_path / name, parts, data=values, optim={"steps": 10})
        run_stage(run)
        weights.append(weights_of(run))
        lines = [json.loads(line) for line in (tmp_path / name / FILE).read_text().splitlines()]
        assert {line["id"] for line in lines} == {"r2", "r5", "mr2"}
    assert all(np.array_equal(value.numpy(), weights[1][key].numpy()) for key, value in weights[0].items())
