"""The quickstart with given parts on labelled recordings: a held-out group, no pretraining, no scenes."""

import csv
import json

import numpy as np
import pytest

from alm.cli import main
from alm.data.manifest import read_manifest
from encoders import encoder_class
from encoders.audio import save_wav
from train.quickstart.labelled import LabelledSettings, load_labelled, stage_settings, write_splits


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Twelve tones: two pitches, three speakers, two takes each."""
    folder = tmp_path_factory.mktemp("tones")
    (folder / "audio").mkdir()
    rows = []
    for speaker in ("ann", "ben", "cy"):
        for pitch, hz in (("low_tone", 300), ("high_tone", 2000)):
            for take in range(2):
                name = f"{pitch}-{speaker}-{take}.wav"
                wave = 0.3 * np.sin(2 * np.pi * hz * np.arange(8000) / 16000)
                save_wav(folder / "audio" / name, wave.astype(np.float32), 16000)
                rows.append({"filename": name, "category": pitch, "speaker": speaker, "fold": 1 + take})
    with (folder / "meta.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "meta.csv"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    encoder_class("whisper").tiny().save_pretrained(folder)
    return folder


def test_it_trains_scores_and_reports(table, encoder, llm_dir, tmp_path, capsys):
    words = ["quickstart", "--out", str(tmp_path), "--encoder", str(encoder), "--llm", str(llm_dir)]
    words += [
        "--data",
        str(table),
        "--held-out",
        "speaker=cy",
        "align.optim.steps=2",
        "align.optim.batch_size=2",
    ]
    words += ["align.optim.warmup_steps=1", "evaluate.max_new_tokens=2", "question=Which tone?"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "logistic regression on mean and sd of the log-mel 100.0%" in said and "CPU time" in said
    assert not any((tmp_path / step).exists() for step in ("pretrain", "text_llm", "llm"))
    asked = read_manifest(tmp_path / "data" / "test.jsonl")
    assert len(asked) == 4 and all("-cy-" in record.id for record in asked)
    assert {record.answer for record in asked} == {"low tone", "high tone"}
    assert asked[0].messages[0]["content"].endswith("Which tone?")
    heard = [
        r for split in ("train", "validation") for r in read_manifest(tmp_path / "data" / f"{split}.jsonl")
    ]
    assert len(heard) == 8 and not any("-cy-" in record.id for record in heard)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["arms"]) == {"none", "no_audio", "other_clip"} and scores["n_records"] == 4
    assert "held out speaker=cy" in (tmp_path / "report.html").read_text()
    assert main(words) == 0
    assert "align: already done" in capsys.readouterr().out


def test_only_the_questions_are_written_on_demand(table, tmp_path):
    words = [
        "quickstart",
        "--inputs-only",
        "--out",
        str(tmp_path),
        "--data",
        str(table),
        "question=Which tone?",
    ]
    assert main([*words, "--held-out", "speaker=ann"]) == 0
    asked = read_manifest(tmp_path / "data" / "test.jsonl")
    assert len(asked) == 4 and all("-ann-" in record.id for record in asked)
    assert asked[0].messages[0]["content"].endswith("Which tone?")
    assert main([*words, "--held-out", ""]) == 0  # the last fold
    assert len(read_manifest(tmp_path / "data" / "test.jsonl")) == 6
    assert {path.name for path in tmp_path.iterdir()} == {"compose", "data"}


def test_the_projector_follows_from_the_rate_of_the_encoder(table, encoder, llm_dir, tmp_path):
    given = {"encoder": str(encoder), "llm": str(llm_dir), "data": str(table), "seed": 3}
    stage = stage_settings(load_labelled(given, []), tmp_path)
    assert stage.projector_options == {"stack": 4, "dropout": 0.3}  # 50 steps a second, 12.5 tokens
    assert stage.run.seed == 3
    own = stage_settings(load_labelled(given, ["align.projector_options={stack: 3}"]), tmp_path)
    assert own.projector_options == {"stack": 3}


def test_without_a_named_group_the_last_fold_is_held_out(table, tmp_path):
    assert write_splits(LabelledSettings("e", "l", str(table), validation_share=0.0), tmp_path / "data") == {
        "train": 6,
        "validation": 0,
        "test": 6,
    }


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--held-out", "speaker=cy"], "--held-out: needs --encoder, --llm and --data"),
        (["--encoder", "E", "--llm", "L", "--data", "T", "--held-out", "cy"], "held_out: got 'cy', expected COLUMN"),
        (["--encoder", "E", "--llm", "L", "--data", "T", "--held-out", "speaker=dan"], "ann, ben, cy.*got 'dan'"),
        (["--encoder", "E", "--llm", "L", "--data", "T", "--held-out", "speeker=cy"], "rename 'speaker'"),
        (["--encoder", "E", "--llm", "L", "--data", "T", "aling.lr=1"], "did you mean 'align'"),
    ],
)  # fmt: skip
def test_mistakes_are_named(words, says, table, encoder, llm_dir, tmp_path, capsys):
    import re

    places = {"E": str(encoder), "L": str(llm_dir), "T": str(table)}
    command = ["quickstart", "--out", str(tmp_path), *(places.get(word, word) for word in words)]
    assert main(command) == 2
    assert re.search(says, capsys.readouterr().err)


def test_a_given_encoder_replaces_pretraining_on_scenes():
    from train.quickstart.workflow import load_quickstart

    settings = load_quickstart(None, 0, ["encoder=some/encoder"])
    kept = [name for name in settings.arms if settings.arm(name).pretrained or not settings.encoder]
    assert settings.encoder == "some/encoder" and kept == ["qformer"]
