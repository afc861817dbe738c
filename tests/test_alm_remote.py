"""Data and audio in remote storage, through `fsspec`'s store in memory and one that fails as networks do."""

import importlib.util
import json
import os
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from test_alm_readers import lines, tone
from test_docs_data import SNIPPETS, folder  # noqa: F401

import alm.common.storage.remote as remote
from alm.cli import main
from alm.common.errors import AudioError, ConfigError, ManifestError, StorageError
from alm.common.files import open_regular, sha256_of
from alm.common.fingerprint import fingerprint
from alm.common.settings import parse_settings
from alm.common.storage.blocks import BLOCK_BYTES, CACHE_LIMIT_VARIABLE
from alm.common.storage.remote import PROTOCOLS, RemotePath, is_remote, joined, local_copy, to_path
from alm.data.audit import verify
from alm.data.readers.base import parse_source
from alm.data.shard_writer import write_shards
from alm.data.sources import open_records, open_source
from encoders.audio import load_audio, read_header, save_wav
from encoders.registry import encoder_class
from eval.runner.benchmark import run_benchmark
from train.pipeline.runner import run_stage
from train.settings import TrainSettings


class Flaky(MemoryFileSystem):
    """The store in memory as `s3://`; its answers fail as a test asks, and it counts requests."""

    store, pseudo_dirs = {}, [""]
    protocol = ("s3",)
    failures: list = []
    asked: list = []

    def cat_file(self, path, start=None, end=None, **kwargs):
        type(self).asked.append((path, start, end))
        data = super().cat_file(path, start=start, end=end, **kwargs)
        if type(self).failures:
            failure = type(self).failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return data[:failure]
        return data


@pytest.fixture
def s3(monkeypatch, tmp_path):
    monkeypatch.setenv("ALM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_WAIT_S", 0.0)
    monkeypatch.setattr(remote, "_known", {})
    monkeypatch.setattr(remote, "_BLOCKS", remote.BlockCache())
    registry = sys.modules["fsspec.registry"]._registry
    monkeypatch.setitem(registry, "s3", Flaky)
    Flaky.store.clear()
    Flaky.pseudo_dirs[:] = [""]
    Flaky.failures.clear()
    Flaky.asked.clear()
    yield fsspec.filesystem("s3")


@pytest.fixture
def wav(tmp_path):
    path = tmp_path / "a.wav"
    save_wav(path, tone(5), 8000)
    return path


def manifest(names, **more):
    rows = [{"id": n, "audio": n, "question": "What?", "answer": "a bell", **more} for n in names]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def test_addresses_are_recognised_in_one_place():
    assert (
        is_remote("s3://b/a.wav") and is_remote(Path("s3://b/a.wav")) and is_remote("hf://datasets/a/b/c.wav")
    )
    for text in ("a.wav", "http://h/a.wav", "https://h/a.wav", "file:///a.wav", "ssh://h/a", "data:audio/wav;base64,",
                 "github://o:r@main/a", "zip://a::s3://b/c.zip", "s3", "s3:", "./s3/x"):  # fmt: skip
        assert not is_remote(text), text
    assert str(to_path("gs://b/x") / "y.wav") == "gs://b/x/y.wav"
    assert str(to_path(Path("gs://b/x"))) == "gs://b/x"
    assert joined(Path("/here"), "s3://b/a.wav") == RemotePath("s3://b/a.wav")
    assert joined(RemotePath("s3://b/d"), "/there/a.wav") == Path("/there/a.wav")
    assert to_path("a/b.wav") == Path("a/b.wav")


@pytest.mark.parametrize("title", [t for t in SNIPPETS if t != "Streaming"])
def test_every_form_is_read_from_remote_storage_as_from_a_folder(title, folder, s3, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(folder)
    entry = SNIPPETS[title]["data"]["train"][0]
    entry = entry if isinstance(entry, dict) else {"path": entry}
    if not s3.exists("s3://bucket/forms"):
        s3.put(str(folder), "s3://bucket/forms", recursive=True)
    here = open_source(parse_source(entry, "data"))
    there = open_source(parse_source({**entry, "path": f"s3://bucket/forms/{entry['path']}"}, "data"))
    assert [r.messages for r in there] == [r.messages for r in here]
    assert len(there) >= 2
    for one, other in zip(here, there, strict=True):
        for ref, far in zip(one.audio, other.audio, strict=True):
            assert np.array_equal(ref.load(8000), far.load(8000))
            assert ref.read_bytes() == far.read_bytes()
            assert far.header() == ref.header()


def test_training_and_evaluation_take_manifest_shards_and_audio_from_remote_storage(
    s3, wav, tmp_path, llm_dir, capsys
):
    s3.pipe("s3://bucket/d/audio/a.wav", wav.read_bytes())
    s3.pipe("s3://bucket/d/train.jsonl", manifest(["audio/a.wav"]))
    local = lines(tmp_path / "local.jsonl", [{"audio": "s3://bucket/d/audio/a.wav", "captions": ["a bell"]}])
    write_shards(open_records(["s3://bucket/d/train.jsonl"]), tmp_path / "shards")
    s3.put(str(tmp_path / "shards"), "s3://bucket/shards", recursive=True)
    encoder_class("audiomosaic").tiny().save_pretrained(tmp_path / "encoder")
    values = {
        "stage": "align", "out": str(tmp_path / "run"), "encoder": str(tmp_path / "encoder"), "llm": str(llm_dir),
        "optim": {"steps": 1, "batch_size": 2, "warmup_steps": 0},
        "data": {"train": ["s3://bucket/shards", str(local)], "validation": []},
    }  # fmt: skip
    model = run_stage(parse_settings(TrainSettings, values))
    assert json.loads((tmp_path / "run/finished.json").read_text())["samples"] == 2
    overrides = ["data=s3://bucket/d/train.jsonl", "controls=[none]", "max_new_tokens=2"]
    scores = run_benchmark("manifest", model, tmp_path / "scores", overrides)
    assert len((tmp_path / "scores/predictions.jsonl").read_text().splitlines()) == 1
    assert yaml.safe_dump(scores["run"]).count("s3://bucket/d/train.jsonl")
    assert verify("s3://bucket/shards").problems == []
    capsys.readouterr()
    asked = ["s3://bucket/d/audio/a.wav", "s3://bucket/d/audio/none.wav"]
    assert main(["ask", str(model), *asked, "What?", "--max-new-tokens", "1", "--jsonl"]) == 1
    out, error = capsys.readouterr()
    assert [("answer" in line, line["audio"]) for line in map(json.loads, out.splitlines())] == [
        (True, asked[0]),
        (False, asked[1]),
    ]
    assert "error: s3://bucket/d/audio/none.wav: no such file; check the address" in error


def test_a_clip_of_a_shard_is_read_without_the_rest(s3, tmp_path):
    for number in range(40):
        save_wav(
            tmp_path / f"{number}.wav",
            np.random.default_rng(number).uniform(-1, 1, 80_000).astype("f4"),
            16000,
        )
    rows = [{"id": str(n), "audio": f"{n}.wav", "question": "?", "answer": "x"} for n in range(40)]
    write_shards(open_records([str(lines(tmp_path / "m.jsonl", rows))]), tmp_path / "shards")
    s3.put(str(tmp_path / "shards"), "s3://b/shards", recursive=True)
    size = s3.size("s3://b/shards/shard-000000.tar")
    assert size > 6 * BLOCK_BYTES
    records = open_source("s3://b/shards")
    Flaky.asked.clear()
    assert np.array_equal(records[20].audio[0].load(16000), load_audio(tmp_path / "20.wav", 16000))
    assert 0 < sum(end - start for _, start, end in Flaky.asked) <= 3 * BLOCK_BYTES
    Flaky.asked.clear()
    records[20].audio[0].read_bytes()
    assert Flaky.asked == []


def test_a_folder_without_a_shard_names_it(s3, wav, tmp_path):
    rows = [{"id": "a", "audio": "a.wav", "question": "?", "answer": "x"}]
    write_shards(open_records([str(lines(tmp_path / "m.jsonl", rows))]), tmp_path / "shards")
    s3.put(str(tmp_path / "shards"), "s3://b/shards", recursive=True)
    s3.pipe("s3://b/shards/shard-000000.tar", b"x" * 512)
    with pytest.raises(StorageError, match=r"s3://b/shards/shard-000000\.tar: the shard has 512 bytes"):
        open_source("s3://b/shards")
    s3.rm("s3://b/shards/shard-000000.tar")
    with pytest.raises(StorageError, match=r"s3://b/shards/shard-000000\.tar: the shard is missing"):
        open_source("s3://b/shards")


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(s3, tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_LIMIT_VARIABLE, "0.004")  # 4 MB
    for number in range(12):
        s3.pipe(f"s3://b/{number}", bytes([number]) * 500_000)
    for number in range(12):
        for name in (number, 0):  # the first file is read again and again
            with open_regular(f"s3://b/{name}") as stream:
                assert stream.read() == bytes([name]) * 500_000
            # Two changes could otherwise have the same time.
            for block in (tmp_path / "cache/remote").iterdir():
                os.utime(block, ns=(block.stat().st_atime_ns, block.stat().st_mtime_ns - 10**9))
    held = sum(item.stat().st_size for item in (tmp_path / "cache/remote").iterdir())
    assert 1_000_000 < held <= 4_000_000
    assert sum(path.endswith("/0") for path, _, _ in Flaky.asked) == 1
    assert len(Flaky.asked) == 12
    monkeypatch.setenv(CACHE_LIMIT_VARIABLE, "none")
    with pytest.raises(ConfigError, match="ALM_REMOTE_CACHE_GB is 'none'"):
        open_regular("s3://b/1").read()


def test_a_damaged_block_of_the_cache_is_fetched_again(s3, tmp_path):
    s3.pipe("s3://b/x", b"12345")
    assert open_regular("s3://b/x").read() == b"12345"
    (block,) = (tmp_path / "cache/remote").iterdir()
    block.write_bytes(b"123")
    assert open_regular("s3://b/x").read() == b"12345"


def test_a_replaced_object_is_read_anew(s3, wav):
    s3.pipe("s3://b/m.jsonl", manifest(["a.wav"]))
    assert len(open_source("s3://b/m.jsonl")) == 1
    before = fingerprint({}, ["s3://b/m.jsonl"]), RemotePath("s3://b/m.jsonl").stat()
    s3.pipe("s3://b/m.jsonl", manifest(["a.wav", "b.wav"]))
    assert len(open_source("s3://b/m.jsonl")) == 2
    after = fingerprint({}, ["s3://b/m.jsonl"]), RemotePath("s3://b/m.jsonl").stat()
    assert before[0] != after[0]
    assert before[1].st_mtime_ns != after[1].st_mtime_ns


def test_a_replaced_object_of_equal_size_is_not_read_from_the_cache(s3):
    for content in (b"12345", b"54321"):
        s3.pipe("s3://b/x", content)
        assert RemotePath("s3://b/x").stat().st_size == 5  # asks the storage again
        assert open_regular("s3://b/x").read() == local_copy(RemotePath("s3://b/x")).read_bytes() == content


def test_a_large_file_is_read_in_blocks_and_anywhere(s3, tmp_path):
    data = np.random.default_rng(0).bytes(5 * BLOCK_BYTES + 77)
    s3.pipe("s3://b/large", data)
    with open_regular("s3://b/large") as stream:
        stream.seek(2 * BLOCK_BYTES - 5)
        assert stream.read(10) == data[2 * BLOCK_BYTES - 5 :][:10]
        assert stream.seek(-3, 2) == len(data) - 3
        assert stream.read() == data[-3:]
        stream.seek(0)
        assert stream.read() == data
    (tmp_path / "large").write_bytes(data)
    assert sha256_of("s3://b/large") == sha256_of(tmp_path / "large")
    assert open_regular("s3://b/large").read() == data


def test_a_large_manifest_is_indexed_where_it_lies(s3, monkeypatch, tmp_path):
    monkeypatch.setattr("alm.data.index._SMALL_ROWS", 10)
    monkeypatch.setattr("alm.data.index._SMALL_BYTES", 1000)
    monkeypatch.setattr("alm.data.row_processes._LEAST_BYTES", 1000)
    s3.pipe("s3://b/d/m.jsonl", manifest([f"{n}.wav" for n in range(100)]))
    for _ in range(2):  # the first time by a pass over the file, then from the index
        records = open_source("s3://b/d/m.jsonl")
        assert [record.id for record in records] == [f"{n}.wav" for n in range(100)]
        assert str(records[7].audio[0].path) == "s3://b/d/7.wav"
        assert records.table is not None


def test_passing_failures_are_tried_again(s3, wav):
    s3.pipe("s3://b/a.wav", wav.read_bytes())
    Flaky.failures[:] = [ConnectionResetError("reset"), 100]
    assert len(load_audio("s3://b/a.wav", 8000)) == len(load_audio(wav, 8000))
    assert Flaky.failures == []


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([100] * 3, r"s3://b/a\.wav: cannot be fetched \(100 of \d+ bytes from 0 on arrived\)"),
        (
            [TimeoutError("timed out")] * 3,
            r"s3://b/a\.wav: cannot be fetched \(timed out\); check the address, your",
        ),
        ([RuntimeError()] * 3, r"s3://b/a\.wav: cannot be fetched \(RuntimeError\)"),
        ([PermissionError("denied")], r"s3://b/a\.wav: access is denied \(denied\); check your credentials"),
    ],
)
def test_failures_that_last_end_a_run(s3, wav, failures, message):
    s3.pipe("s3://b/a.wav", wav.read_bytes())
    Flaky.failures[:] = list(failures)
    with pytest.raises(StorageError, match=message):
        load_audio("s3://b/a.wav", 8000)
    assert Flaky.failures == []
    assert len(read_header("s3://b/a.wav").__dict__) == 4  # no wrong bytes were kept


def test_missing_objects_are_named(s3, wav):
    s3.pipe("s3://b/d/m.jsonl", manifest(["a.wav", "../../../x/a.wav"]))
    with pytest.raises(ManifestError, match=r"s3://b/none\.jsonl: no such file or folder"):
        open_source("s3://b/none.jsonl")
    with pytest.raises(AudioError, match=r"s3://b/d/a\.wav: no such file; check the address"):
        open_source("s3://b/d/m.jsonl")[0].audio[0].load(8000)
    assert open_source("s3://b/d/m.jsonl")[0].audio[0].state() is None
    with pytest.raises(ConfigError, match="is not the address of an object|leaves its bucket"):
        open_source("s3://b/d/m.jsonl")[1].audio[0].load(8000)
    with pytest.raises(AudioError, match=r"s3://b/d: cannot be read"):
        load_audio("s3://b/d", 8000)


@pytest.mark.parametrize(
    "text", ["s3://", "s3:///", "s3://../x", "s3://b/../x", "s3://b/x::y", "s3://b/../../x"]
)
def test_addresses_without_an_object_are_refused(s3, text):
    with pytest.raises((ConfigError, ManifestError)):
        open_source(text)


@pytest.mark.parametrize("text", ["http://127.0.0.1:9/m.jsonl", "ssh://h/m.jsonl", "s4://b/m.jsonl"])
def test_other_protocols_are_refused_for_data(text):
    with pytest.raises(ConfigError, match="expected a path, or an address that begins with s3://"):
        open_source(text)


def test_a_manifest_makes_no_http_connection(tmp_path):
    row = {"audio": "http://127.0.0.1:9/a.wav", "question": "?", "answer": "x"}
    for audio in (row["audio"], {"path": row["audio"], "start_s": 1}, "file:///etc/passwd"):
        with pytest.raises(
            ManifestError, match=r"m\.jsonl:1: '.*//.*' in 'audio': expected a path, or an address"
        ):
            open_source(str(lines(tmp_path / "m.jsonl", [row | {"audio": audio}])))[0]


@pytest.mark.parametrize(
    "protocol", [p for p, package in PROTOCOLS.items() if not importlib.util.find_spec(package)]
)
def test_a_missing_package_is_named(protocol):
    package = PROTOCOLS[protocol]
    with pytest.raises(
        ConfigError, match=f"{protocol}:// needs the package {package}; run pip install {package}"
    ):
        open_source(f"{protocol}://bucket/m.jsonl")
