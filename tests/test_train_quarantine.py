"""Bad recordings: every process puts them aside and replaces them alike; they are counted, and too many end the run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from survival import make_data, of_stage, run_processes, weights_of

from alm import cli
from alm.common.errors import AudioError, ConfigError, UserError
from alm.common.settings import dump_settings
from alm.data.shards import ShardError
from encoders.audio import save_wav
from train.data.protocols import TrainingDataset
from train.data.quarantine import GuardedDataset
from train.pipeline.runner import run_stage


@pytest.fixture
def data(tmp_path) -> Path:
    return make_data(tmp_path / "data") if (tmp_path / "data").mkdir() is None else tmp_path


def spoil(data: Path) -> None:
    """One recording truncated, one of no sound."""
    file = data / "audio" / "2.wav"
    file.write_bytes(file.read_bytes()[:4000])
    save_wav(data / "audio" / "5.wav", np.zeros(9000, np.float32), 16000)


def put_aside(out: Path) -> dict[str, str]:
    lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert len(lines) == len({line["id"] for line in lines})
    return {line["id"]: line["reason"] for line in lines}


@pytest.mark.parametrize(("stage", "cached"), [("pretrain", False), ("align", True), ("instruct", False)])
def test_bad_recordings_are_replaced_by_the_next(stage, cached, data, parts, tmp_path):
    """The run ends as one whose manifest names the next recordings in their place."""
    optim = {"steps": 8, "accumulation": 1}
    values = {
        "optim": optim,
        "data": {"cache_features": cached, "on_bad": "quarantine", "max_bad_share": 0.3},
    }
    spoil(data)
    run = of_stage(stage, data, tmp_path / "run", parts, **values)
    with pytest.raises(AudioError, match="2.wav.*truncated"):  # at once, by default
        run_stage(
            of_stage(stage, data, tmp_path / "stop", parts, optim=optim, data={"cache_features": cached})
        )
    run_stage(run)
    reasons = put_aside(tmp_path / "run")
    assert sorted(reasons) == ["r2", "r5"]
    assert "truncated" in reasons["r2"] and "silent throughout" in reasons["r5"]
    counts = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert counts[-1]["quarantined"] == 2
    again = of_stage(
        stage, data, tmp_path / "again", parts, **{**values, "data": values["data"] | {"workers": 2}}
    )
    run_stage(again)
    for key, value in weights_of(run).items():
        assert np.array_equal(weights_of(again)[key].numpy(), value.numpy()), key


def test_a_bad_recording_has_no_length_to_group_by(data, parts, tmp_path):
    (data / "audio" / "2.wav").write_bytes(b"no audio")
    grouped = {"group_by_length": True, "max_bad_share": 0.3}
    optim = {"steps": 10, "batch_size": 3, "accumulation": 1}
    with pytest.raises(AudioError, match=r"2\.wav"):
        run_stage(of_stage("align", data, tmp_path / "stop", parts, optim=optim, data=grouped))
    values = {**grouped, "on_bad": "quarantine"}
    run_stage(of_stage("align", data, tmp_path / "run", parts, optim=optim, data=values))
    assert list(put_aside(tmp_path / "run")) == ["r2"]


def add_records(data: Path) -> None:
    """One clip too short for one token, and one answer longer than `data.max_length`."""
    save_wav(data / "audio" / "short.wav", np.full(100, 0.1, np.float32), 16000)
    rows = [
        {"id": "short", "audio": "audio/short.wav", "question": "what is this", "answer": "a dog"},
        {"id": "long", "audio": "audio/1.wav", "question": "what is this", "answer": "dog " * 600},
    ]
    with (data / "train.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(("stage", "cached"), [("align", True), ("instruct", False)])
def test_what_the_collator_refuses_is_quarantined(stage, cached, data, parts, tmp_path):
    add_records(data)
    optim = {"steps": 10, "batch_size": 3, "accumulation": 1}
    values = {"cache_features": cached, "on_bad": "quarantine", "max_bad_share": 0.3, "max_length": 200}
    run_stage(of_stage(stage, data, tmp_path / "run", parts, optim=optim, data=values))
    reasons = put_aside(tmp_path / "run")
    assert sorted(reasons) == ["long", "short"]
    assert "100 samples" in reasons["short"]
    assert "train.jsonl:9: a sample has" in reasons["long"] and "max_length=200" in reasons["long"]


def test_a_sample_beyond_the_llms_context_is_quarantined_with_the_numbers(data, parts, tmp_path):
    add_records(data)
    optim = {"steps": 10, "batch_size": 3, "accumulation": 1}
    values = {"on_bad": "quarantine", "max_bad_share": 0.3, "max_length": 100_000}
    run_stage(of_stage("instruct", data, tmp_path / "run", parts, optim=optim, data=values))
    reason = put_aside(tmp_path / "run")["long"]
    assert re.search(r"train\.jsonl:9: .* more than the LLM's context of 512 tokens", reason)


@pytest.mark.parametrize("cached", [True, False])
def test_what_the_collator_refuses_is_named_alone(cached, data, parts, tmp_path):
    """Every batch of nine holds it; the message names this record and no other."""
    whole = (data / "train.jsonl").read_text()
    add_records(data)
    lines = (data / "train.jsonl").read_text().splitlines(keepends=True)
    optim = {"steps": 1, "batch_size": 8, "accumulation": 1}
    stage = "align" if cached else "instruct"
    for line, named in (
        (lines[-2], r"short\.wav|train\.jsonl:8: "),
        (lines[-1], r"train\.jsonl:8: a sample has"),
    ):
        (data / "train.jsonl").write_text(whole + line)
        values = {"cache_features": cached, "max_length": 200}
        run = of_stage(stage, data, tmp_path / "run", parts, optim=optim, data=values)
        with pytest.raises(UserError, match=named) as caught:
            run_stage(run)
        assert len(re.findall(r"jsonl:|\.wav", str(caught.value))) == 1


@pytest.mark.parametrize(("stage", "share"), [("align", 0), ("instruct", 0), ("instruct", 4)])
def test_verify_for_a_config_finds_what_training_quarantines(stage, share, data, parts, tmp_path, capsys):
    """With `share_clips` the record of a group is quarantined, not the good ones beside it."""
    spoil(data)
    add_records(data)
    (data / "audio" / "text.wav").write_text("no audio")
    rows = [
        {"id": "text", "audio": "audio/text.wav", "question": "what is this", "answer": "a dog"},
        {"id": "caption", "audio": "audio/1.wav", "captions": ["a dog", "dog " * 600, "a cat"]},
    ]
    with (data / "train.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    values = {
        "data": {
            "on_bad": "quarantine",
            "max_bad_share": 0.55,  # 6 of 11 samples, however many groups these are
            "max_length": 200,
            "cache_features": False,
            "share_clips": share,
        },
        "optim": {"steps": 12, "batch_size": 3, "accumulation": 1},
    }
    run = of_stage(stage, data, tmp_path / "run", parts, **values)
    config = tmp_path / "stage.yaml"
    config.write_text(dump_settings(run))
    assert cli.main(["data", "verify", "--for", str(config)]) == 1
    *found, summary = capsys.readouterr().out.splitlines()
    reasons = dict(line.split(": ", 1) for line in found)
    assert sorted(reasons) == ["caption", "long", "r2", "r5", "short", "text"]
    assert "truncated" in reasons["r2"] and "silent" in reasons["r5"] and "100 samples" in reasons["short"]
    assert "max_length=200" in reasons["long"] and "max_length=200" in reasons["caption"]
    assert re.fullmatch(r"\d+ samples: training would refuse 6", summary)
    assert not (tmp_path / "run").exists()
    run_stage(run)
    bad = put_aside(tmp_path / "run")
    assert bad == {name: reasons[name] for name in bad}
    assert set(reasons) - set(bad) <= {"caption"}  # an epoch shows one of its captions
    limit = cli.main(["data", "verify", "--for", str(config), "data.max_length=100000"])
    assert limit == 1 and "more than the LLM's context" in capsys.readouterr().out


def test_verify_for_pretraining_and_for_a_recipe(data, parts, tmp_path, capsys):
    spoil(data)
    config = tmp_path / "stage.yaml"
    config.write_text(dump_settings(of_stage("pretrain", data, tmp_path / "run", parts)))
    assert cli.main(["data", "verify", "--for", str(config)]) == 1
    out = capsys.readouterr().out
    assert "r2: " in out and "r5: " in out and "training would refuse 2" in out
    config.write_text("out: x\nstages: [{name: a, stage: align}]\n")
    assert cli.main(["data", "verify", "--for", str(config)]) == 2
    assert "is a recipe" in capsys.readouterr().err
    assert cli.main(["data", "verify"]) == 2


def test_too_many_end_the_run(data, parts, tmp_path):
    spoil(data)
    run = of_stage(
        "pretrain", data, tmp_path / "run", parts, data={"on_bad": "quarantine", "max_bad_share": 0.2}
    )
    with pytest.raises(UserError, match=r"2 of 7 samples are bad, more than data.max_bad_share=0.2"):
        run_stage(run)


@pytest.mark.slow
def test_too_many_end_all_processes(data, parts, tmp_path):
    spoil(data)
    values = {
        "data": {"on_bad": "quarantine", "max_bad_share": 0.2},
        "optim": {"steps": 5, "accumulation": 1},
    }
    run = of_stage("instruct", data, tmp_path / "run", parts, **values)
    assert run_processes(run) == [2, 2]
    assert "2 of 7 samples are bad" in (tmp_path / "run" / "error.txt").read_text()


def test_what_stands_in_depends_on_the_data_alone(tmp_path):
    class Letters(TrainingDataset):
        def __len__(self):
            return 5

        def name(self, index):
            return "abcde"[index]

        def __getitem__(self, index):
            if index in (1, 4):
                raise AudioError(f"{index} is bad")
            return {"letter": "abcde"[index]}

    guarded = GuardedDataset(Letters(), lambda sample: None, tmp_path / "q.jsonl", 0.4)
    assert [guarded[i]["letter"] for i in range(5)] == ["a", "c", "c", "d", "a"]
    assert guarded.quarantined() == {"b", "e"} and guarded.complaint() is None
    with (tmp_path / "q.jsonl").open("a") as file:
        file.write('{"id": "c", "reason": "another process"}\n{"id": "cut')
    assert "3 of 5" in str(guarded.complaint())
    guarded.set_epoch(3)  # augmentation and the choice of captions depend on the epoch
    assert guarded.dataset.epoch == 3


@pytest.mark.parametrize(
    "error", [ShardError("s.tar: the shard is missing"), ConfigError("ALM_MAX_AUDIO_S is 'x'")]
)
@pytest.mark.parametrize("from_check", [False, True])
def test_what_is_not_about_one_sample_ends_the_run_and_quarantines_nothing(error, from_check, tmp_path):
    def fail(sample=None):
        raise error

    class One(TrainingDataset):
        def __len__(self):
            return 1

        def name(self, index):
            return "a"

        def __getitem__(self, index):
            return {} if from_check else fail()

    guarded = GuardedDataset(One(), fail if from_check else lambda sample: None, tmp_path / "q.jsonl", 1.0)
    with pytest.raises(type(error), match=str(error)):
        guarded[0]
    assert not (tmp_path / "q.jsonl").exists()
