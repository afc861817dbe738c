"""Clips that were trained on are found by the ids in their names."""

from dataclasses import replace
from pathlib import Path

import pytest

from alm.common.errors import ManifestError
from alm.data.manifest import write_manifest
from alm.data.records import AudioRef, Record
from eval.scoring.contamination import contaminated, contamination_note, source_ids


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("7fmOlUlwoNg_20.wav", "youtube:7fmOlUlwoNg"),
        ("Y7fmOlUlwoNg.flac", "youtube:7fmOlUlwoNg"),
        ("[-fmOlUlwoNg]-[20-30].wav", "youtube:-fmOlUlwoNg"),
        ("1-17367-A-rain.ogg", "freesound:17367"),
        ("37199.wav", "freesound:37199"),
    ],
)
def test_ids_in_names(name, wanted):
    assert wanted in source_ids(Path("somewhere") / name)


def test_plain_names_hold_no_ids():
    assert source_ids(Path("rain on a roof.wav")) == {"name:rain on a roof"}
    assert source_ids(Path("3.wav")) == {"name:3"}


def record(name):
    turns = ({"role": "user", "content": "<|audio|>what"},)
    return Record(name, (AudioRef(Path(name)),), turns, "qa", "what", "x", clip=name)


def test_shared_clips_are_counted_and_named(tmp_path):
    lines = [
        {"id": f"t{i}", "audio": name, "question": "a wholly other question", "answer": "x"}
        for i, name in enumerate(["wavs/Y7fmOlUlwoNg.wav", "esc/1-17367-A-rain.ogg", "same words.wav"])
    ]
    write_manifest(tmp_path / "train.jsonl", lines)
    records = [
        record("7fmOlUlwoNg_20.wav"),
        record("17367.wav"),
        record("other.wav"),
        record("Same words.flac"),
    ]
    found = contaminated(records, [tmp_path / "train.jsonl"])
    assert found["shared"] == ["17367.wav", "7fmOlUlwoNg_20.wav", "Same words.flac"]
    assert "3 of 4 clips are in the training manifests train.jsonl" in contamination_note(found)
    clean = contaminated(records[2:3], [tmp_path / "train.jsonl"])
    assert clean["n_shared"] == 0 and "No clip of 1" in contamination_note(clean)
    # One clip with several recordings, of which another record names the one that was trained on.
    several = [
        replace(record(name), clip="scene") for name in ("other.wav", "37199.wav", "17367.wav", "a.wav")
    ]
    assert contaminated(several, [tmp_path / "train.jsonl"])["shared"] == ["scene"]
    assert contaminated(several[:2], [tmp_path / "train.jsonl"])["n_shared"] == 0
    with pytest.raises(ManifestError):
        contaminated(records, [tmp_path / "absent.jsonl"])
