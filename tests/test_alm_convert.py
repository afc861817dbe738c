"""Converters and label tables on tiny trees in the published layouts."""

import csv
import json
import shutil
import tracemalloc
from collections import Counter

import corpus_trees
import numpy as np
import pytest
import soundfile

from alm.cli import main
from alm.common.errors import ConfigError, ManifestError, UserError
from alm.data.convert import convert
from alm.data.corpora import CORPORA
from alm.data.from_labels import QuestionWriter, Templates
from alm.data.manifest import read_manifest


def audio(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.full(800, 0.1), 16000)


def table(path, *rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def clotho(root):
    header = ["file_name", *(f"caption_{i}" for i in range(1, 6))]
    for split in ("development", "evaluation"):
        rows = [[f"{name}.wav", *(f"{name} {i}." for i in range(5))] for name in ("Rain on roof", "a.b")]
        table(root / f"clotho_captions_{split}.csv", header, *rows)
        audio(root / split / "Rain on roof.wav", root / split / "a.b.wav")


def audiocaps(root):
    header = ["audiocap_id", "youtube_id", "start_time", "caption"]
    table(root / "train.csv", header, ["91139", "r1nicOVtvkQ", "130", "A woman talks nearby as water pours"])
    rows = [[f"97{i}", "Zn4-ViKWcw", "30", f"caption {i}"] for i in range(5)]
    table(root / "val.csv", header, *rows, ["99", "Zn4-ViKWcw", "60", "later"])
    audio(
        root / "audio" / "Yr1nicOVtvkQ.wav", root / "audio" / "Zn4-ViKWcw_30.wav", root / "audio" / "99.flac"
    )


def clothoaqa(root):
    header = ["file_name", "QuestionText", "answer", "confidence"]
    answers = [("yes", "yes"), ("no", "maybe"), ("yes", "yes")]
    rows = [["birds.wav", "Are birds singing?", answer, sure] for answer, sure in answers]
    rows += [["rain.wav", "What is falling?", word, "yes"] for word in ("rain", "water", "rain")]
    for split in ("train", "test"):
        table(root / f"clotho_aqa_{split}.csv", header, *rows)
    audio(root / "audio_files" / "birds.wav", root / "audio_files" / "rain.wav")


def wavcaps(root):
    for name, source, entry in (
        ("as_final", "AudioSet_SL", {"id": "Yb0RFKhbpFJA.wav", "caption": "Wind blows."}),
        ("fsd_final", "FreeSound", {"id": "17", "caption": "A door closes.", "duration": 1.0}),
        ("sb_final", "SoundBible", {"id": "17", "caption": "A bird sings."}),
    ):
        path = root / "json_files" / source / f"{name}.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"num_captions_per_audio": 1, "data": [entry]}))
    audio(
        root / "waveforms" / "AudioSet_SL_flac" / "Yb0RFKhbpFJA.flac",
        root / "waveforms" / "FreeSound_flac" / "17.flac",
    )
    audio(root / "waveforms" / "SoundBible_flac" / "17.flac")


def openaqa(root):
    entry = {
        "instruction": "What is it?",
        "input": "",
        "dataset": "as_strong_train",
        "task": "open-ended question",
    }
    path = "/data/sls/audioset/dave_version/audio/LZq4Neh-oWU.flac"
    other = "/data/sls/scratch/yuangong/vggsound/audio_16k/LZq4Neh-oWU.flac"
    entries = [
        {**entry, "audio_id": path, "output": "crying"},
        {**entry, "audio_id": path, "output": "sad", "input": "I am so sad..."},
        {**entry, "audio_id": other, "output": "bells"},
    ]
    root.mkdir(parents=True, exist_ok=True)
    (root / "closed_ended.json").write_text(json.dumps(entries))
    audio(root / "dave_version" / "audio" / "LZq4Neh-oWU.flac", root / "audio_16k" / "LZq4Neh-oWU.wav")


def label_csv(root):
    header = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    rows = [
        [f"{f}-100-{t}-{k}.wav", f, k, name, "True", "100", t]
        for f in (1, 2)
        for t in "AB"
        for k, name in enumerate(("dog", "rain", "sea_waves", "chirping_birds", "crying_baby"))
    ]
    table(root / "meta" / "esc50.csv", header, *rows)
    audio(*(root / "audio" / row[0] for row in rows))


def musiccaps(root):
    header = ["ytid", "start_s", "end_s", "caption", "aspect_list", "author_id", "is_audioset_eval"]
    names = ("[-0Gj8]-[30-40].wav", "-0SdA.wav", "Y-0vPF_30000_40000.flac", "-0xzr_30.mp3")
    rows = [
        [video, "30", "40", f"A song, {video}.", "['calm', 'piano']", "4", is_eval]
        for video, is_eval in (("-0Gj8", "False"), ("-0SdA", "True"), ("-0vPF", "False"), ("-0xzr", "False"))
    ]
    table(root / "musiccaps-public.csv", header, *rows)
    audio(*(root / "music" / name for name in names))


def librispeech(root):
    for split, speaker, texts in (
        ("dev-clean", "84", ("GO ON", "THE END")),
        ("train-clean-100", "19", ("I AM",)),
    ):
        folder = root / "LibriSpeech" / split / speaker / "121123"
        names = [f"{speaker}-121123-{number:04d}" for number in range(len(texts))]
        audio(*(folder / f"{name}.flac" for name in names))
        said = "".join(f"{name} {text}\n" for name, text in zip(names, texts, strict=True))
        (folder / f"{speaker}-121123.trans.txt").write_text(said)


def common_voice(root):
    header = "client_id\tpath\tsentence\tup_votes\tage\tlocale\n"
    for split, speaker, sentence in (("train", "a1", 'He said "no" and left'), ("test", "b2", '"Yes')):
        name = f"common_voice_en_{speaker}.mp3"
        audio(root / "clips" / name)
        (root / f"{split}.tsv").write_text(f"{header}{speaker}\t{name}\t{sentence}\t2\t\ten\n")


def aishell(root):
    lines = ["BAC009S0002W0122 而 对 楼市 成交", "BAC009S0764W0121 甚至 出现", "BAC009S0916W0495 交易"]
    (root / "transcript").mkdir(parents=True)
    (root / "transcript" / "aishell_transcript_v0.8.txt").write_text("".join(f"{line}\n" for line in lines))
    for split, line in zip(("train", "dev", "test"), lines, strict=True):
        name = line.split()[0]
        audio(root / "wav" / split / name[6:11] / f"{name}.wav")


OWN = {
    f.__name__: f
    for f in (
        *(clotho, audiocaps, clothoaqa, wavcaps, openaqa, label_csv),
        *(musiccaps, librispeech, common_voice, aishell),
    )
}
TREES = {**corpus_trees.TREES, **OWN}


def read(out):
    return {path.stem: read_manifest(path, check_files=True) for path in sorted(out.glob("*.jsonl"))}


@pytest.mark.parametrize("source", CORPORA.names())
def test_every_source_is_read_in_its_published_layout(source, tmp_path, capsys):
    (tmp_path / "root").mkdir()
    options = TREES[source](tmp_path / "root") or {}
    root, audio = options.get("root", str(tmp_path / "root")), options.get("audio")
    share = options.get("max_missing_rate", 0.0)
    command = ["data", "convert", source, root, "--out", str(tmp_path / "out"), "--max-missing", str(share)]
    assert main(command + (["--audio", audio] if audio else [])) == 0
    assert "records" in capsys.readouterr().out and (tmp_path / "out" / "missing.txt").exists() == (share > 0)
    splits = read(tmp_path / "out")
    assert splits and all(
        record.references for records in splits.values() for record in records if source != "mmau"
    )
    again = convert(source, root, tmp_path / "again", [audio] if audio else [], share)
    assert again.written == {split: len(records) for split, records in splits.items()}
    for path in (tmp_path / "out").glob("*.jsonl"):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def converted(source, tmp_path):
    TREES[source](tmp_path / "root")
    convert(source, tmp_path / "root", tmp_path / "out")
    return read(tmp_path / "out")


def test_clotho_keeps_captions_and_splits_apart(tmp_path):
    splits = converted("clotho", tmp_path)
    assert set(splits) == {"development", "evaluation"}
    record = splits["evaluation"][0]
    assert record.captions == tuple(f"Rain on roof {i}." for i in range(5))
    assert record.audio[0].path.resolve() == tmp_path / "root" / "evaluation" / "Rain on roof.wav"
    assert record.clip == "clotho/Rain on roof.wav"


def test_audiocaps_joins_captions_and_finds_downloaders_names(tmp_path):
    splits = converted("audiocaps", tmp_path)
    (first,), (early, late) = splits["train"], splits["val"]
    assert first.audio[0].path.name == "Yr1nicOVtvkQ.wav"
    assert len(early.captions) == 5 and early.audio[0].path.name == "Zn4-ViKWcw_30.wav"
    assert late.captions == ("later",) and late.audio[0].path.name == "99.flac"  # not the clip of second 30


def test_clothoaqa_gives_every_answer_in_training_and_the_commonest_in_test(tmp_path):
    splits = converted("clothoaqa", tmp_path)
    assert [r.answer for r in splits["train"]] == ["yes", "no", "yes", "rain", "water", "rain"]
    assert splits["train"][1].meta["confidence"] == "maybe"
    assert [r.answer for r in splits["test"]] == ["yes", "rain"]
    assert [r.kind for r in splits["test"]] == ["yes_no", "open"]
    # The right answer is that of most annotators, as in the benchmark; the other answers are kept beside it.
    assert splits["test"][0].meta["votes"] == ["yes", "no", "yes"] and "answers" not in splits["test"][0].meta
    assert splits["test"][1].meta["answers"] == ["rain", "water"]


def test_wavcaps_never_takes_another_sources_clip_of_the_same_id(tmp_path):
    splits = converted("wavcaps", tmp_path)
    assert splits["freesound"][0].audio[0].path.parent.name == "FreeSound_flac"
    assert splits["soundbible"][0].audio[0].path.parent.name == "SoundBible_flac"
    (tmp_path / "root" / "waveforms" / "SoundBible_flac" / "17.flac").unlink()
    with pytest.raises(UserError, match=r"1 of 3 audio files are missing \(the first: 17.flac"):
        convert("wavcaps", tmp_path / "root", tmp_path / "less")


def test_openaqa_uses_the_folders_next_to_the_file(tmp_path):
    (records,) = converted("openaqa", tmp_path).values()
    assert [r.audio[0].path.parent.name for r in records] == ["audio", "audio", "audio_16k"]
    assert records[1].question == "What is it?\nI am so sad..." and records[0].kind == "open-ended question"
    (tmp_path / "root" / "closed_ended.json").write_text('[{"instruction": "x", "audio_id": "y.wav"}]')
    with pytest.raises(ManifestError, match="entry 0 has no field 'output'"):
        convert("openaqa", tmp_path / "root", tmp_path / "out")


def test_musiccaps_finds_downloaders_names(tmp_path):
    splits = converted("musiccaps", tmp_path)
    found = [record.audio[0].path.name for record in splits["train"]]
    assert found == ["[-0Gj8]-[30-40].wav", "Y-0vPF_30000_40000.flac", "-0xzr_30.mp3"]
    (record,) = splits["test"]
    assert record.captions == ("A song, -0SdA.",) and record.meta["aspects"] == "['calm', 'piano']"
    path = tmp_path / "root" / "musiccaps-public.csv"
    path.write_text(path.read_text().replace("True", "perhaps"))
    with pytest.raises(ManifestError, match=r"csv:3: is_audioset_eval is 'perhaps'; expected True or False"):
        convert("musiccaps", tmp_path / "root", tmp_path / "out2")


def test_transcripts_become_requests_to_transcribe(tmp_path):
    asked = {}
    for source in ("librispeech", "common_voice", "aishell"):
        splits = converted(source, tmp_path / source)
        asked[source] = {name: [r.answer for r in records] for name, records in splits.items()}
        records = [record for part in splits.values() for record in part]
        assert all("said in this recording" in r.question and r.kind == "transcript" for r in records)
        assert all(r.meta["speaker"] in str(r.audio[0].path) for r in records)
    assert asked == {
        "librispeech": {"dev-clean": ["GO ON", "THE END"], "train-clean-100": ["I AM"]},
        "common_voice": {"train": ['He said "no" and left'], "test": ['"Yes']},
        "aishell": {"train": ["而对楼市成交"], "dev": ["甚至出现"], "test": ["交易"]},
    }
    path = next((tmp_path / "librispeech").rglob("84-*.trans.txt"))
    path.write_text("84-121123-0000 GO ON\n84-121123-0001\n")
    with pytest.raises(ManifestError, match=r"84-121123\.trans\.txt:2 has no 'text'"):
        convert("librispeech", tmp_path / "librispeech" / "root", tmp_path / "out")
    shutil.move(path.parents[2], path.parents[3] / "dev-cleaner")
    with pytest.raises(ManifestError, match="lies in no folder of a split; expected one of train-clean-100"):
        convert("librispeech", tmp_path / "librispeech" / "root", tmp_path / "out")


def test_questions_whose_answer_is_no_choice_are_an_error_or_skipped_and_counted(tmp_path, capsys):
    (tmp_path / "root").mkdir()
    for path in corpus_trees.mmau(tmp_path / "root"):
        audio(path)
    tables = sorted((tmp_path / "root").rglob("mmau-test-mini.json*"))
    rows = json.loads(tables[0].read_text())
    rows[0]["answer"] = "none of them"
    tables[0].write_text(json.dumps(rows))
    command = ["data", "convert", "mmau", str(tmp_path / "root"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "the answer 'none of them' is not one of the choices" in capsys.readouterr().err
    assert main([*command, "wrong_answers=skip"]) == 0
    assert "skipped 1 entries: the answer is not one of the choices" in capsys.readouterr().out
    assert len(read(tmp_path / "out")["test-mini"]) == len(rows) - 1
    assert main([*command, "wrong_answers=keep"]) == 2
    assert "wrong_answers: got 'keep', expected one of error, skip" in capsys.readouterr().err
    assert main([*command, "wrong_anwsers=skip"]) == 2
    assert "did you mean 'wrong_answers'" in capsys.readouterr().err


def test_converters_keep_no_rows_in_memory(tmp_path):
    """The converter keeps only a hash of each id: 1,600 rows of 4 kB need the same peak of memory as 800."""
    audio(*(tmp_path / "audio" / f"{number}.wav" for number in range(5)))
    peaks = []
    for n_rows in (800, 1_600):
        root = tmp_path / f"root{n_rows}"
        root.mkdir()
        rows = [
            {"instruction": f"What is {number}? " + "x" * 4000, "input": "", "audio_id": f"{number % 5}.wav",
             "dataset": "d", "task": "t", "output": "a bell"}
            for number in range(n_rows)
        ]  # fmt: skip
        (root / "open.json").write_text(json.dumps(rows))
        del rows
        tracemalloc.start()
        convert("openaqa", root, tmp_path / "out", [str(tmp_path / "audio")])
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len((tmp_path / "out" / "open.jsonl").read_text().splitlines()) == n_rows
    assert (peaks[1] - peaks[0]) / 800 < 700


def test_a_conversion_that_fails_late_writes_nothing(tmp_path):
    audio(tmp_path / "root" / "a.wav")
    row = {
        "instruction": "What?",
        "input": "",
        "audio_id": "a.wav",
        "dataset": "d",
        "task": "t",
        "output": "a bell",
    }
    (tmp_path / "root" / "a.json").write_text(json.dumps([row]))
    (tmp_path / "root" / "b.json").write_text(json.dumps([row, row, {**row, "output": None}]))
    with pytest.raises(ManifestError, match="entry 2 has no 'output'"):
        convert("openaqa", tmp_path / "root", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_missing_files_are_counted_listed_and_allowed_up_to_a_share(tmp_path, capsys):
    clotho(tmp_path / "root")
    (tmp_path / "root" / "evaluation" / "a.b.wav").unlink()
    command = ["data", "convert", "clotho", str(tmp_path / "root"), "--out", str(tmp_path / "out")]
    assert main(command) == 2
    assert "1 of 4 audio files are missing (the first: evaluation/a.b.wav" in capsys.readouterr().err
    assert (tmp_path / "out" / "missing.txt").read_text() == "evaluation/a.b.wav\n"
    assert not list((tmp_path / "out").glob("*.jsonl"))
    assert main([*command, "--max-missing", "0.25"]) == 0
    assert "1 of 4 audio files are missing" in capsys.readouterr().out
    assert len(read(tmp_path / "out")["evaluation"]) == 1


def test_wrong_trees_are_one_clear_error(tmp_path):
    (tmp_path / "empty").mkdir()
    for source in CORPORA.names():
        with pytest.raises(UserError, match="empty"):
            convert(source, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match="unknown corpus 'cloto'; did you mean 'clotho'"):
        convert("cloto", tmp_path, tmp_path / "out")
    table(tmp_path / "x" / "train.csv", ["youtube_id", "caption"], ["a", "b"])
    with pytest.raises(
        ManifestError, match=r"train\.csv:1: no column 'audiocap_id' among youtube_id, caption"
    ):
        convert("audiocaps", tmp_path / "x", tmp_path / "out")


def test_from_labels_writes_every_kind_with_right_answers(tmp_path, capsys):
    label_csv(tmp_path)
    csv_path = str(tmp_path / "meta" / "esc50.csv")
    assert main(["data", "from-labels", csv_path, "--out", str(tmp_path / "out")]) == 0
    splits = read(tmp_path / "out")
    assert set(splits) == {"fold1", "fold2"}
    records = [record for part in splits.values() for record in part]
    assert Counter(r.kind for r in records) == {k: 20 for k in ("caption", "what", "choice", "presence")}
    for record in records:
        (label,) = record.meta["labels"]
        spoken = label.replace("_", " ")
        if record.kind == "caption":
            assert all(spoken in caption.lower() for caption in record.captions)
        elif record.kind == "presence":
            assert record.answer == ("yes" if spoken in record.question else "no")
        else:
            assert record.answer == spoken
        if record.kind == "choice":
            assert len(record.choices) == 4 and spoken in record.choices
    assert {r.answer for r in records if r.kind == "presence"} == {"yes", "no"}
    assert len({r.choices.index(r.answer) for r in records if r.kind == "choice"}) > 1


def test_no_option_but_the_answer_can_be_heard():
    """A clip has three of six labels: of the options, one is among the three and the others are not, in any clip."""
    labels = ["dog", "rain", "wind", "bell", "siren", "horn"]
    asked = [
        next(QuestionWriter(labels, ["choice"]).write(f"clip{i}", labels[i % 4 : i % 4 + 3]))
        for i in range(40)
    ]
    for record in asked:
        assert set(record["choices"]) & set(record["labels"]) == {record["answer"]}
        assert len(record["choices"]) == 4
    assert len({record["answer"] for record in asked}) == 6
    present = [
        next(QuestionWriter(labels, ["presence"]).write(f"clip{i}", labels[i % 4 : i % 4 + 3]))
        for i in range(40)
    ]
    for record in present:
        (named,) = [label for label in labels if label in record["question"]]
        assert record["answer"] == ("yes" if named in record["labels"] else "no")


def test_from_labels_takes_other_wordings_kinds_and_several_labels(tmp_path):
    audio(tmp_path / "a.wav", tmp_path / "b.wav")
    table(tmp_path / "t.csv", ["fname", "labels"], ["a.wav", "dog,rain"], ["b.wav", "sea_waves"])
    (tmp_path / "w.yaml").write_text("what: ['Hm?']\nnames: {sea_waves: the sea}\n")
    command = [
        "data",
        "from-labels",
        str(tmp_path / "t.csv"),
        "--out",
        str(tmp_path / "out"),
        "--kinds",
        "what",
    ]
    assert main([*command, "--separator", ",", "--templates", str(tmp_path / "w.yaml")]) == 0
    records = read(tmp_path / "out")["train"]
    assert [(r.question, r.answer) for r in records] == [("Hm?", "dog and rain"), ("Hm?", "the sea")]
    table(tmp_path / "t.csv", ["fname", "label"], ["a.wav", "dog"], ["b.wav", "horn"], ["a.wav", "rain"])
    assert main([*command[:4], str(tmp_path / "rows"), *command[5:]]) == 0  # a row for each event of a clip
    assert [r.answer for r in read(tmp_path / "rows")["train"]] == ["dog and rain", "horn"]
    with pytest.raises(ConfigError, match="does not contain {label}"):
        Templates(caption=("a sound",))
    with pytest.raises(ConfigError, match="two labels or more"):
        QuestionWriter(["dog"])
    with pytest.raises(ConfigError, match="expected some of caption"):
        QuestionWriter(["dog", "cat"], ["color"])
