"""What records, questions from label tables, statistics and cut samples are made of, against values made here."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from alm.data.audit import statistics, verify
from alm.data.from_labels import QuestionWriter, Templates
from alm.data.manifest import read_manifest, write_manifest
from alm.data.records import CAPTION_PROMPTS, AudioRef, caption_prompt
from alm.data.shard_writer import write_shards
from alm.data.shards import ShardedRecords
from alm.processing.batch import Encoded, pad_rows
from encoders.audio import save_wav

SOUNDS = ("dog_bark", "rain", "church bell", "siren", "clock_tick", "door")


def test_questions_about_labels_have_right_answers_in_every_place():
    """Over 400 clips: the right option stands as often in each place, and half of the sounds asked about are there."""
    writer = QuestionWriter(SOUNDS)
    places, answers, wrong = Counter(), Counter(), Counter()
    for number in range(400):
        heard = [SOUNDS[number % 6]]
        spoken = heard[0].replace("_", " ")
        records = {record["id"].split("/")[1]: record for record in writer.write(f"clip{number}", heard)}
        assert list(records) == ["caption", "what", "choice", "presence"]
        assert all(record["labels"] == heard for record in records.values())
        assert records["what"]["answer"] == spoken
        choice = records["choice"]
        assert choice["answer"] == spoken and len(set(choice["choices"])) == 4
        places[choice["choices"].index(spoken)] += 1
        wrong.update(option for option in choice["choices"] if option != spoken)
        presence = records["presence"]
        assert (spoken in presence["question"]) == (presence["answer"] == "yes")
        answers[presence["answer"]] += 1
    assert sorted(places) == [0, 1, 2, 3] and min(places.values()) > 70  # 100 each, give or take 9
    assert min(answers.values()) > 160  # 200 each, give or take 10
    assert len(wrong) == 6 and min(wrong.values()) > 130  # 200 each


def test_captions_name_all_sounds_and_begin_with_one_capital():
    writer = QuestionWriter(SOUNDS, ["caption", "what", "choice"], Templates(names={"rain": "heavy RAIN"}))
    caption, what, choice = writer.write("c", ["rain", "church bell", "dog_bark"])
    assert what["answer"] == "heavy RAIN, church bell and dog bark"
    assert caption["captions"][-1] == "Heavy RAIN, church bell and dog bark."
    assert caption["captions"][0] == "The sound of heavy RAIN, church bell and dog bark."
    heard = {"heavy RAIN", "church bell", "dog bark"}
    assert heard & set(choice["choices"]) == {choice["answer"]} and len(choice["choices"]) == 4
    assert list(QuestionWriter(SOUNDS, ["choice"]).write("c", SOUNDS)) == []  # nothing is absent
    (presence,) = QuestionWriter(SOUNDS, ["presence"]).write("c", SOUNDS)
    assert presence["answer"] == "yes"


@pytest.mark.parametrize("identity", ["a", "c", "d", "clip-17", "é"])
def test_the_wording_follows_from_the_id_in_every_release(identity):
    first = int(hashlib.sha256(identity.encode()).hexdigest()[:8], 16)
    assert caption_prompt(identity) == CAPTION_PROMPTS[first % 6]
    (record,) = QuestionWriter(SOUNDS, ["what"], Templates(what=tuple("abcdefg"))).write(identity, ["rain"])
    number = int(hashlib.sha256(f"{identity}/what".encode()).hexdigest()[:16], 16)
    assert record["question"] == "abcdefg"[number % 7]


def test_captions_come_again_after_the_last_and_clips_are_named_by_all_their_audio(tmp_path):
    lines = [
        {"id": "a", "audio": "a.wav", "captions": ["one", "two", "three"]},
        {"id": "b", "audio": ["a.wav", "b.wav", "a.wav"], "question": "q", "answer": "x"},
        {"id": "c", "audio": [], "question": "q", "answer": "x"},
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    captions, both, text = read_manifest(tmp_path / "m.jsonl")
    heard = [captions.conversation(i)[-1]["content"] for i in range(7)]
    assert heard == ["one", "two", "three", "one", "two", "three", "one"]
    assert [len(captions.conversation(i)) for i in (0, 4)] == [2, 2]
    assert (both.clip, text.clip, captions.clip) == ("a.wav+b.wav", "c", "a.wav")
    assert both.conversation(1) == both.messages


def test_statistics_count_every_caption_segment_and_unreadable_clip(tmp_path):
    save_wav(tmp_path / "four.wav", np.full(4 * 8000, 0.1, np.float32), 8000)
    save_wav(tmp_path / "one.wav", np.full(16000, 0.1, np.float32), 16000)
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    part = {"path": "four.wav", "start_s": 1, "end_s": 1.5}
    late = {"path": "one.wav", "start_s": 3, "end_s": 5}
    lines = [
        {"id": "a", "audio": "four.wav", "captions": ["one two three", "one", "one two"]},
        {"id": "b", "audio": [part, "one.wav"], "question": "q", "answer": "yes it is really so now"},
        {"id": "c", "audio": [part, "bad.wav"], "question": "q", "answer": None},
        {"id": "d", "audio": late, "question": "q", "answer": "x", "kind": "late"},
        {"id": "e", "audio": {"path": "four.wav", "start_s": 3, "end_s": 9}, "question": "q", "answer": "x"},
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    found = statistics(str(tmp_path / "m.jsonl"))
    assert (found["records"], found["clips"], found["unreadable"]) == (5, 6, 2)
    assert found["hours"] == pytest.approx((4 + 0.5 + 1 + 1) / 3600, abs=5e-5)
    assert found["clip_s"] == {"min": 0.5, "median": 1.0, "mean": 1.625, "max": 4.0}
    assert found["answer_words"] == {"min": 1, "median": 1.5, "mean": 2.333, "max": 6}
    assert found["kinds"] == {"qa": 3, "caption": 1, "late": 1}
    assert found["sample_rates"] == {"8000": 3, "16000": 1}


def test_a_segment_is_as_long_as_it_says_and_a_changed_file_shows(tmp_path):
    save_wav(tmp_path / "a.wav", np.full(24000, 0.1, np.float32), 8000)
    path = tmp_path / "a.wav"
    lengths = [AudioRef(path, *times).seconds() for times in ((), (0.5,), (0.5, 2.0), (None, 2.0))]
    assert lengths == [3.0, 2.5, 1.5, 2.0]
    state = AudioRef(path).state()
    assert state == (path.stat().st_size, path.stat().st_mtime_ns)
    assert AudioRef(tmp_path).state() is None and AudioRef(tmp_path / "b.wav").state() is None


def test_a_sample_is_cut_before_the_clip_that_does_not_fit():
    sample = Encoded(list(range(10)), [-100] * 8 + [8, 9], [(1, 4), (5, 8)])
    for limit, length, spans in (
        (10, 10, 2),
        (8, 8, 2),
        (7, 5, 1),
        (5, 5, 1),
        (4, 4, 1),
        (3, 1, 0),
        (1, 1, 0),
    ):
        cut = sample.cut(limit)
        assert (cut.ids, cut.labels) == (sample.ids[:length], sample.labels[:length])
        assert cut.spans == sample.spans[:spans]


def test_rows_are_filled_on_the_asked_side():
    assert pad_rows([[1], [2, 3]], 7, "left", 3).tolist() == [[7, 7, 1], [7, 2, 3]]
    assert pad_rows([[1], [2, 3]], 7, "right", 3).tolist() == [[1, 7, 7], [2, 3, 7]]


def test_tables_of_shards_say_what_each_record_and_clip_is(tmp_path):
    """Samples in an order drawn here, one shard each; the length of a record about segments is that of the segments."""
    for name, seconds in (("a", 4), ("b", 1), ("c", 2)):
        save_wav(tmp_path / f"{name}.wav", np.full(8000 * seconds, 0.1, np.float32), 8000)
    parts = [{"path": "a.wav", "start_s": start, "end_s": start + 0.5} for start in (1, 2)]
    lines = [
        {"id": "a0", "audio": "a.wav", "question": "what?", "answer": "four"},
        {"id": "b0", "audio": "b.wav", "captions": ["one", "seven"], "prompt": "Say."},
        {"id": "c0", "audio": ["c.wav", "b.wav"], "question": "q", "answer": None},
        {"id": "a1", "audio": parts, "question": "which", "answer": "x"},
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    for seed in (None, 1, 2):
        out = tmp_path / f"shards{seed}"
        index = write_shards(read_manifest(tmp_path / "m.jsonl"), out, 1e-6, seed)
        groups = [["a0", "a1"], ["b0"], ["c0"]]
        order = range(3) if seed is None else np.random.default_rng(seed).permutation(3)
        expected = [name for group in order for name in groups[group]]
        records = ShardedRecords(out)
        assert [record.id for record in records] == expected and len(index["shards"]) == 3
        rows = dict(zip(expected, records.rows, strict=True))
        assert {name: float(row["seconds"]) for name, row in rows.items()} == {
            "a0": 4,
            "b0": 1,
            "c0": 3,
            "a1": 1,
        }
        n_markers = {"a0": 1, "b0": 1, "c0": 2, "a1": 2}
        texts = {"a0": "what?four", "b0": "Say.one", "c0": "q", "a1": "whichx"}
        for name, row in rows.items():
            assert row["text_chars"] == len(texts[name]) + len("<|audio|>") * n_markers[name]
            assert (bool(row["answered"]), bool(row["has_text"])) == (name != "c0", True)
        about = [expected[clip["record"]] for clip in records.clips]
        assert sorted(about) == ["a0", "a1", "a1", "b0", "c0", "c0"]
        assert [int(clip["frames"]) for clip in records.clips if expected[clip["record"]] == "a1"] == [
            32000
        ] * 2
        sizes = {name: (tmp_path / f"{name}.wav").stat().st_size for name in "abc"}
        assert sorted(int(clip["size"]) for clip in records.clips) == sorted(sizes[name] for name in "aaabbc")


def test_verify_names_the_clip_whose_bytes_changed_and_its_record(tmp_path):
    lines = []
    for i in range(3):
        save_wav(tmp_path / f"{i}.wav", np.full(4000 + 100 * i, 0.1 * (i + 1), np.float32), 8000)
        lines.append({"id": f"r{i}", "audio": f"{i}.wav", "question": "q", "answer": "x"})
    write_manifest(tmp_path / "m.jsonl", lines)
    write_shards(read_manifest(tmp_path / "m.jsonl"), tmp_path / "shards")
    records = ShardedRecords(tmp_path / "shards")
    data = bytearray(records.shards[0].read_bytes())
    data[int(records.clips[1]["at"]) + 2000] ^= 1
    records.shards[0].write_bytes(data)
    changed = [(where, what) for where, what in verify(str(tmp_path / "shards")).problems if "clip " in what]
    assert [where for where, _ in changed] == [records.source(1)]
    assert "clip 1 changed since it was written" in changed[0][1]
