"""Shards: what goes in comes out, in any order and process; what is broken is named."""

import json
import multiprocessing
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from torch.utils.data import DataLoader, Dataset

from alm.cli import main
from alm.common.errors import AudioError, ConfigError, ManifestError, UserError
from alm.data.audit import verify
from alm.data.manifest import read_manifest, write_manifest
from alm.data.shard_writer import write_shards
from alm.data.shards import ShardedRecords, ShardError
from alm.data.sources import open_records
from train.pretrain.clips import read_clips
from train.tune.conversations import ConversationDataset

N_CLIPS = 24


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Clips of several containers and rates; questions, choices, captions, parts of files and pairs of them."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    rows = []
    for i in range(N_CLIPS):
        suffix, rate = (("wav", 16000), ("flac", 22050), ("ogg", 44100))[i % 3]
        soundfile.write(folder / f"c{i}.{suffix}", 0.1 * rng.standard_normal(rate // 2 + 100 * i), rate)
        rows.append(
            {"id": f"q{i}", "audio": f"c{i}.{suffix}", "question": "what is this", "answer": f"sound {i}"}
        )
    first, second = rows[0]["audio"], rows[1]["audio"]
    rows += [
        {"id": "cap", "audio": first, "captions": ["a sound", "one sound"], "clip": "scene"},
        {
            "id": "choice",
            "audio": second,
            "question": "A. or B?",
            "choices": ["x", "y"],
            "answer": "y",
            "extra": 1,
        },
        {
            "id": "part",
            "audio": {"path": first, "start_s": 0.1, "end_s": 0.3},
            "question": "q",
            "answer": "a",
        },
        {
            "id": "pair",
            "audio": [first, second, first],
            "question": "which",
            "answer": "the first",
            "kind": "k",
        },
        {
            "id": "turns",
            "audio": first,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "here: <|audio|> what?"},
                {"role": "assistant", "content": "é\u2028"},
            ],
        },
    ]
    write_manifest(folder / "m.jsonl", rows)
    return folder / "m.jsonl"


@pytest.fixture
def shards(source, tmp_path):
    write_shards(read_manifest(source), tmp_path / "shards", shard_mb=0.1)
    return tmp_path / "shards"


def same(record, other):
    keys = ("id", "messages", "kind", "question", "answer", "choices", "captions", "clip", "meta")
    assert [getattr(record, key) for key in keys] == [getattr(other, key) for key in keys]
    assert len(record.audio) == len(other.audio)
    for ref, plain in zip(record.audio, other.audio, strict=True):
        np.testing.assert_array_equal(ref.load(16000), plain.load(16000))


def test_every_record_comes_back_in_any_order(source, shards):
    wanted = {record.id: record for record in read_manifest(source)}
    records = ShardedRecords(shards)
    assert len(records) == len(wanted) and len(records.shards) > 3
    for index in np.random.default_rng(1).permutation(len(records)):
        record = records[int(index)]
        same(record, wanted.pop(record.id))
    assert not wanted
    assert [r.id for r in read_manifest(shards)] == [r.id for r in records]
    assert records[-1].id == records[len(records) - 1].id and len(records[2:5]) == 3
    with pytest.raises(IndexError):
        records[len(records)]


def test_tars_are_webdataset_samples_with_audio_once_and_equal_bytes_each_time(source, shards, tmp_path):
    members = []
    for path in sorted(shards.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                members.append(member.name)
                if member.name.endswith(".json"):
                    sample = json.load(tar.extractfile(member))
                    assert all({"id", "audio"} <= set(record) for record in sample["records"])
    n_samples = sum(name.endswith(".json") for name in members)
    assert n_samples == N_CLIPS + 1  # the pair is a sample of its own
    assert len(members) == n_samples + N_CLIPS + 2 and len(set(members)) == len(members)
    keys = [name.split(".")[0] for name in members]
    assert keys == sorted(keys)  # what belongs to one sample stands together
    write_shards(read_manifest(source), tmp_path / "again", shard_mb=0.1)
    assert [p.read_bytes() for p in sorted(shards.iterdir())] == [
        p.read_bytes() for p in sorted((tmp_path / "again").iterdir())
    ]
    write_shards(ShardedRecords(shards), tmp_path / "reshard")  # shards are a source like any other
    for record, other in zip(ShardedRecords(tmp_path / "reshard"), ShardedRecords(shards), strict=True):
        same(record, other)
    index = write_shards(read_manifest(source), tmp_path / "mixed", shuffle_seed=3)
    assert index["records"] == N_CLIPS + 5
    assert [r.id for r in ShardedRecords(tmp_path / "mixed")] != [r.id for r in ShardedRecords(shards)]


class Waves(Dataset):
    def __init__(self, records):
        self.records = records

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        record = self.records[index]
        return record.id, float(np.abs(record.audio[0].load(16000)).sum())


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_processes_read_what_one_process_reads(shards, start):
    data = Waves(ShardedRecords(shards))
    expected = [data[i] for i in range(len(data))]  # files are open here when the workers start
    assert len(pickle.dumps(data)) < 1000
    context = multiprocessing.get_context(start)
    loader = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert [(name, float(total)) for name, total in loader] == expected


def test_missing_and_truncated_shards_are_named_with_their_records(shards):
    opened = ShardedRecords(shards)
    last = opened.shards[-1]
    content = last.read_bytes()
    last.write_bytes(content[:700])
    with pytest.raises(
        ShardError, match=rf"{last.name}: the shard has 700 bytes, {len(content)} were .* from record \d+"
    ):
        ShardedRecords(shards)
    with pytest.raises(ShardError, match=rf"{last.name}: the shard is truncated: .* ends at 700"):
        opened[len(opened) - 1]  # a run that was going on already
    last.unlink()
    with pytest.raises(ShardError, match=rf"{last.name}: the shard is missing; its \d+ records"):
        ShardedRecords(shards)
    fresh = pickle.loads(pickle.dumps(opened.shards))
    assert fresh == opened.shards
    (shards / "index.json").write_text('{"format": "other"}')
    with pytest.raises(ShardError, match="format 'other'"):
        ShardedRecords(shards)
    (shards / "index.json").unlink()
    with pytest.raises(ManifestError, match="no shard index"):
        read_manifest(shards)


def test_writing_is_whole_or_not_at_all(source, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(UserError, match="exists already"):
        write_shards(read_manifest(source), tmp_path / "there")
    bad = tmp_path / "bad.jsonl"
    (tmp_path / "text.wav").write_text("no audio at all")
    write_manifest(bad, [{"id": "x", "audio": "text.wav", "question": "q", "answer": "a"}])
    with pytest.raises(AudioError, match=r"bad\.jsonl:1: .*text\.wav"):
        write_shards(read_manifest(bad), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


def test_ids_stay_unique_across_manifests_and_shards(source, shards, tmp_path):
    other = tmp_path / "other.jsonl"
    audio = str(source.parent / "c0.wav")
    write_manifest(other, [{"id": "new", "audio": audio, "question": "q", "answer": "a"}])
    both = open_records([str(shards), str(other)])
    assert len(both) == N_CLIPS + 6 and both[len(both) - 1].id == "new" and both[0].id == "q0"
    assert [record.id for record in both] == [both[i].id for i in range(len(both))]
    write_manifest(other, [{"id": "q3", "audio": audio, "question": "q", "answer": "a"}])
    for order in ([shards, other], [other, shards], [shards, shards]):
        with pytest.raises(ConfigError, match=r"id 'q\d+' was already used"):
            open_records([str(path) for path in order])


def test_unanswered_and_audio_only_shards_are_refused_where_text_is_learnt(source, tmp_path):
    audio = str(source.parent / "c0.wav")
    manifest = tmp_path / "m.jsonl"
    write_manifest(manifest, [{"id": "a", "audio": audio, "question": "q", "answer": None}])
    write_shards(read_manifest(manifest), tmp_path / "s")
    with pytest.raises(UserError, match=r"shard-000000\.tar:.*no answer to train on"):
        ConversationDataset(open_records([str(tmp_path / "s")]))
    manifest.write_text(json.dumps({"id": "a", "audio": audio}) + "\n")
    write_shards(read_manifest(manifest, audio_only=True), tmp_path / "t")
    with pytest.raises(ManifestError, match="audio alone"):
        open_records([str(tmp_path / "t")])
    assert len(read_clips([str(tmp_path / "t")])) == 1


def test_pretraining_hears_the_same_clips_under_the_same_names(source, shards):
    plain, sharded = read_clips([str(source)]), read_clips([str(shards)])
    by_name = {clip.name: clip.ref for clip in sharded}
    assert len(by_name) == len(sharded)
    for clip in plain:
        np.testing.assert_array_equal(clip.ref.load(16000), by_name[clip.name].load(16000))
    # The shards store the pair's clips a second time; a manifest tells them from the single clips by path only.
    assert len(sharded) == len(plain) + 2


def test_shard_verify_and_stats_from_the_command_line(source, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main(["data", "shard", str(source), "--out", str(out), "--shard-mb", "0.2"]) == 0
    assert f"{N_CLIPS + 5} records" in capsys.readouterr().out
    mixed = tmp_path / "mixed"
    assert main(["data", "shard", str(source), "--out", str(mixed), "--shuffle", "3"]) == 0
    write_shards(read_manifest(source), tmp_path / "same", shuffle_seed=3)
    assert [r.id for r in ShardedRecords(mixed)] == [r.id for r in ShardedRecords(tmp_path / "same")]
    assert f"{N_CLIPS + 5} records" in capsys.readouterr().out
    for path in (source, out):
        assert main(["data", "verify", str(path)]) == 0
        assert "no problems" in capsys.readouterr().out
        assert main(["data", "stats", str(path), "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["records"] == N_CLIPS + 5 and figures["kinds"]["caption"] == 1
        assert figures["answer_words"]["max"] == 2 and set(figures["sample_rates"]) == {
            "16000",
            "22050",
            "44100",
        }
        hours = sum(soundfile.info(p).duration for p in source.parent.glob("c*.*")) / 3600
        assert figures["hours"] == pytest.approx(hours, abs=0.001)
    assert main(["data", "stats", str(out)]) == 0 and "hours" in capsys.readouterr().out
    path = sorted(out.glob("*.tar"))[0]
    content = bytearray(path.read_bytes())
    content[3000] ^= 255  # one byte of the first clip's samples
    path.write_bytes(bytes(content))
    assert main(["data", "verify", str(out)]) == 1
    said = capsys.readouterr().out
    assert f"{path}: its bytes are not those" in said and "clip 0 changed" in said


def test_data_commands_take_a_source_with_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("wavs").mkdir()
    for name in ("a", "b"):
        soundfile.write(f"wavs/{name}.wav", np.full(1600, 0.1), 16000)
    Path("all.csv").write_text("clip,what\na.wav,a dog\nb.wav,rain\n")
    source = '{path: all.csv, audio: wavs, columns: {audio: clip, answer: what}, prompt: "Which?"}'
    assert main(["data", "verify", source]) == 0
    assert "2 records, 2 clips: no problems" in capsys.readouterr().out
    assert main(["data", "stats", source, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer_words"]["max"] == 2
    assert main(["data", "shard", source, "--out", "shards"]) == 0
    assert [(record.question, record.answer) for record in ShardedRecords(tmp_path / "shards")] == [
        ("Which?", "a dog"), ("Which?", "rain"),
    ]  # fmt: skip
    for wrong, message in (
        ("{path: all.csv, colums: {}}", "MANIFEST: unknown key 'colums'; did you mean 'columns'?"),
        ("{path: all.csv", "MANIFEST: not valid YAML"),
        ("{audio: wavs}", "MANIFEST.path: is missing"),
    ):
        capsys.readouterr()
        assert main(["data", "verify", wrong]) == 2 and message in capsys.readouterr().err


def test_verify_names_every_bad_clip_of_a_manifest(tmp_path, capsys):
    soundfile.write(tmp_path / "good.wav", np.full(1600, 0.1), 16000)
    soundfile.write(tmp_path / "silent.wav", np.zeros(1600), 16000)
    (tmp_path / "cut.wav").write_bytes((tmp_path / "good.wav").read_bytes()[:900])
    rows = [{"id": n, "audio": f"{n}.wav"} for n in ("good", "silent", "cut", "gone")]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["data", "verify", str(tmp_path / "m.jsonl")]) == 1
    said = capsys.readouterr().out
    for line, name, what in ((2, "silent", "silent"), (3, "cut", "truncated"), (4, "gone", "no such file")):
        assert f"m.jsonl:{line}: {tmp_path}/{name}.wav: " in said and what in said
    assert "3 problems" in said
    with (tmp_path / "m.jsonl").open("a") as file:
        file.write(json.dumps(rows[0]) + "\n")
    assert main(["data", "verify", str(tmp_path / "m.jsonl")]) == 2
    assert "id 'good' was already used" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["records.npy", "clips.npy"])
def test_a_changed_table_is_found_by_verify_and_opens_without_hashing(shards, name):
    path = shards / name
    table = np.load(path)
    field = "text_chars" if name == "records.npy" else "frames"  # points nowhere: only the hash can tell
    table[field][0] += 1
    np.save(path, table)
    ShardedRecords(shards)
    assert any(
        f"{path}: its bytes are not those that were written" in what
        for _, what in verify(str(shards)).problems
    )
    table["at"][0] = 1 << 60
    np.save(path, table)
    with pytest.raises(ShardError, match=rf"{name}: row 0 points outside"):
        ShardedRecords(shards)


def test_verify_calls_silent_what_training_does(tmp_path):
    for name, peak in (("faint", 5e-5), ("silent", 2e-5)):
        soundfile.write(tmp_path / f"{name}.wav", np.full(1600, peak), 16000, subtype="FLOAT")
    rows = [{"id": name, "audio": f"{name}.wav", "captions": ["x"]} for name in ("faint", "silent")]
    write_manifest(tmp_path / "m.jsonl", rows)
    (problem,) = verify(str(tmp_path / "m.jsonl")).problems
    assert "silent.wav: is silent" in problem[1]
