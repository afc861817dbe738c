"""One reader per corpus: found by file, the same names and columns everywhere, and clear refusals."""

import hashlib
import json
import unicodedata
from collections import Counter

import fuzz_tables
import pyarrow
import pyarrow.parquet
import pytest
from corpus_trees import audioset, fsd50k, rows_table, sound, speech_commands

from alm.cli import main
from alm.common.errors import ConfigError, ManifestError, UserError
from alm.data.convert import convert
from alm.data.corpora import CORPORA, open_corpus
from alm.data.corpora.audio_files import AudioFiles, segment_names
from alm.data.corpora.clothoaqa import agreed_answers
from alm.data.corpora.rows import Row, find_files, object_rows
from alm.data.manifest import read_manifest
from eval.benchmarks import load_benchmark
from eval.benchmarks._readers import corpus_reader
from eval.errors import EvaluationError
from train.finetune.datasets import list_datasets, read_dataset, read_tables

PLUGIN = '''
"""Doors: `doors.csv` (file, sound, part) and `audio`."""

from dataclasses import dataclass

from alm.data.corpora import Corpus, Entry
from alm.data.corpora.rows import csv_rows


@dataclass(frozen=True)
class Doors(Corpus):
    only: str = ""
    splits = ("train", "test")
    trainable = True

    def entries(self, audio, split=None):
        for row in csv_rows(self.table("doors.csv"), ("file", "sound", "part")):
            if split in (None, row.text("part")) and self.only in row.text("sound"):
                name, label = row.text("file"), row.text("sound")
                yield Entry(
                    name, (audio.clip(name),), row.where, row.text("part"), question="Which door?", answer=label,
                    labels=(label,), group=name,
                )


CORPUS = Doors
'''


@pytest.fixture
def doors(tmp_path, monkeypatch):
    """A plug-in folder with one file, and the tree of its corpus."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "doors.py").write_text(PLUGIN)
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    root = tmp_path / "doors"
    rows = [
        {"file": f"{i}.wav", "sound": ("creak", "slam")[i % 2], "part": "train" if i < 4 else "test"}
        for i in range(6)
    ]
    rows_table(root / "doors.csv", rows)
    for i in range(6):
        sound(root / "audio" / f"{i}.wav")
    return root


def test_one_file_in_a_plugin_folder_converts_trains_and_is_benchmarked(doors, tmp_path, capsys):
    assert "doors" in CORPORA.names() and "doors" in list_datasets()
    assert main(["data", "convert", "doors", str(doors), "--out", str(tmp_path / "out")]) == 0
    records = read_manifest(tmp_path / "out" / "test.jsonl", check_files=True)
    assert [(r.id, r.question, r.answer) for r in records] == [
        ("doors-test-4.wav", "Which door?", "creak"), ("doors-test-5.wav", "Which door?", "slam"),
    ]  # fmt: skip
    data = read_dataset("doors", {"root": str(doors)})
    assert data.classes == ("creak", "slam") and [clip.split for clip in data.clips].count("test") == 2
    assert len(read_dataset("doors", {"root": str(doors), "only": "slam"}).clips) == 3
    asked = corpus_reader("doors")(doors, "test")
    assert [(r.question, r.answer, r.audio[0].path.name) for r in asked] == [
        ("Which door?", "creak", "4.wav"), ("Which door?", "slam", "5.wav"),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="unknown corpus 'door'; did you mean 'doors'"):
        open_corpus("door", doors)


def test_a_plugin_that_is_no_corpus_or_has_a_taken_name_is_refused(doors, tmp_path):
    (tmp_path / "plugins" / "broken.py").write_text("CORPUS = 3\n")
    with pytest.raises(ConfigError, match="broken.py: declares no corpus; end it with CORPUS = a subclass"):
        CORPORA.get("broken")
    (tmp_path / "plugins" / "clotho.py").write_text("CORPUS = None\n")
    with pytest.raises(ConfigError, match="corpus 'clotho' is in .*rename one"):
        CORPORA.names()


def _audiocaps(root, file_name):
    rows_table(
        root / "test.csv", [{"audiocap_id": 103549, "youtube_id": "7fmOl", "start_time": 20, "caption": "a"}]
    )
    sound(root / "audio" / file_name)


NAMES = (
    "7fmOl_20.wav", "Y7fmOl_20.000_30.000.wav", "7fmOl_000020.wav", "103549.wav", "Y7fmOl_20000_30000.wav",
    "7fmOl.flac", "7fmOl_20_30.wav", "Y7fmOl.wav", "[7fmOl]-[20-30].wav",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_downloaders_name_is_found_by_converter_and_benchmark(name, tmp_path):
    _audiocaps(tmp_path / "d", name)
    convert("audiocaps", tmp_path / "d", tmp_path / "out")
    (converted,) = read_manifest(tmp_path / "out" / "test.jsonl")
    (asked,) = load_benchmark("audiocaps").reader(tmp_path / "d", "test")
    assert (
        converted.audio[0].path.resolve() == asked.audio[0].path.resolve() == tmp_path / "d" / "audio" / name
    )


def test_another_segment_of_the_same_video_is_not_taken(tmp_path):
    _audiocaps(tmp_path / "d", "7fmOl_30.wav")
    with pytest.raises(UserError, match="1 of 1 audio files are missing"):
        convert("audiocaps", tmp_path / "d", tmp_path / "out")
    (asked,) = load_benchmark("audiocaps").reader(tmp_path / "d", "test")
    assert not asked.audio[0].path.exists()
    assert segment_names("v", 1.5, 11.5)[0] == "v_1.5" and "v_1500_11500" in segment_names("v", 1.5, 11.5)


def test_musiccaps_downloads_of_its_own_script_are_found(tmp_path):
    row = {"question": "q?", "correct_answer": "a", "distractor_1_answer": "b", "distractor_2_answer": "c"}
    row |= {"distractor_3_answer": "d", "dataset": "musiccaps", "dataset_identifier": "-0Gj8_0.json"}
    rows_table(tmp_path / "muchomusic.csv", [row])
    rows_table(
        tmp_path / "musiccaps" / "musiccaps-public.csv", [{"ytid": "-0Gj8", "start_s": "30", "end_s": "40"}]
    )
    sound(tmp_path / "musiccaps" / "audio" / "-0Gj8_30.wav")
    (record,) = load_benchmark("muchomusic").reader(tmp_path, "test")
    assert record.audio[0].path.exists() and record.audio[0].path.name == "-0Gj8_30.wav"
    rows_table(tmp_path / "muchomusic.csv", [{**row, "dataset": "else"}])
    with pytest.raises(
        EvaluationError, match="muchomusic.csv:2: the dataset is 'else'; expected sdd or musiccaps"
    ):
        load_benchmark("muchomusic").reader(tmp_path, "test")


def _clotho(root, *names, split="validation"):
    captions = {f"caption_{number}": f"w{number} x" for number in range(1, 6)}
    rows_table(root / f"clotho_captions_{split}.csv", [{"file_name": name, **captions} for name in names])


@pytest.mark.parametrize("on_disk", [" a lake.wav", "a lake.wav"])
def test_clotho_names_that_begin_with_a_blank(on_disk, tmp_path):
    _clotho(tmp_path, " a lake.wav")
    sound(tmp_path / "validation" / on_disk)
    convert("clotho", tmp_path, tmp_path / "out")
    (converted,) = read_manifest(tmp_path / "out" / "validation.jsonl", check_files=True)
    (asked,) = load_benchmark("clotho").reader(tmp_path, "validation")
    assert converted.audio[0].path.name == asked.audio[0].path.name == on_disk


def test_names_that_differ_in_a_blank_only_are_kept_apart(tmp_path):
    _clotho(tmp_path, " a.wav", "a.wav")
    for name in (" a.wav", "a.wav"):
        sound(tmp_path / "validation" / name)
    asked = load_benchmark("clotho").reader(tmp_path, "validation")
    assert [record.audio[0].path.name for record in asked] == [" a.wav", "a.wav"]


def test_clotho_takes_no_recording_of_another_split(tmp_path):
    _clotho(tmp_path, "a.wav")
    sound(tmp_path / "development" / "a.wav")
    (asked,) = load_benchmark("clotho").reader(tmp_path, "validation")
    assert not asked.audio[0].path.exists()
    with pytest.raises(UserError, match=r"1 of 1 audio files are missing \(the first: validation/a.wav"):
        convert("clotho", tmp_path, tmp_path / "out")


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_composed_and_decomposed_accents_are_one_name(listed, stored, tmp_path):
    name = "Caf\u00e9 \u304c.wav"
    rows = [{"filename": unicodedata.normalize(listed, name), "category": "cafe", "split": "train"}]
    rows_table(tmp_path / "l.csv", [*rows, {"filename": "b.wav", "category": "rain", "split": "train"}])
    sound(tmp_path / "b.wav")
    sound(tmp_path / unicodedata.normalize(stored, name))
    convert("label_csv", tmp_path / "l.csv", tmp_path / "out")
    assert read_manifest(tmp_path / "out" / "train.jsonl", check_files=True)
    data = read_dataset("label_csv", {"root": str(tmp_path / "l.csv")})
    assert data.clips[0].path.name == unicodedata.normalize(stored, name)


def test_two_files_that_fit_equally_well_are_refused(tmp_path):
    for place in ("a/x.wav", "b/x.wav", "c/y.wav", "c/y.flac"):
        sound(tmp_path / place)
    files = AudioFiles([tmp_path])
    with pytest.raises(ConfigError, match="audio 'x': .* both fit"):
        files.clip("x")
    assert files.clip("b/x").path == tmp_path / "b" / "x.wav"
    assert files.clip("else/x", inside=("a",)).path == tmp_path / "a" / "x.wav"
    assert files.clip("y").path.name == "y.wav"  # the same recording in two formats
    assert files.clip("y.flac").path.name == "y.flac"
    assert not files.clip("x", inside=("d",)).path.exists()


def test_links_that_lead_round_in_a_circle_are_followed_once(tmp_path):
    sound(tmp_path / "a" / "x.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to("self")
    assert AudioFiles([tmp_path]).all() == [tmp_path / "a" / "x.wav"]
    (tmp_path / "a" / "t.csv").write_text("x\n")
    assert find_files(tmp_path, ["t.csv", "u.csv"]) == {"t.csv": tmp_path / "a" / "t.csv"}


def _votes(root, *answers, split="test"):
    rows = [
        {"file_name": "a.wav", "QuestionText": "Is it dry?", "answer": answer, "confidence": "yes"}
        for answer in answers
    ]
    rows_table(root / f"clotho_aqa_{split}.csv", rows)
    sound(root / "audio_files" / "a.wav")


@pytest.mark.parametrize(
    ("answers", "right", "accepted"),
    [
        (("yes", "yes", "no"), "yes", None),
        (("no", "yes", "yes"), "yes", None),
        (("no", "yes"), "no", None),
        (("Yes", "yes.", "no"), "Yes", None),
        (("dog", "Dog", "puppy"), "dog", ["dog", "puppy"]),
        (("yes", "yes", "dog"), "yes", ["yes", "dog"]),
    ],
)
def test_clothoaqa_counts_the_same_answers_as_right_everywhere(answers, right, accepted, tmp_path):
    from eval.scoring.answer_scores import score_answers

    _votes(tmp_path, *answers)
    convert("clothoaqa", tmp_path, tmp_path / "out")
    converted = read_manifest(tmp_path / "out" / "test.jsonl")
    asked = load_benchmark("clothoaqa").reader(tmp_path, "test")
    assert converted[0].answer == right and converted[0].meta["votes"] == list(answers)
    assert converted[0].meta.get("answers") == accepted == asked[0].meta.get("answers")
    for said in ("yes", "no", "dog", "puppy"):
        values = [
            score_answers(records, [said], {})["qa/overall"].interval(0).value
            for records in (converted, asked)
        ]
        assert values[0] == values[1] == float(said in (accepted or [right.lower()]))


def test_clothoaqa_training_keeps_every_answer(tmp_path):
    _votes(tmp_path, "yes", "no", "dog", split="train")
    convert("clothoaqa", tmp_path, tmp_path / "out")
    records = read_manifest(tmp_path / "out" / "train.jsonl")
    assert [(r.answer, r.kind) for r in records] == [("yes", "yes_no"), ("no", "yes_no"), ("dog", "open")]
    assert agreed_answers(["b", "a", "a", "b"]) == ("b", ["b", "a"])


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"output": None}, "entry 0 has no 'output' .got None."),
        ({"output": "  "}, "entry 0 has no 'output'"),
        ({"output": True}, "entry 0: 'output' is True; expected text"),
        ({"output": ["x"]}, "entry 0: 'output' is ..x..; expected text"),
        ({"instruction": None}, "entry 0 has no 'instruction'"),
        ({"audio_id": {}}, "entry 0: 'audio_id' is {}; expected text"),
        ({"output": "\ud800"}, "half of a surrogate pair"),
    ],
)
def test_openaqa_without_a_text_is_refused(entry, message, tmp_path):
    sound(tmp_path / "a.wav")
    whole = {"instruction": "What?", "input": "", "audio_id": "/x/a.wav", "output": "rain"}
    (tmp_path / "q.json").write_text(json.dumps([{**whole, **entry}]))
    with pytest.raises(ManifestError, match=message):
        convert("openaqa", tmp_path / "q.json", tmp_path / "out")
    assert not (tmp_path / "out" / "q.jsonl").exists()


def test_split_names_never_leave_the_output_folder(tmp_path):
    for name in ("a.wav", "b.wav"):
        sound(tmp_path / name)
    for split in ("../victim/x", str(tmp_path / "victim"), ".", "a/b"):
        rows = [{"filename": f"{n}.wav", "category": n, "split": split} for n in "ab"]
        rows_table(tmp_path / "l.csv", rows)
        with pytest.raises(ManifestError, match="l.csv:2: split is .* becomes a file name"):
            convert("label_csv", tmp_path / "l.csv", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "b.wav", "l.csv"]


def test_a_clip_in_two_splits_is_refused(tmp_path):
    for name in ("a.wav", "b.wav"):
        sound(tmp_path / name)
    rows = [("a", "train"), ("b", "train"), ("a", "test")]
    rows_table(tmp_path / "l.csv", [{"filename": f"{n}.wav", "label": n, "split": s} for n, s in rows])
    with pytest.raises(ManifestError, match="l.csv:4: 'a.wav' is in 'test' here and in 'train' at .*l.csv:2"):
        convert("label_csv", tmp_path / "l.csv", tmp_path / "out")


def test_parquet_with_nulls_and_integer_ids(tmp_path):
    whole = {
        "id": 7,
        "question": "q?",
        "choices": ["a", "b"],
        "answer": "b",
        "audio_path": ["data/x.wav"],
        "category": "c",
    }
    sound(tmp_path / "data" / "x.wav")
    empty = {**whole, "id": 8, "choices": None, "answer": None}

    def read(*rows):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), tmp_path / "test.parquet")
        return load_benchmark("mmau_pro").reader(tmp_path, "test")

    (record,) = read(whole, empty)
    assert record.id == "7" and record.answer == "b"
    for wrong, message in (
        ({"question": None}, "entry 0 has no 'question'"),
        ({"choices": ["a", "b", None]}, "'choices' is .*without empty items"),
        ({"id": None}, "entry 0 has no 'id'"),
        ({"audio_path": None}, "entry 0 has no 'audio_path'"),
    ):
        with pytest.raises(EvaluationError, match=message):
            read({**whole, **wrong}, empty)
    (tmp_path / "test.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(EvaluationError, match="cannot be read as parquet"):
        load_benchmark("mmau_pro").reader(tmp_path, "test")


def test_values_of_rows():
    row = Row(
        "t:1", {"n": 5, "f": 1.5, "b": True, "x": float("nan"), "t": " a ", "l": [1, "b"], "none": None}
    )
    assert (row.text("n"), row.text("f"), row.text("t"), row.get("none"), row.get("gone")) == (
        "5",
        "1.5",
        "a",
        "",
        "",
    )
    assert row.texts("l") == ("1", "b") and row.texts("gone") == () and row.seconds("f") == 1.5
    for key in ("b", "x", "l"):
        with pytest.raises(ManifestError, match=f"t:1: '{key}' is .*expected text"):
            row.text(key)
    with pytest.raises(ManifestError, match="t:1: 't' is 'a'; expected a time in seconds"):
        row.seconds("t")


def test_deep_json_is_one_line(tmp_path):
    (tmp_path / "q.json").write_text("[" * 100_000)
    with pytest.raises(ManifestError, match="nested too deeply"):
        list(object_rows(tmp_path / "q.json", ("id",)))


def test_a_short_fuzz_of_all_tables():
    outcome = fuzz_tables.run(n=100, seed=1)
    assert not outcome.findings, "\n".join(outcome.findings[:3])
    assert outcome.counts["accepted"] > 10 and outcome.counts["refused"] > 10


def test_a_table_deeper_down_does_not_hide_the_published_one(tmp_path):
    for folder in ("old", "deep/er", "."):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "t.csv").write_text("x\n")
    (tmp_path / "old" / "u.csv").write_text("x\n")
    assert find_files(tmp_path, ["t.csv", "u.csv"])["t.csv"] == tmp_path / "t.csv"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "u.csv").write_text("x\n")
    with pytest.raises(ManifestError, match="holds u.csv twice"):
        find_files(tmp_path, ["u.csv"])


def test_keys_of_a_question_file_replace_none_of_the_record(tmp_path):
    item = {
        "id": "q1",
        "audio_id": "a.wav",
        "question": "q?",
        "choices": ["x", "x", "y"],
        "answer": "x",
        "task": "t",
    }
    item |= {"audio": "/etc/passwd", "messages": [], "prompt": "p", "captions": ["c"], "level": 2}
    (tmp_path / "mmau-test-mini.json").write_text(json.dumps([item]))
    sound(tmp_path / "a.wav")
    convert("mmau", tmp_path / "mmau-test-mini.json", tmp_path / "out")
    (record,) = read_manifest(tmp_path / "out" / "test-mini.jsonl", check_files=True)
    assert record.audio[0].path.resolve() == tmp_path / "a.wav" and record.meta["level"] == 2
    assert (record.question, record.choices, record.kind) == ("q?\nA. x\nB. y", ("x", "y"), "t")


def test_classes_are_those_of_the_training_clips(tmp_path):
    rows = [("a.wav", "dog", "train"), ("b.wav", "cat", "train"), ("c.wav", "cow", "test")]
    rows_table(tmp_path / "l.csv", [{"filename": n, "label": c, "split": s} for n, c, s in rows])
    for name, *_ in rows:
        sound(tmp_path / name)
    with pytest.raises(ManifestError, match="l.csv:4: unknown class 'cow'"):
        read_dataset("label_csv", {"root": str(tmp_path / "l.csv")})


def test_as_many_files_may_be_missing_as_allowed(tmp_path):
    options = {**audioset(tmp_path), "max_missing_rate": 0.25}
    assert read_dataset("audioset", options).notes[0].startswith("1 of 4 files are missing (25.0%)")
    with pytest.raises(ManifestError, match=r"allowed: 24.9%"):
        read_dataset("audioset", {**options, "max_missing_rate": 0.249})


def test_unknown_words_and_silences_of_speech_commands(tmp_path):
    data = read_dataset("speech_commands", {**speech_commands(tmp_path), "task": "12-way"})
    kept = [clip.id for clip in data.clips if clip.labels == ("_unknown_",)]
    words = [
        f"{word}/{speaker}_nohash_0.wav" for speaker in ("aa11", "bb22", "cc33") for word in ("cat", "tree")
    ]
    first = [
        min(words[i : i + 2], key=lambda name: hashlib.sha256(name.encode()).hexdigest()) for i in (0, 2, 4)
    ]
    assert kept == first  # one per split, the first by hash
    silence = next(clip for clip in data.clips if clip.labels == ("_silence_",))
    assert silence.end_s == silence.start_s + 1.0


def test_a_fold_folder_is_preferred_and_the_plain_name_is_reported(tmp_path):
    for name in ("fold1/a.wav", "fold2/a.wav", "fold2/b.wav"):
        sound(tmp_path / name)
    files = AudioFiles([tmp_path])
    assert files.clip("a.wav", "fold2/a.wav").path == tmp_path / "fold2" / "a.wav"
    rows_table(tmp_path / "l.csv", [{"filename": "c.wav", "label": "x", "fold": 1}])
    with pytest.raises(ManifestError, match=f"l.csv:2: no file {tmp_path}/c.wav"):
        read_dataset("label_csv", {"root": str(tmp_path / "l.csv")})
    with pytest.raises(ManifestError, match="lists no clips; check data.train"):
        read_tables({None: ()})


def entries(name, root, split=None, **options):
    corpus = open_corpus(name, root, options)
    return list(corpus.entries(AudioFiles(corpus.audio_folders()), split))


def test_a_table_of_labels_takes_its_columns_classes_and_separator(tmp_path):
    rows = [
        {"fname": "a.wav", "labels": "dog; cat;", "set": "2", "src_file": "", "freesound_id": "f7"},
        {"fname": "1-100032-A-0.wav", "labels": "cow", "set": "", "src_file": "", "freesound_id": ""},
    ]
    rows_table(tmp_path / "l.csv", rows)
    corpus = open_corpus("label_csv", tmp_path, {"fold_column": "set"})
    first, second = corpus.entries(AudioFiles(corpus.audio_folders()))
    assert (first.labels, first.fold, first.group) == (("dog", "cat"), "2", "f7")
    assert (second.labels, second.fold, second.split) == (("cow",), None, None)
    assert second.group == "100032"  # the source recording in an ESC-50 name
    assert corpus.has_several_labels() and corpus.class_names([first, second]) == ("cat", "cow", "dog")
    (tmp_path / "classes.txt").write_text("dog\n\n cow \ncat\n")
    named = open_corpus("label_csv", tmp_path, {"classes": str(tmp_path / "classes.txt")})
    assert named.class_names([]) == ("dog", "cow", "cat")
    (tmp_path / "classes.txt").write_text("dog\ncow\ndog\n")
    with pytest.raises(ManifestError, match="3 class names, 2 different; expected one per line"):
        named.class_names([])
    rows_table(tmp_path / "l.csv", [{"path": "a.wav", "category": "dog|cat"}])
    assert not open_corpus("label_csv", tmp_path).has_several_labels()
    assert entries("label_csv", tmp_path)[0].labels == ("dog|cat",)
    assert entries("label_csv", tmp_path, separator="|")[0].labels == ("dog", "cat")
    rows_table(tmp_path / "more" / "m.csv", rows)
    rows_table(tmp_path / ".hidden.csv", rows)
    with pytest.raises(ManifestError, match="holds 2 CSV tables; name the one to read"):
        entries("label_csv", tmp_path)


def _written(files):
    def tree(root):
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
        return root

    return tree


_MUSIC = "ytid,start_s,end_s,caption,aspect_list,is_audioset_eval\n"
_CAPTIONS = "file_name," + ",".join(f"caption_{n}" for n in range(1, 6)) + "\n"


@pytest.mark.parametrize(
    ("name", "tree", "options", "said"),
    [
        ("fsdd", _written({"recordings/readme.txt": ""}), {}, r"recordings: no \.wav files; expected digit_speaker"),
        ("fsdd", _written({"other/7_anna.wav": ""}), {"audio": "other"}, "7_anna.wav: expected a name like"),
        ("openaqa", _written({"a.txt": ""}), {}, "no JSON file; expected OpenAQA"),
        ("librispeech", _written({"a.txt": ""}), {}, r"holds no \*\.trans\.txt; expected LibriSpeech"),
        ("librispeech", _written({"dev/1/2/1-2.trans.txt": "1-2-0 A\n"}), {}, "lies in no folder of a split"),
        ("clotho", _written({"clotho_captions_validation.csv": _CAPTIONS + "a.wav,,,,,\n"}), {}, "2 has no caption"),
        ("clotho", _written({"a.txt": ""}), {}, "none of clotho_captions_development.csv, .* is there"),
        ("musiccaps", _written({"musiccaps-public.csv": _MUSIC + "v,0,10,c,[],maybe\n"}), {}, "is 'maybe'; expected"),
        ("audioset", _written({}), {"subset": "half"}, "subset: got 'half', expected one of balanced"),
        ("audioset", _written({}), {"max_missing_rate": 1.0}, "max_missing_rate: got 1.0, expected 0 or more and less"),
        ("audioset", _written({}), {"max_missing_rate": -0.1}, "max_missing_rate: got -0.1"),
        ("envsdd", _written({}), {"attack": "tts"}, "attack: got 'tts', expected one of tta, ata"),
        ("mmau", _written({}), {"wrong_answers": "drop"}, "wrong_answers: got 'drop', expected one of error, skip"),
        ("speech_commands", speech_commands, {"task": "10-way"}, "task: got '10-way'"),
    ],
)  # fmt: skip
def test_trees_and_options_of_corpora_that_are_wrong_are_named(name, tree, options, said, tmp_path):
    tree(tmp_path)
    with pytest.raises(UserError, match=said):
        entries(name, tmp_path, **options)


def test_a_wavcaps_table_of_another_name_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"data": [{"id": 1, "caption": "c"}]}')
    with pytest.raises(ManifestError, match=r"other\.json: not a WavCaps table; expected as_final\.json"):
        entries("wavcaps", tmp_path / "other.json")


def test_musiccaps_splits_follow_the_evaluation_flag(tmp_path):
    rows = "a,0,10,one,[],True\nb,30,40,two,\"['x']\",False\n"
    _written({"musiccaps-public.csv": _MUSIC + rows})(tmp_path)
    assert [(e.id, e.split) for e in entries("musiccaps", tmp_path)] == [("a", "test"), ("b", "train")]
    (train,) = entries("musiccaps", tmp_path, "train")
    assert (train.id, train.captions, train.group, train.manifest["aspects"]) == ("b", ("two",), "b", "['x']")


def test_speech_commands_without_a_word_noise_or_a_right_list(tmp_path):
    speech_commands(tmp_path)
    found = entries("speech_commands", tmp_path, "train", task="12-way", unknown_share=0.2)
    labels = Counter(label for entry in found for label in entry.labels)
    assert (
        labels["_unknown_"] == 2 and labels["yes"] == 1 and labels["_silence_"] == 2
    )  # 2.5 s hold two seconds
    assert not {"cat", "tree"} & {*labels} and {entry.split for entry in found} == {"train"}
    assert "_silence_" not in {e.labels[0] for e in entries("speech_commands", tmp_path, task="11-way")}
    (tmp_path / "_background_noise_" / "pink_noise.wav").unlink()
    with pytest.raises(ManifestError, match="2 noise recordings; silence in three splits needs three"):
        entries("speech_commands", tmp_path, task="12-way")
    (tmp_path / "testing_list.txt").write_text("\nyes.wav\n")
    with pytest.raises(
        ManifestError, match=r"testing_list\.txt:2: 'yes\.wav' does not have the form word/file"
    ):
        entries("speech_commands", tmp_path)
    (tmp_path / "testing_list.txt").write_text("yes/zz_nohash_1.wav\n")
    listed = entries("speech_commands", tmp_path, "test")
    assert [(entry.id, entry.group) for entry in listed] == [
        ("yes/zz_nohash_1.wav", "zz")
    ]  # reported as missing
    (tmp_path / "go").rename(tmp_path / "went")
    with pytest.raises(ManifestError, match="no folder for the command 'go'"):
        entries("speech_commands", tmp_path, task="11-way")


def test_fsd50k_splits_are_those_of_its_two_tables(tmp_path):
    fsd50k(tmp_path)
    for part, names in (("train", ["64760"]), ("val", ["16399"]), ("test", ["37199"])):
        assert [(e.id, e.split) for e in entries("fsd50k", tmp_path, part)] == [(names[0], part)]
    table = tmp_path / "FSD50K.ground_truth" / "dev.csv"
    for wrong in ("test", "dev"):
        table.write_text(f"fname,labels,mids,split\n1,Rain,x,{wrong}\n")
        with pytest.raises(ManifestError, match=f"dev.csv:2: split is '{wrong}'; expected train or val"):
            entries("fsd50k", tmp_path)


def test_the_nearest_spelling_and_suffix_of_a_recording_is_taken(tmp_path):
    for name in ("x/a.flac", "x/a.wav", "x/b.flac", "y/b.wav", "x/notes.txt", "z/readme.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    files = AudioFiles([tmp_path])
    assert files.clip("old/a.flac").path.name == "a.flac"  # the suffix agrees
    assert files.clip("old/a").path.name == "a.wav"  # the first of the known suffixes
    assert files.clip("b", inside=("x",)).path == tmp_path / "x" / "b.flac"
    assert files.clip("q/y/b.mp3").path == tmp_path / "y" / "b.wav"  # the folder agrees
    with pytest.raises(ConfigError, match="audio 'b': .*both fit; name a narrower folder"):
        files.clip("b")
    assert files.clip("c").path == tmp_path / "c.wav" and files.clip("c.ogg").path == tmp_path / "c.ogg"
    cut = files.clip("none", "y/b.wav", start_s=1.0, end_s=2.5)
    assert (cut.name, cut.path, cut.start_s, cut.end_s) == ("none", tmp_path / "y" / "b.wav", 1.0, 2.5)
    assert AudioFiles([tmp_path]).has_folder("x") and not files.has_folder("z")
    assert [path.name for path in files.all()] == ["a.flac", "a.wav", "b.flac", "b.wav"]
    with pytest.raises(ConfigError, match="no such folder of audio"):
        AudioFiles([tmp_path / "gone"])
    assert segment_names("v", 1.5, 11.5) == (
        "v_1.5", "v_2", "v_1", "v_2_12", "v_1500_11500", "v_1500", "v_000001", "v_1.500_11.500", "[v]-[1-11]",
        "Yv_1.5", "Yv_2", "Yv_1", "Yv_2_12", "Yv_1500_11500", "Yv_1500", "Yv_000001", "Yv_1.500_11.500",
        "[Yv]-[1-11]", "v", "Yv",
    )  # fmt: skip
