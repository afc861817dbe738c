"""The readers of benchmarks on small trees in the layouts of their releases."""

import json

import pytest
from corpus_trees import QUESTIONS, choice_item, classification, sound
from corpus_trees import rows_table as table

from alm.common.errors import ConfigError
from eval.benchmarks import BENCHMARKS, load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError


def clotho(root):
    rows = [
        {"file_name": f"clip {i}.wav", **{f"caption_{k}": f'A "dog" barks, {i} {k}.' for k in range(1, 6)}}
        for i in range(2)
    ]
    table(root / "clotho_captions_evaluation.csv", rows)
    return [root / "evaluation" / row["file_name"] for row in rows]


def audiocaps(root):
    rows = [
        {"audiocap_id": i * 5 + k, "youtube_id": f"-id{i}", "start_time": 30, "caption": f"rain {k}"}
        for k in range(5)
        for i in range(2)
    ]
    table(root / "test.csv", rows)
    return [root / "audio" / "test" / "-id0_30.wav", root / "audio" / "test" / "-id1.flac"]


def clothoaqa(root):
    answers = [
        ("Is it a dog?", ["Yes", "yes", "no"]),
        ("What is it?", ["dog", "Dog", "puppy"]),
        ("Is it?", ["no", "No", "no."]),
    ]
    rows = [
        {"file_name": "a.wav", "QuestionText": question, "answer": answer, "confidence": "yes"}
        for question, given in answers
        for answer in given
    ]
    table(root / "clotho_aqa_test.csv", rows)
    return [root / "audio_files" / "a.wav"]


TREES = {"clotho": clotho, "audiocaps": audiocaps, "clothoaqa": clothoaqa, **QUESTIONS}


def build(name, root):
    for path in TREES[name](root):
        sound(path)
    return root


def test_every_benchmark_has_a_tree():
    elsewhere = {
        "manifest",
        "ltu_classification",
        "transcription",
        "open_asr",
        "speech_translation",
        "emotion",
    }
    assert set(TREES) | elsewhere | {"spoken_qa", "sound_events"} == set(BENCHMARKS.names())


@pytest.mark.parametrize("name", TREES)
def test_every_record_is_asked_with_its_audio(name, tmp_path):
    benchmark = load_benchmark(name)
    records, notes, _ = read_records(benchmark, build(name, tmp_path))
    assert len(records) == (3 if name == "clothoaqa" else 2) and not notes
    for record in records:
        text = "".join(turn["content"] for turn in record.prompt_messages)
        assert text.count("<|audio|>") == len(record.audio) and "{question}" not in text
        assert record.references and (not record.choices or record.answer in record.choices)
        assert all(f". {choice}" in text for choice in record.choices)
        assert record.source.split(":")[0].startswith(str(tmp_path))
        # Questions about one recording are one clip, whose answers are resampled together.
        assert record.clip == "+".join(ref.path.name for ref in record.audio)


def test_what_records_say(tmp_path):
    def read(name, split=""):
        root = tmp_path / name
        if not root.exists():
            root.mkdir()
            build(name, root)
        return read_records(load_benchmark(name), root, split, check_audio=not split)[0]

    assert read("clotho")[1].captions == tuple(f'A "dog" barks, 1 {k}.' for k in range(1, 6))
    captions = read("audiocaps")
    assert (
        captions[1].captions == tuple(f"rain {k}" for k in range(5))
        and captions[1].audio[0].path.suffix == ".flac"
    )
    questions = read("clothoaqa")
    assert [record.kind for record in questions] == ["yes_no", "single_word", "yes_no"]
    assert [record.answer for record in questions] == ["yes", "dog", "no"]
    assert questions[1].meta["answers"] == ["dog", "puppy"] and questions[2].meta["unanimous"] == "yes"
    assert read("mmau")[0].choices == ("dog", "cat") and read("mmau")[1].choices.count("cat") == 2
    assert [record.answer for record in read("mmau", "test")] == [None, None]
    assert len(read("mmau_pro")[1].audio) == 2
    grounding = read("airbench")[1]
    assert grounding.audio[0].path.suffix == ".flac" and grounding.choices == ("up", "down")
    music = read("muchomusic")
    assert [record.kind for record in music] == ["knowledge", "reasoning"]
    assert sorted(music[0].choices) == ["Blues", "Jazz", "Pop", "Rock"]
    assert [record.choices for record in music] == [record.choices for record in read("muchomusic")]


@pytest.mark.parametrize("kind", load_benchmark("ltu_classification").splits)
def test_classification_trees(kind, tmp_path):
    wanted = classification(tmp_path, kind)
    for path in wanted:
        sound(path)
    records, *_ = read_records(load_benchmark("ltu_classification"), tmp_path, kind)
    assert {record.audio[0].path: record.meta["answers"] for record in records} == wanted
    assert all(set(record.meta["answers"]) <= set(record.choices) for record in records)
    (labels,) = {record.choices for record in records}
    several = kind in ("fsd50k", "audioset")  # whose published lists have an order of their own
    assert several or list(labels) == sorted(labels)
    assert "A. " not in records[0].question  # hundreds of labels are not put to the model


def test_bad_data_is_a_typed_error(tmp_path):
    benchmark = load_benchmark("mmau")
    with pytest.raises(EvaluationError, match="mmau-test-mini.json"):
        read_records(benchmark, tmp_path)
    with pytest.raises(EvaluationError, match="no such file or folder"):
        read_records(benchmark, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no split 'dev'"):
        read_records(benchmark, tmp_path, "dev")
    with pytest.raises(ConfigError, match="data is empty"):
        read_records(benchmark, "")
    path = tmp_path / "mmau-test-mini.json"
    good = choice_item(1, audio_id="a.wav", task="sound")
    for items, message in (
        ([{"id": "a"}], "no field 'audio_id'"),
        ([], "at least one"),
        ([{**good, "answer": "bird"}], "'bird' is not one of the choices"),
        ([good, good], "id 'q1' was already used at"),
        ([good], "none of the 1 records .*a.wav"),
    ):
        path.write_text(json.dumps(items))
        with pytest.raises(EvaluationError, match=message):
            read_records(benchmark, tmp_path)
    path.write_text("[")
    with pytest.raises(EvaluationError, match="broken JSON"):
        read_records(benchmark, tmp_path)
    (tmp_path / "clotho_captions_evaluation.csv").write_text("file_name,caption_1\na.wav,x\n")
    (tmp_path / "evaluation").mkdir()
    with pytest.raises(EvaluationError, match="no column 'caption_2'"):
        read_records(load_benchmark("clotho"), tmp_path)


def test_vanished_clips_are_left_out_only_when_asked_and_said(tmp_path):
    build("audiocaps", tmp_path)
    (tmp_path / "audio" / "test" / "-id0_30.wav").unlink()
    with pytest.raises(EvaluationError, match="1 of 2 records lack their recording"):
        read_records(load_benchmark("audiocaps"), tmp_path)
    records, notes, _ = read_records(load_benchmark("audiocaps"), tmp_path, missing_audio="leave_out")
    assert [record.id for record in records] == ["-id1_30"] and "1 of 2 records were dropped" in notes[0]
    for recording in (tmp_path / "audio" / "test").iterdir():
        recording.unlink()
    for policy in ("error", "leave_out"):
        with pytest.raises(
            EvaluationError, match="none of the 2 records of audiocaps has its recording; the first"
        ):
            read_records(load_benchmark("audiocaps"), tmp_path, missing_audio=policy)


def test_real_tables(shared_dir):
    data = shared_dir / "data"
    questions, *_ = read_records(load_benchmark("mmau"), data / "mmau", check_audio=False)
    assert len(questions) == 1000 and {record.kind for record in questions} == {"sound", "music", "speech"}
    clips, *_ = read_records(load_benchmark("audiocaps"), data / "audiocaps", check_audio=False)
    assert len(clips) == 975 and all(len(record.captions) == 5 for record in clips)
