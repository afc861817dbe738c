"""The readers of benchmarks on small trees in the layouts of their releases."""

import csv
import json
import shutil

import numpy as np
import pytest

from alm.common.errors import ConfigError
from encoders.audio import save_wav
from eval.benchmarks import list_benchmarks, load_benchmark
from eval.errors import EvaluationError
from eval.runner.benchmark_data import read_records

RATE = 16000


def sound(path):
    """A short recording; FLAC and Ogg where the name says so."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    tone = (0.1 * np.sin(np.arange(1600) / 5)).astype(np.float32)
    if path.suffix == ".wav":
        save_wav(path, tone, RATE)
    else:
        soundfile.write(path, tone, RATE)


def table(path, rows, delimiter=",", header=True):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", newline="") as file:
        if header:
            writer = csv.DictWriter(file, rows[0], delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
        else:
            csv.writer(file, delimiter=delimiter).writerows(rows)


def choice_item(number, **more):
    return {"id": f"q{number}", "question": "Which?", "choices": [" dog", "cat "], "answer": "cat ", **more}


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
        ("Is it?", ["no"] * 3),
    ]
    rows = [
        {"file_name": "a.wav", "QuestionText": question, "answer": answer, "confidence": "yes"}
        for question, given in answers
        for answer in given
    ]
    table(root / "clotho_aqa_test.csv", rows)
    return [root / "audio_files" / "a.wav"]


def mmau(root):
    items = [
        choice_item(
            i, audio_id=f"./test-mini-audios/{i}.wav", task="sound", difficulty="easy", category="Reasoning"
        )
        for i in range(2)
    ]
    items[1]["choices"] = ["cat", "cat", "dog"]  # the release has such rows
    items[1]["answer"] = "cat"
    (root / "mmau-test-mini.json").write_text(json.dumps(items))
    hidden = [{key: value for key, value in item.items() if key != "answer"} for item in items]
    (root / "mmau-test.json").write_text(json.dumps(hidden))
    return [root / "test-mini-audios" / f"{i}.wav" for i in range(2)]


def mmar(root):
    items = [
        choice_item(i, audio_path=f"./audio/{i}.wav", modality="mix", category="Signal Layer")
        for i in range(2)
    ]
    (root / "MMAR-meta.json").write_text(json.dumps(items))
    return [root / "audio" / f"{i}.wav" for i in range(2)]


def mmau_pro(root):
    import pyarrow
    import pyarrow.parquet

    items = [
        choice_item(i, audio_path=[f"data/{i}.wav"], category="sound", length_type="short") for i in range(2)
    ]
    items[1]["audio_path"].append("data/0.wav")
    items.append(
        {
            **choice_item(2),
            "audio_path": ["data/0.wav"],
            "category": "open",
            "length_type": "long",
            "choices": [],
        }
    )
    items.append({**items[0], "id": "q3", "answer": None, "category": "instruction following"})
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), root / "test.parquet")
    return [root / "data" / f"{i}.wav" for i in range(2)]


def mmsu(root):
    items = [
        {
            "id": f"{task}_{task}", "task_name": task, "audio_path": f"./MMSU/audio/{task}.wav", "question": "Which?",
            "choice_a": "up", "choice_b": "down", "choice_c": "flat", "choice_d": "none", "answer_gt": "flat",
            "category": "Perception",
        }
        for task in ("pitch", "stress")
    ]  # fmt: skip
    (root / "question").mkdir()
    (root / "question" / "mmsu.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return [root / "audio" / f"{task}.wav" for task in ("pitch", "stress")]


def airbench(root):
    items = [
        {
            "path": "1.wav", "question": "Which?", "choice_a": "up", "choice_b": "down", "choice_c": None,
            "choice_d": None, "answer_gt": "down", "task_name": task, "dataset_name": "set", "uniq_id": number,
        }
        for number, task in enumerate(["Sound_AQA", "Audio_Grounding"])
    ]  # fmt: skip
    (root / "Foundation_meta.json").write_text(json.dumps(items))
    return [root / "Sound_AQA_set" / "1.wav", root / "Audio_Grounding_set" / "1.flac"]


def muchomusic(root):
    row = {
        "question": "Which genre?", "correct_answer": "Blues", "distractor_1_answer": "Jazz",
        "distractor_2_answer": "Rock", "distractor_3_answer": "Pop", "genre": "blues", "music_knowledge": "['genre']",
        "music_reasoning": "",
    }  # fmt: skip
    rows = [
        {**row, "dataset": "sdd", "dataset_identifier": "1004034.json"},
        {**row, "dataset": "musiccaps", "dataset_identifier": "_a-b_1.json", "music_reasoning": "['mood']"},
    ]
    table(root / "muchomusic.csv", rows)
    table(root / "sdd" / "song_describer.csv", [{"track_id": "1004034", "path": "34/1004034.mp3"}])
    table(root / "musiccaps" / "musiccaps-public.csv", [{"ytid": "_a-b", "start_s": "30", "end_s": "40"}])
    paths = [
        root / "sdd" / "audio" / "34" / "1004034.2min.mp3",
        root / "musiccaps" / "audio" / "[_a-b]-[30-40].wav",
    ]
    sound(root / "tone.wav")
    paths[0].parent.mkdir(parents=True)
    shutil.copy(root / "tone.wav", paths[0])
    return paths[1:]


TREES = {
    "clotho": clotho, "audiocaps": audiocaps, "clothoaqa": clothoaqa, "mmau": mmau, "mmar": mmar,
    "mmau_pro": mmau_pro, "mmsu": mmsu, "airbench": airbench, "muchomusic": muchomusic,
}  # fmt: skip


def build(name, root):
    for path in TREES[name](root):
        sound(path)
    return root


def test_every_benchmark_has_a_tree():
    assert set(TREES) | {"manifest", "ltu_classification", "transcription"} == set(list_benchmarks())


@pytest.mark.parametrize("name", TREES)
def test_every_record_is_asked_with_its_audio(name, tmp_path):
    benchmark = load_benchmark(name)
    records, notes = read_records(benchmark, build(name, tmp_path))
    assert len(records) == (3 if name == "clothoaqa" else 2) and not notes
    for record in records:
        text = "".join(turn["content"] for turn in record.prompt_messages)
        assert text.count("<|audio|>") == len(record.audio) and "{question}" not in text
        assert record.references and (not record.choices or record.answer in record.choices)
        assert all(f". {choice}" in text for choice in record.choices)
        assert record.source.split(":")[0].startswith(str(tmp_path)) and record.clip


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


def _labels(root, kind):
    """A tree of one classification data set; returns recordings and the labels of each."""
    if kind == "esc50":
        table(
            root / "meta" / "esc50.csv",
            [{"filename": "1-a.wav", "fold": 1, "target": 0, "category": "crying_baby"}],
        )
        return {root / "audio" / "1-a.wav": ["crying baby"]}
    if kind == "vocalsound":
        table(root / "class_labels_indices_vs.csv", [{"index": 0, "mid": "/m/1", "display_name": "Sneeze"}])
        (root / "datafiles").mkdir()
        data = {"data": [{"wav": "/old/place/f1.wav", "labels": "/m/1"}]}
        (root / "datafiles" / "te.json").write_text(json.dumps(data))
        return {root / "audio_16k" / "f1.wav": ["Sneeze"]}
    if kind == "fsd50k":
        table(
            root / "FSD50K.ground_truth" / "eval.csv",
            [{"fname": 37199, "labels": "Rain,Tap_water", "mids": "a,b"}],
        )
        vocabulary = [[0, "Rain", "a"], [1, "Tap_water", "b"], [2, "Wind", "c"]]
        table(root / "FSD50K.ground_truth" / "vocabulary.csv", vocabulary, header=False)
        return {root / "FSD50K.eval_audio" / "37199.wav": ["Rain", "Tap water"]}
    if kind == "vggsound":
        rows = [["-id", 30, "people whistling, loud", "test"], ["id2", 0, "dog", "train"]]
        table(root / "vggsound.csv", rows, header=False)
        return {root / "audio" / "-id_000030.wav": ["people whistling, loud"]}
    if kind == "tut17":
        (root / "meta.txt").write_text("audio/1.wav\tgrocery_store\n")
        return {root / "audio" / "1.wav": ["grocery store"]}
    if kind == "dcase17":
        (root / "groundtruth_release.csv").write_text(
            "-id_30.000_40.000.wav\t0\t10\tCar\n-id_30.000_40.000.wav\t0\t10\tBus\n"
        )
        return {root / "audio" / "Y-id_30.000_40.000.wav": ["Car", "Bus"]}
    if kind == "beijing_opera":
        return {root / "bangu" / "1.wav": ["bangu"], root / "daluo" / "1.wav": ["daluo"]}
    rows = [
        {"index": i, "mid": f"/m/{i}", "display_name": name}
        for i, name in enumerate(["Speech", "Music, live"])
    ]
    table(root / "class_labels_indices.csv", rows)
    (root / "eval_segments.csv").write_text(
        '# Segments csv\n# YTID, start\n-id, 30.000, 40.000, "/m/0,/m/1"\n'
    )
    return {root / "audio" / "-id.wav": ["Speech", "Music, live"]}


@pytest.mark.parametrize("kind", load_benchmark("ltu_classification").splits)
def test_classification_trees(kind, tmp_path):
    wanted = _labels(tmp_path, kind)
    for path in wanted:
        sound(path)
    records, _ = read_records(load_benchmark("ltu_classification"), tmp_path, kind)
    assert {record.audio[0].path: record.meta["answers"] for record in records} == wanted
    assert all(set(record.meta["answers"]) <= set(record.choices) for record in records)
    assert len({record.choices for record in records}) == 1
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
        ([good, good], "'q1' is at"),
        ([good], "none of the 1 recordings .*a.wav"),
    ):
        path.write_text(json.dumps(items))
        with pytest.raises(EvaluationError, match=message):
            read_records(benchmark, tmp_path)
    path.write_text("[")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_records(benchmark, tmp_path)
    (tmp_path / "clotho_captions_evaluation.csv").write_text("file_name,caption_1\na.wav,x\n")
    (tmp_path / "evaluation").mkdir()
    with pytest.raises(EvaluationError, match="no column 'caption_2'"):
        read_records(load_benchmark("clotho"), tmp_path)


def test_vanished_clips_are_left_out_only_when_asked_and_said(tmp_path):
    build("audiocaps", tmp_path)
    (tmp_path / "audio" / "test" / "-id0_30.wav").unlink()
    with pytest.raises(EvaluationError, match="1 of 2 records lack theirs"):
        read_records(load_benchmark("audiocaps"), tmp_path)
    records, notes = read_records(load_benchmark("audiocaps"), tmp_path, missing_audio="leave_out")
    assert [record.id for record in records] == ["-id1_30"] and "1 of 2 records left out" in notes[0]
    for recording in (tmp_path / "audio" / "test").iterdir():
        recording.unlink()
    for policy in ("error", "leave_out"):
        with pytest.raises(
            EvaluationError, match="none of the 2 recordings of audiocaps is there, the first"
        ):
            read_records(load_benchmark("audiocaps"), tmp_path, missing_audio=policy)


def test_real_tables(shared_dir):
    data = shared_dir / "data"
    questions, _ = read_records(load_benchmark("mmau"), data / "mmau", check_audio=False)
    assert len(questions) == 1000 and {record.kind for record in questions} == {"sound", "music", "speech"}
    clips, _ = read_records(load_benchmark("audiocaps"), data / "audiocaps", check_audio=False)
    assert len(clips) == 975 and all(len(record.captions) == 5 for record in clips)
