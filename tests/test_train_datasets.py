# ruff: noqa: E501
"""Every data set read from a small tree in its published layout, and the messages about malformed trees."""

import csv

import pytest
from corpus_trees import LABELLED as BUILDERS
from corpus_trees import audioset, envsdd, esc50, fsd50k, label_csv, speech_commands, table, vocalsound, wav

from alm.common.errors import ConfigError, ManifestError
from train.finetune.datasets import list_datasets, read_dataset, read_tables


@pytest.mark.parametrize("name", list_datasets())
def test_reads_its_layout(name, tmp_path):
    data = read_dataset(name, BUILDERS[name](tmp_path))
    assert len({clip.id for clip in data.clips}) == len(data.clips) > 0
    assert all(clip.path.is_file() and set(clip.labels) <= set(data.classes) for clip in data.clips)
    assert all((clip.split is None) != (clip.fold is None) for clip in data.clips)


@pytest.mark.parametrize("name", list_datasets())
def test_a_missing_root_is_one_clear_line(name, tmp_path):
    with pytest.raises(ManifestError) as error:
        read_dataset(name, {"root": str(tmp_path / "nowhere.csv")})
    assert "nowhere" in str(error.value) and "\n" not in str(error.value)


def test_esc50_and_its_subset(tmp_path):
    options = esc50(tmp_path)
    assert len(read_dataset("esc50", options).clips) == 12
    ten = read_dataset("esc50", options | {"subset": "esc10"})
    assert ten.classes == ("dog", "rooster") and len(ten.clips) == 8
    assert {clip.group for clip in ten.clips if clip.fold == "1"} == {
        "1000",
        "1001",
    }  # takes A and B together
    (tmp_path / "audio" / "1-1000-A-0.wav").unlink()
    with pytest.raises(
        ManifestError, match=r"esc50.csv:2: no file .*1-1000-A-0.wav; 1 of 12 files are missing \(8.3%\)"
    ):
        read_dataset("esc50", options)
    with pytest.raises(ConfigError, match="subset: got 'esc11'"):
        read_dataset("esc50", options | {"subset": "esc11"})


def test_audioset_finds_names_of_all_kinds_and_counts_what_is_missing(tmp_path):
    options = audioset(tmp_path)
    data = read_dataset("audioset", options)
    assert [clip.path.name for clip in data.clips] == [
        "--aaaaaaaaa.wav",
        "Ybbbbbbbbbbb.flac",
        "ddddddddddd_1500_11500.wav",
    ]
    assert data.clips[0].labels == ("Speech", "Male speech, man speaking") and data.multi_label
    assert data.notes == ("1 of 4 files are missing (25.0%): eeeeeeeeeee.wav",)
    assert len(read_dataset("audioset", options | {"subset": "full"}).clips) == 4
    with pytest.raises(ManifestError, match="allowed: 10.0%"):
        read_dataset("audioset", {"root": str(tmp_path)})
    table(tmp_path / "eval_segments.csv", '# x\n# y\n# z\nq, 0.0, 10.0, "/m/09x0"')
    with pytest.raises(
        ManifestError, match="eval_segments.csv:4: unknown class '/m/09x0'; did you mean '/m/09x0r'"
    ):
        read_dataset("audioset", options)


def test_speech_commands_tasks(tmp_path):
    options = speech_commands(tmp_path)
    words = read_dataset("speech_commands", options)
    assert len(words.classes) == 12 and {clip.split for clip in words.clips} == {
        "train",
        "validation",
        "test",
    }
    assert {clip.group for clip in words.clips if clip.split == "test"} == {"cc33"}
    eleven = read_dataset("speech_commands", options | {"task": "11-way", "unknown_share": 0.1})
    assert len(eleven.classes) == 11
    assert sum(clip.labels == ("_unknown_",) for clip in eleven.clips) == 3  # one per split, 10 % of ten
    twelve = read_dataset("speech_commands", options | {"task": "12-way"})
    silent = [clip for clip in twelve.clips if clip.labels == ("_silence_",)]
    assert len(silent) == 6 and len({(clip.path, clip.split) for clip in silent}) == 3
    (tmp_path / "yes" / "cc33_nohash_0.wav").unlink()
    with pytest.raises(ManifestError, match=r"testing_list.txt:1: no file"):
        read_dataset("speech_commands", options)


def test_envsdd_has_four_test_sets_and_detects_fakes(tmp_path):
    data = read_dataset("envsdd", envsdd(tmp_path))
    assert (data.metric, data.positive) == ("equal_error_rate", "fake")
    assert {clip.subset for clip in data.clips if clip.split == "test"} == {
        "test01",
        "test02",
        "test03",
        "test04",
    }
    assert {clip.labels[0] for clip in data.clips} == {"real", "fake"}
    place = tmp_path / "metadata" / "tta" / "test" / "test01.json"
    place.write_text(place.read_text().replace('"real"', '"genuine"'))
    with pytest.raises(ManifestError, match="test01.json: entry 0: unknown class 'genuine'"):
        read_dataset("envsdd", {"root": str(tmp_path / "metadata"), "audio": str(tmp_path / "data")})
    place.write_text("{}")
    with pytest.raises(ManifestError, match="no list of entries at the top"):
        read_dataset("envsdd", {"root": str(tmp_path / "metadata"), "audio": str(tmp_path / "data")})


def test_fsd50k_and_vocalsound_bring_their_splits(tmp_path):
    data = read_dataset("fsd50k", fsd50k(tmp_path / "f"))
    assert [clip.split for clip in data.clips] == ["train", "validation", "test"]
    assert data.clips[0].labels == ("Bark", "Dog") and data.classes == ("Bark", "Dog", "Rain")
    data = read_dataset("vocalsound", vocalsound(tmp_path / "v"))
    assert {(clip.group, clip.split) for clip in data.clips} == {
        ("f0003", "train"),
        ("m0004", "validation"),
        ("f0005", "test"),
    }


def test_label_tables(tmp_path):
    options = label_csv(tmp_path)
    data = read_dataset("label_csv", options)
    assert [clip.group for clip in data.clips] == ["g1", "g1", "c"]
    table(tmp_path / "classes.txt", "bell\nrains")
    with pytest.raises(ManifestError, match="meta.csv:3: unknown class 'rain'; did you mean 'rains'"):
        read_dataset("label_csv", options | {"classes": str(tmp_path / "classes.txt")})
    table(tmp_path / "several.csv", "filename,labels,split\na.wav,bell; rain,train\nc.wav,,eval")
    several = read_dataset("label_csv", {"root": str(tmp_path / "several.csv")})
    assert several.multi_label and [clip.labels for clip in several.clips] == [("bell", "rain"), ()]
    assert several.clips[1].split == "test"
    table(tmp_path / "parts.csv", "filename,category,fold,part\na.wav,bell,1,x\nc.wav,rain,1,y")
    table(tmp_path / "names.txt", "siren\nrain\nbell")
    parts = read_tables({None: [str(tmp_path / "parts.csv")]}, "part", str(tmp_path / "names.txt"))
    assert [clip.fold for clip in parts.clips] == ["x", "y"] and parts.classes == ("siren", "rain", "bell")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("filename,fold\na.wav,1", "no column 'category'"),
        (
            "filenam,category\na.wav,bell",
            "no column 'filename' or .* among filenam, category; rename 'filenam' to 'filename'",
        ),
        (
            "clip,category,part\na.wav,bell,x",
            "among clip, category, part; rename the column that holds it to 'filename'",
        ),
        (
            "filename,category\na.wav,bell\na.wav,bell",
            "meta.csv:3: 'a.wav' was already listed at .*meta.csv:2",
        ),
        ("filename,category\nx.wav,bell", "meta.csv:2: no file .*x.wav"),
        ("filename,category\na.wav,", "meta.csv:2 has no 'category'"),
        ("filename,category,split\na.wav,bell,tset", "meta.csv:2: split is 'tset'"),
        ("filename,category", "no clips below the header"),
    ],
)
def test_wrong_tables_are_one_clear_line(text, message, tmp_path):
    wav(tmp_path / "a.wav")
    table(tmp_path / "meta.csv", text)
    with pytest.raises(ManifestError, match=message) as error:
        read_dataset("label_csv", {"root": str(tmp_path / "meta.csv")})
    assert "\n" not in str(error.value)


def test_unknown_data_sets_and_options_name_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'esc50'"):
        read_dataset("esc5", {})
    with pytest.raises(ConfigError, match="unknown key 'rot'; did you mean 'root'"):
        read_dataset("esc50", {"rot": "x"})


def test_real_folds_keep_recordings_apart(shared_dir):
    data = read_dataset("label_csv", {"root": str(shared_dir / "data" / "esc10" / "meta.csv")})
    with (shared_dir / "data" / "esc10" / "meta.csv").open(newline="") as file:
        ids = [row["freesound_id"] for row in csv.DictReader(file)]
    assert [clip.group for clip in data.clips] == ids and len(data.classes) == 10
