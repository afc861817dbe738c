"""Every format of data that people have, read into the same records; wrong rows are one line that names them."""

import base64
import csv
import gzip
import io
import json
import pickle
import sys
import tarfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from alm.common.errors import ConfigError, ManifestError, UserError
from alm.data.readers import READERS
from alm.data.readers.base import DataSource, parse_source
from alm.data.readers.conversations import read_conversation
from alm.data.records import AUDIO_MARKER
from alm.data.sources import formats_of, open_records, open_source
from encoders.audio import save_wav

RATE_HZ = 8000


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A folder with three recordings of different pitch, and a cache of its own."""
    monkeypatch.setenv("ALM_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(3):
        save_wav(folder / f"{number}.wav", tone(number), RATE_HZ)
    return folder


def tone(number: int) -> np.ndarray:
    return (0.3 * np.sin(np.arange(1600 + 80 * number) * (0.1 + 0.1 * number))).astype(np.float32)


def lines(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def b64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def heard(ref) -> int:
    """Return the number of the recording that a reference gives."""
    wave = ref.load(RATE_HZ)
    assert ref.exists() and ref.header().rate_hz == RATE_HZ
    return next(n for n in range(3) if len(wave) == len(tone(n)) and np.abs(wave - tone(n)).max() < 1e-3)


TURNS = [{"role": "user", "content": "What is <audio>this?"}, {"role": "assistant", "content": "a bell"}]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS, "audios": ["1.wav"]},  # ms-swift
        {"messages": TURNS, "audio": "1.wav"},
        {
            "conversations": [
                {"from": "human", "value": "What is <audio>this?"},
                {"from": "gpt", "value": "a bell"},
            ],
            "audio": "1.wav",
        },  # ShareGPT
        {
            "conversations": [
                {"from": "human", "value": "What is <audio>this?"},
                {"from": "gpt", "value": "a bell"},
            ],
            "audios": ["1.wav"],
            "system": "",
        },  # LLaMA-Factory
        {"instruction": "What is <audio>this?", "input": "", "output": "a bell", "audios": ["1.wav"]},
        {"query": "What is <audio>this?", "response": "a bell", "audios": ["1.wav"]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "What is "},
                        {"type": "audio", "audio": "1.wav"},
                        {"type": "text", "text": "this?"},
                    ],
                },
                TURNS[1],
            ]
        },
    ],
)
@pytest.mark.parametrize("as_list", [False, True])
def test_dialects_of_conversations(data, row, as_list):
    path = data / ("train.json" if as_list else "train.jsonl")
    rows = [row, {**row, "id": 7}]
    path.write_text(json.dumps(rows) if as_list else "".join(json.dumps(one) + "\n" for one in rows))
    assert formats_of(str(path)) == ["chat"]
    first, second = open_source(str(path))
    assert first.messages == (
        {"role": "user", "content": f"What is {AUDIO_MARKER}this?"},
        {"role": "assistant", "content": "a bell"},
    )
    assert [heard(ref) for ref in first.audio] == [1] and first.answer == "a bell"
    assert second.id == "7" and first.id.startswith("train-") and first.id != second.id
    assert "system" not in first.meta and "conversations" not in first.meta


@pytest.mark.parametrize(
    "part",
    [
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,BASE64"}},
        {"type": "audio_url", "audio_url": "file://FOLDER/2.wav"},
        {"type": "input_audio", "input_audio": {"data": "BASE64", "format": "wav"}},
        {"type": "audio", "path": "2.wav"},
        {"type": "audio", "audio_url": "2.wav"},
        {"type": "audio", "audio": {"path": "2.wav"}},
    ],
)
def test_audio_among_the_parts_of_a_turn(data, part):
    text = json.dumps(part).replace("BASE64", b64(data / "2.wav")).replace("FOLDER", str(data))
    turn = {"role": "user", "content": [json.loads(text), {"type": "text", "text": "What?"}]}
    (record,) = open_source(lines(data / "m.jsonl", [{"messages": [turn, TURNS[1]]}]))
    assert record.messages[0]["content"] == f"{AUDIO_MARKER}What?"
    ref = record.audio[0]
    assert heard(ref) == 2 and heard(pickle.loads(pickle.dumps(ref))) == 2


def test_system_history_and_text_alone(data):
    rows = [
        {"instruction": "B?", "output": "b", "history": [["A?", "a"]], "system": "Be brief."},
        {"messages": TURNS, "audios": ["0.wav"]},
    ]
    alone, other = open_source(lines(data / "m.jsonl", rows))
    assert [turn["role"] for turn in alone.messages] == ["system", "user", "assistant", "user", "assistant"]
    assert alone.audio == () and alone.answer == "b" and len(other.audio) == 1


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"messages": TURNS}, "has an audio tag and no audio"),
        ({"messages": TURNS, "audios": ["0.wav", "1.wav"]}, "1 <|audio|> for 2 audio"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role 'tool'"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "image": "x"}]}]},
            "type text or audio",
        ),
        ({"messages": TURNS, "audios": ["https://x.org/a.wav"]}, "is a URL; download"),
        ({"messages": TURNS, "audios": [{"bytes": "%%"}]}, "not base64"),
        ({"messages": TURNS, "audios": ["0.wav"], "audio": "1.wav"}, "could each be the audio"),
        ({"messages": TURNS, "audios": [3]}, "got 3; expected a path"),
        ({"conversations": [], "audios": []}, "expected a list of turns"),
        ({"x": 1}, "expected an object with messages"),
        ({"messages": TURNS, "audios": ["0.wav"], "id": "a"}, "id 'a' was already used at"),
    ],
)
def test_a_wrong_conversation_names_its_line(data, row, said):
    path = lines(data / "m.jsonl", [{"id": "a", "messages": TURNS, "audios": ["0.wav"]}, row])
    with pytest.raises(ManifestError) as caught:
        open_source(path)
    assert said in str(caught.value) and str(caught.value).startswith(f"{path}:2: ")


def table(path: Path, rows: list[dict], delimiter: str = ",") -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".json", ".jsonl"])
def test_tables_with_columns(data, suffix):
    rows = [
        {
            "clip_file": f"{n}.wav",
            "q": "What,\nis this?",
            "a": f"sound {n}",
            "from": n / 100,
            "to": 0.1,
            "more": "x",
        }
        for n in range(3)
    ]
    path = data / f"t{suffix}"
    if suffix in (".csv", ".tsv"):
        table(path, rows, "," if suffix == ".csv" else "\t")
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        lines(path, rows)
    columns = {"audio": "clip_file", "question": "q", "answer": "a", "start_s": "from", "end_s": "to"}
    clips = [
        record.clip for record in open_source(DataSource(str(path), columns={**columns, "clip": "more"}))
    ]
    assert clips == ["x"] * 3
    found = open_source(DataSource(str(path), columns=columns))
    assert [record.answer for record in found] == ["sound 0", "sound 1", "sound 2"]
    assert found[1].question == "What,\nis this?"
    assert [len(record.audio[0].load(RATE_HZ)) for record in found] == [800, 720, 640]
    assert found[0].meta == {"more": "x"} and len({record.id for record in found}) == 3
    with pytest.raises(ManifestError, match=r"no column 'fil' for 'audio' \(columns\)"):
        open_source(DataSource(str(path), columns={"audio": "fil"}))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"messages": TURNS, "audios": ["0.wav"], "images": ["a.png"]},
            "has images, which the model cannot see",
        ),
        ({"conversations": TURNS, "audio": "0.wav", "videos": ["a.mp4"]}, "has videos"),
        (
            {"instruction": "<audio>Q", "chosen": "a", "rejected": "b", "audios": ["0.wav"]},
            "preference training",
        ),
        (
            {"messages": [TURNS[0], TURNS[1] | {"loss": False}], "audios": ["0.wav"]},
            r"messages\[1\] has loss: False",
        ),
    ],
)
def test_what_would_be_ignored_is_refused(data, row, said):
    path = lines(data / "a.jsonl", [row])
    with pytest.raises(ManifestError, match=rf"a\.jsonl:1: ?.*{said}"):
        open_records([path])


def test_empty_lists_of_images_and_the_tag_of_audio_flamingo(data):
    turns = [{"from": "human", "value": "What is <sound>this?"}, {"from": "gpt", "value": "a bell"}]
    path = lines(data / "a.jsonl", [{"conversations": turns, "sound": "1.wav", "images": [], "videos": None}])
    (record,) = open_records([path])
    assert record.messages[0]["content"] == f"What is {AUDIO_MARKER}this?"
    assert heard(record.audio[0]) == 1


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz", "a.tar.gz"])
def test_a_compressed_file_says_so(data, name):
    (data / name).write_bytes(gzip.compress(b"audio,question,answer"))
    with pytest.raises(ManifestError, match=rf"{name}: is a compressed file; unpack it"):
        open_records([DataSource(str(data / name), prompt="What is it?")])


def test_a_label_without_a_question_is_kept_or_refused(data):
    """Never dropped: under its own column's name, unless that is a field which belongs to a question."""
    labelled = table(data / "l.csv", [{"slice_file_name": "0.wav", "label": "dog", "options": "cat"}])
    (record,) = open_source(labelled, audio_only=True)
    assert record.kind == "audio" and record.meta == {"label": "dog", "options": "cat"}
    for row, field in (
        ({"audio": "0.wav", "answer": "dog"}, "answer"),
        ({"audio": "0.wav", "choices": "a"}, "choices"),
    ):
        with pytest.raises(
            ManifestError, match=rf"f\.csv:2: has '{field}' .* no question; .* rename the column"
        ):
            open_source(table(data / "f.csv", [row]), audio_only=True)


def test_tables_by_their_usual_names_and_one_prompt(data):
    rows = [{"path": "0.wav", "sentence": "one two"}, {"path": "1.wav", "sentence": "three"}]
    path = table(data / "t.csv", rows)
    with pytest.raises(ManifestError, match=r"t\.csv:2: .* no question; name its column .* \(prompt: …\)"):
        open_source(path)
    alone = open_source(path, audio_only=True)
    assert [(one.kind, one.question) for one in alone] == [("audio", "")] * 2 and heard(
        alone[1].audio[0]
    ) == 1
    first, second = open_source(DataSource(path, prompt="Transcribe."))
    assert (first.question, first.answer) == ("Transcribe.", "one two") and heard(second.audio[0]) == 1
    captions = table(data / "c.csv", [{"file_name": "0.wav", "caption": "A tone."}])
    (record,) = open_source(captions)
    assert record.captions == ("A tone.",) and record.kind == "caption"
    unclear = table(data / "u.csv", [{"file_name": "0.wav", "path": "1.wav", "text": "x"}])
    with pytest.raises(ManifestError, match=r"'file_name', 'path' could each be the audio; say which"):
        open_source(DataSource(unclear, prompt="?"))
    nothing = table(data / "n.csv", [{"x": "1"}])
    with pytest.raises(ManifestError, match=r"n\.csv:2: no column holds audio"):
        open_source(nothing)
    elsewhere = table(data.parent / "t.csv", rows)
    (first, _) = open_source(DataSource(elsewhere, prompt="?", audio=str(data)))
    assert heard(first.audio[0]) == 0


def test_folders_of_classes_and_with_metadata(data):
    classes = data.parent / "classes"
    for split, label, number in (("train", "dog", 0), ("train", "rain", 1), ("test", "dog", 2)):
        (classes / split / label).mkdir(parents=True, exist_ok=True)
        save_wav(classes / split / label / f"{number}.wav", tone(number), RATE_HZ)
    found = open_source(DataSource(str(classes), prompt="What is this?", split="train"))
    assert [(record.id, record.answer) for record in found] == [("dog/0.wav", "dog"), ("rain/1.wav", "rain")]
    assert [heard(record.audio[0]) for record in found] == [0, 1]
    with pytest.raises(ManifestError, match=r"audio and no text.*prompt: …"):
        open_source(str(classes))
    assert [record.meta for record in open_source(str(classes), audio_only=True)][0] == {"label": "dog"}
    with pytest.raises(ConfigError, match="no split 'dev'; its folders: test, train"):
        open_source(DataSource(str(classes), split="dev", format="audiofolder"))
    table(data / "metadata.csv", [{"file_name": "2.wav", "text": "a tone"}])
    assert formats_of(str(data)) == ["audiofolder"]
    (record,) = open_source(DataSource(str(data), prompt="What?"))
    assert record.answer == "a tone" and heard(record.audio[0]) == 2


def written(form: str, data: Path) -> Path:
    """Two records of a format whose columns have unusual names; recordings lie beside them under `0.wav`, `1.wav`."""
    import datasets

    folder = data.parent / "given"
    folder.mkdir()
    row = {"sound_of": "0.wav", "output": "one", "better": "two", "instruction": "Which?"}
    other = {**row, "sound_of": "1.wav"}
    for number in range(2):
        save_wav(folder / f"{number}.wav", tone(number), RATE_HZ)
    if form == "table":
        return Path(table(folder / "t.csv", [row, other]))
    if form == "chat":
        rows = [{"turns": TURNS, "sounds": [f"{n}.wav"], "audio": [f"{1 - n}.wav"]} for n in range(2)]
        return Path(lines(folder / "t.jsonl", rows))
    if form == "audiofolder":
        for split, number in (("train", 0), ("test", 1)):
            (folder / split).mkdir()
            (folder / f"{number}.wav").rename(folder / split / f"{number}.wav")
            table(
                folder / split / "metadata.csv",
                [{"sound_of": f"{number}.wav", "text": split, "better": "two"}],
            )
        return folder
    if form == "huggingface":
        values = {key: [row[key], other[key]] for key in row}
        splits = {"train": values, "test": {key: value[1:] for key, value in values.items()}}
        for name, columns in splits.items():
            datasets.Dataset.from_dict(columns).to_parquet(str(folder / f"{name}.parquet"))
        return folder
    if form == "webdataset":
        items = {f"{n}.{kind}": content for n in range(2) for kind, content in (
            ("wav", (folder / f"{n}.wav").read_bytes()), ("json", b'{"said": "one", "better": "two"}'),
        )}  # fmt: skip
        tar(folder / "t.tar", items)
        return folder / "t.tar"
    if form == "kaldi":
        return Path(kaldi(data, wav_scp="0 0.wav\n1 1.wav\n", text="0 one\n1 two\n"))
    return Path(
        lines(folder / "t.jsonl", [{"id": str(n), "audio": f"{n}.wav", "captions": ["x"]} for n in range(2)])
    )


AUDIO = {"columns": {"audio": "sound_of"}}
SETTINGS = {  # (format, setting): other settings that it needs, its value, what changes in the first record
    ("table", "columns"): (AUDIO, {"audio": "sound_of", "answer": "better"}, "answer", "two"),
    ("table", "prompt"): ({"columns": {"audio": "sound_of", "captions": "better"}}, "Say.", "question", "Say."),
    ("table", "audio"): (AUDIO, "{folder}", "audio", 1),
    ("chat", "columns"): ({}, {"messages": "turns", "audio": "sounds"}, "answer", "a bell"),
    ("chat", "audio"): ({"columns": {"messages": "turns", "audio": "sounds"}}, "{folder}", "audio", 1),
    ("audiofolder", "columns"): (
        {"prompt": "Which?", "split": "train", **AUDIO}, {"audio": "sound_of", "answer": "better"}, "answer", "two",
    ),
    ("audiofolder", "prompt"): ({"split": "train", **AUDIO}, "Which?", "question", "Which?"),
    ("audiofolder", "split"): ({"prompt": "Which?", **AUDIO}, "train", "answer", "train"),
    ("huggingface", "columns"): (
        {"split": "train", **AUDIO}, {"audio": "sound_of", "answer": "better"}, "answer", "two",
    ),
    ("huggingface", "prompt"): (
        {"split": "train", "columns": {"audio": "sound_of", "captions": "better"}}, "Say.", "question", "Say.",
    ),
    ("huggingface", "split"): ({"audio": "{folder}", **AUDIO}, "test", "audio", 0),
    ("huggingface", "audio"): ({"split": "train", **AUDIO}, "{folder}", "audio", 1),
    ("huggingface", "streaming"): ({"split": "test", "limit": 1, "audio": "{folder}", **AUDIO}, True, "audio", 0),
    ("webdataset", "columns"): ({"prompt": "Which?"}, {"answer": "better"}, "answer", "two"),
    ("webdataset", "prompt"): ({"columns": {"answer": "better"}}, "Which?", "question", "Which?"),
    ("kaldi", "prompt"): ({}, "Say.", "question", "Say."),
    ("kaldi", "audio"): ({}, "{folder}", "audio", 1),
}  # fmt: skip


@pytest.mark.parametrize("form", sorted({*READERS.names()} - {"lhotse", "shards"}))
def test_every_setting_of_a_format_changes_its_records(data, form):
    """`lhotse` needs its package; shards take only `limit`, which the same code reads for all formats."""
    path = written(form, data)
    swapped = data.parent / "swapped"  # `0.wav` is the second recording
    swapped.mkdir()
    for number in range(2):
        save_wav(swapped / f"{number}.wav", tone(1 - number), RATE_HZ)

    def filled(options) -> dict:
        return {key: str(swapped) if value == "{folder}" else value for key, value in options.items()}

    def first(**options) -> dict:
        record = open_source(DataSource(str(path), format=form, **filled(options)), audio_only=True)[0]
        audio = heard(record.audio[0]) if record.audio[0].exists() else None
        return {"question": record.question, "answer": record.answer, "audio": audio}

    takes = [name for name in READERS.get(form).takes]
    assert {(form, name) for name in takes} == {key for key in SETTINGS if key[0] == form}
    options: dict = {}
    for name in takes:
        needs, value, field, expected = SETTINGS[form, name]
        assert first(**{**needs, name: value})[field] == expected, name
        if name != "streaming":  # the same rows, read another way
            try:
                assert first(**needs)[field] != expected, name
            except UserError:
                pass  # needed
        options = {**needs, name: value}
    limited = open_source(
        DataSource(str(path), format=form, **{**filled(options), "limit": 1}), audio_only=True
    )
    assert len(limited) == 1


def test_records_in_the_cache_are_those_of_the_settings(data, monkeypatch):
    for name in ("_SMALL_ROWS", "_SMALL_BYTES"):  # larger sources are kept in the cache
        monkeypatch.setattr(f"alm.data.index.{name}", 0)
    path = table(data / "t.csv", [{"audio": "1.wav", "answer": "one"}])
    for number, prompt in enumerate(("Which?", "Say.")):
        (record,) = open_source(DataSource(path, prompt=prompt))
        assert (record.question, record.answer) == (prompt, "one")
        assert len(list((data.parent / "cache").rglob("*.index"))) == number + 1


@pytest.mark.parametrize(("name", "expected"), [("question", ("two", "one")), ("answer", ("Which?", "two"))])
def test_columns_of_instruction_data_are_those_that_are_named(data, name, expected):
    """`instruction` and `output` make a row a conversation, so a column given for one of them must not be ignored."""
    row = {"instruction": "Which?", "output": "one", "better": "two", "audio": "1.wav"}
    path = lines(data / "t.jsonl", [row])
    for form in ("chat", "table"):
        (record,) = open_source(DataSource(path, format=form, columns={name: "better"}))
        assert (record.question, record.answer) == expected and heard(record.audio[0]) == 1
    turns = lines(data / "u.jsonl", [{"messages": TURNS, "better": "two", "audios": ["1.wav"]}])
    with pytest.raises(ManifestError, match=f"is a conversation, .*; remove {name} from columns"):
        open_source(DataSource(turns, format="chat", columns={name: "better"}))


def test_the_named_audio_of_a_conversation_is_taken(data):
    path = lines(data / "t.jsonl", [{"messages": TURNS, "audios": ["1.wav"], "audio": ["2.wav"]}])
    with pytest.raises(ManifestError, match="could each be the audio"):
        open_source(DataSource(path, format="chat"))
    for name, number in (("audios", 1), ("audio", 2)):
        (record,) = open_source(DataSource(path, format="chat", columns={"audio": name}))
        assert heard(record.audio[0]) == number


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"columns": {"answer": "x"}, "prompt": "?"},
            "columns are those of a table, and the folder has none",
        ),
        ({"prompt": "?"}, r"0\.wav: has no answer to the prompt"),
    ],
)
def test_settings_without_an_effect_on_a_folder_are_refused(data, options, said):
    with pytest.raises(UserError, match=said):
        open_source(DataSource(str(data), format="audiofolder", **options))


def kaldi(data: Path, **tables: str) -> str:
    folder = data.parent / "kaldi"
    folder.mkdir(exist_ok=True)
    for name, text in tables.items():
        (folder / name.replace("_", ".")).write_text(text)
    return str(folder)


def test_kaldi_directories(data):
    folder = kaldi(data, wav_scp=f"r0 {data}/0.wav\nr1 {data}/1.wav\n", text="r0 one two\nr1 three\n")
    first, second = open_source(folder)
    assert (first.id, first.question, first.answer) == ("r0", "Transcribe the speech.", "one two")
    assert heard(second.audio[0]) == 1 and second.kind == "transcription"
    kaldi(data, segments="u1 r0 0.05 0.1\nu2 r1 0.1 -1\n", text="u1 one\nu2 two\n", utt2spk="u1 anna\n")
    first, second = open_source(DataSource(folder, prompt="What was said?"))
    assert (first.audio[0].start_s, first.audio[0].end_s, second.audio[0].end_s) == (0.05, 0.1, None)
    assert first.meta == {"speaker": "anna"} and first.question == "What was said?"
    kaldi(data, wav_scp="r0 0.wav\nr1 1.wav\n")
    first, _ = open_source(DataSource(folder, audio=str(data)))
    assert first.audio[0].path == data / "0.wav" and first.audio[0].exists()


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"wav_scp": "r0 touch hacked |\n"}, r"wav\.scp:1: 'touch hacked \|' is a command"),
        ({"wav_scp": "r0 a.ark:17\n"}, r"wav\.scp:1: 'r0' has 'a\.ark:17'"),
        ({"wav_scp": "r0 a.wav\nr0 b.wav\n"}, r"wav\.scp:2: 'r0' was already used"),
        ({"wav_scp": "r0 a.wav\n", "text": "r1 x\n"}, r"no text for 'r0'"),
        ({"wav_scp": "r0 a.wav\n", "text": "r0 x\nr1 y\n"}, r"text:2: 'r1' has no recording"),
        ({"wav_scp": "r0 a.wav\n", "text": "r0\n"}, r"text:1: the text of 'r0' is empty"),
        ({"wav_scp": "r0 a.wav\n", "segments": "u r0 x 2\n"}, r"segments:1: 'r0 x 2'; expected"),
        ({"wav_scp": "r0 a.wav\n", "segments": "u r9 1 2\n"}, r"segments:1: no recording 'r9'"),
        ({"wav_scp": ""}, "holds no records"),
    ],
)
def test_a_wrong_kaldi_directory_names_the_line(data, tables, said):
    with pytest.raises(ManifestError, match=said):
        open_source(kaldi(data, **tables))
    assert not list(data.parent.rglob("hacked"))


def tar(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return str(path)


def test_webdataset_tars_are_read_where_they_lie(data):
    wav = [(data / f"{n}.wav").read_bytes() for n in range(3)]
    folder = data.parent / "tars"
    folder.mkdir()
    row = {"question": "What?", "answer": "a bell", "audio_path": "gone.wav"}
    chat = {"messages": TURNS, "audios": ["gone.wav"]}
    tar(folder / "a.tar", {"x/1.wav": wav[1], "x/1.json": json.dumps(row).encode(), "x/2.wav": wav[2],
                           "x/2.json": json.dumps(chat).encode()})  # fmt: skip
    tar(folder / "b.tar", {"x/1.txt": b"a tone\n", "x/1.wav": wav[0]})
    found = open_source(DataSource(str(folder), prompt="What is it?"))
    assert [record.id for record in found] == ["a/x/1", "a/x/2", "b/x/1"]
    assert [heard(record.audio[0]) for record in found] == [1, 2, 0]
    assert found[0].question == "What?" and found[1].messages[0]["content"] == f"What is {AUDIO_MARKER}this?"
    assert (found[2].question, found[2].answer) == ("What is it?", "a tone")
    (only,) = open_source(DataSource(str(folder / "b.tar"), prompt="?"))
    assert heard(only.audio[0]) == 0
    whole = (folder / "a.tar").read_bytes()
    (folder / "a.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ManifestError, match=r"a\.tar"):
        open_source(DataSource(str(folder), prompt="What is it?"))


@pytest.mark.parametrize("order", (("cls", "wav", "json"), ("json", "cls", "wav")))
def test_a_label_counts_wherever_it_stands_beside_the_json(data, order):
    content = {
        "cls": b"dog",
        "wav": (data / "1.wav").read_bytes(),
        "json": b'{"label": "cat", "source": "s"}',
    }
    path = tar(data.parent / "a.tar", {f"1.{suffix}": content[suffix] for suffix in order})
    (record,) = open_source(DataSource(path, prompt="What?"))
    assert (record.id, record.answer, record.meta["source"]) == ("1", "dog", "s")


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"1.wav": b"", "1.WAV": b""}, r"a\.tar:\d+: '1.WAV' is there twice; write the tar again"),
        ({"1.txt": b"a", "1.cls": b"b"}, r"no audio beside 1.txt, 1.cls; expected a member 1\.wav"),
        ({"1.wav": b"", "1.json": b"[1]"}, r"1.json holds \[1\]; expected an object"),
        ({"1.wav": b"", "1.txt": b"\xff"}, r"1.txt: byte 0 is not UTF-8"),
    ],
)
def test_a_wrong_sample_of_a_tar_is_named(data, members, said):
    path = tar(data.parent / "a.tar", members)
    with pytest.raises(ManifestError, match=said):
        open_source(DataSource(path, prompt="What?"))


def test_names_in_kaldi_tables_end_at_a_tab_or_a_space_and_minus_one_is_the_end(data):
    folder = kaldi(data, wav_scp=f"r0\t{data}/0.wav\n", text="u1\tone two\nu2 three\n", utt2spk="u1\tanna b\n",
                   segments="u1\tr0 0.05 0.1\nu2 r0 0.1 -1\n")  # fmt: skip
    first, last = open_source(folder)
    assert (first.answer, first.meta["speaker"], last.answer) == ("one two", "anna b", "three")
    assert [(r.audio[0].start_s, r.audio[0].end_s) for r in (first, last)] == [(0.05, 0.1), (0.1, None)]
    (data / "take:1").write_bytes((data / "1.wav").read_bytes())  # no place in an archive of Kaldi's
    (data.parent / "kaldi" / "utt2spk").unlink()
    kaldi(data, wav_scp=f"r0 {data}/take:1\n", text="u1 one\n", segments="u1 r0 0.05 -1\n")
    assert [record.audio[0].path.name for record in open_source(folder)] == ["take:1"]
    kaldi(data, text="u1 one\n\nu2 two\n")
    with pytest.raises(ManifestError, match=r"text:2: blank line; remove it"):
        open_source(folder)
    kaldi(data, text="u1 one\nu2 two\n", segments="u1 r0 0.05 0\nu2 r0 0.1 -1\n")
    with pytest.raises(UserError, match=r"end_s|0\.05"):
        open_source(folder)


def test_shards_with_our_index_and_compressed_lines_of_others_are_no_foreign_data(data):
    folder = data.parent / "shards"
    folder.mkdir()
    tar(folder / "a.tar", {"1.wav": b"x"})
    webdataset, lhotse = READERS.get("webdataset"), READERS.get("lhotse")
    assert webdataset.recognises(folder) and webdataset.recognises(folder / "a.tar")
    (folder / "index.json").write_text("{}")
    assert not webdataset.recognises(folder)
    cut = {"id": "c", "type": "MonoCut", "recording": {}}
    for row, is_cuts in ((cut, True), ({"id": "c", "text": "Cut it."}, False), ({"recording": "r"}, False)):
        (data / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
        assert lhotse.recognises(data / "a.jsonl.gz") == is_cuts
    (data / "a.jsonl.gz").write_bytes(b"no gzip")
    assert not lhotse.recognises(data / "a.jsonl.gz")


def test_a_question_of_the_history_without_an_answer_has_no_turn_for_it():
    row = {"instruction": "A?", "output": "a", "history": [["B?", None], ["C?", "c"]]}
    messages, audio = read_conversation(row, {}, {}, "t:1")
    assert [turn["content"] for turn in messages] == ["B?", "C?", "c", "A?", "a"] and audio == []
    part = {"type": "audio", "audio": "", "path": "1.wav"}  # the first column that holds something
    _, audio = read_conversation({"messages": [{"role": "user", "content": [part]}, TURNS[1]]}, {}, {}, "t:1")
    assert audio == ["1.wav"]


def test_tars_with_large_texts_holes_or_no_end_are_refused(data, monkeypatch):
    path = data.parent / "a.tar"
    source = DataSource(str(path), prompt="What?")
    tar(path, {"1.wav": (data / "1.wav").read_bytes(), "1.txt": b"a tone"})
    whole = path.read_bytes()
    monkeypatch.setattr("alm.data.readers.webdataset._LONGEST_TEXT", 5)
    with pytest.raises(ManifestError, match="'1.txt' has 6 bytes of text"):
        open_source(source)
    monkeypatch.undo()
    path.write_bytes(whole[: len(whole.rstrip(b"\0")) // 512 * 512 + 512])  # cut between two blocks
    with pytest.raises(ManifestError, match=r"a\.tar: is truncated: it has no end mark"):
        open_source(source)
    with tarfile.open(path, "w") as file:
        hole = tarfile.TarInfo("1.wav")
        hole.type = tarfile.GNUTYPE_SPARSE
        file.addfile(hole)
    with pytest.raises(ManifestError, match="'1.wav' is sparse; write the tar again"):
        open_source(source)


def test_members_of_a_sample_share_folder_and_stem_whatever_else_is_in_the_tar(data):
    wav = [(data / f"{n}.wav").read_bytes() for n in range(3)]
    path = tar(data.parent / "a.tar", {
        "x/.hidden": b"-", "x/README": b"-",
        "x/1.left.WAV": wav[1], "x/1.right.wav": wav[2], "x/1.TXT": "\ufeffboth\n".encode(),
        "y/1.wav": wav[0], "y/1.json": b'{"answer": "one", "file_name": "gone.wav"}',
    })  # fmt: skip
    both, one = open_source(DataSource(path, prompt="What?"))
    assert (both.id, both.answer, [heard(ref) for ref in both.audio]) == ("x/1", "both", [1, 2])
    assert (one.id, one.answer, [heard(ref) for ref in one.audio]) == ("y/1", "one", [0])


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"messages": [{"role": "user", "content": [{"type": "audio", "audio": "1.wav"}]}, TURNS[1]],
             "audios": ["1.wav"]},
            "names audio both inside its turns and beside them; keep one",
        ),
        ({"messages": [TURNS[0], {**TURNS[1], "loss": False}], "audios": ["1.wav"]}, r"messages\[1\] has loss: False"),
        ({"messages": [TURNS[0], {**TURNS[1], "loss": 0}], "audios": ["1.wav"]}, r"messages\[1\] has loss: 0, but"),
        ({"messages": [TURNS[0], "a bell"], "audios": ["1.wav"]}, r"messages\[1\] is 'a bell'; expected a turn"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "text": "x"}]}, TURNS[1]]},
            r"messages\[0\]\.content\[0\] is .*; expected a part of type text or audio",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "video", "path": "1.wav"}]}, TURNS[1]]},
            r"messages\[0\]\.content\[0\] is .*; expected a part of type text or audio",
        ),
        (
            {"instruction": "a?", "output": "b", "history": [["q", "a", "c"]], "audios": []},
            r"history\[0\] is .*; expected a question and an answer",
        ),
    ],
)  # fmt: skip
def test_turns_that_would_be_read_in_part_are_refused(data, row, said):
    with pytest.raises(ManifestError, match=said):
        open_source(DataSource(lines(data / "t.jsonl", [row]), format="chat"))


def test_a_system_text_beside_the_turns_comes_first_once_and_marks_the_users_audio_alone(data):
    rows = [
        {"messages": [{"role": "system", "content": "Own."}, *TURNS], "system": "Other.", "audios": ["1.wav"]},
        {"messages": TURNS, "system": "  ", "audios": ["1.wav"]},
        {"messages": [{**TURNS[0], "loss": False}, {**TURNS[1], "loss": True}], "audios": ["1.wav"],
         "system": "Say <audio> never."},
    ]  # fmt: skip
    own, blank, said = open_source(DataSource(lines(data / "t.jsonl", rows), format="chat"))
    assert [turn["content"] for turn in own.messages] == ["Own.", f"What is {AUDIO_MARKER}this?", "a bell"]
    assert [turn["role"] for turn in blank.messages] == ["user", "assistant"]
    assert said.messages[0] == {"role": "system", "content": "Say <audio> never."}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": {"answr": "x"}}, r"d\.columns: unknown 'answr'; did you mean 'answer'"),
        ({"columns": {"answer": ""}}, r"d\.columns\.answer: got ''; expected a column's name"),
        ({"columns": {"answer": 3}}, r"d\.columns\.answer: got 3; expected a column's name"),
        ({"columns": None}, r"d\.columns: got None; expected a dict"),
        ({"streaming": None}, r"d\.streaming: got None; expected a bool"),
        ({"limit": 0}, r"d\.limit: got 0; expected at least 1"),
        ({"limit": True}, r"d\.limit: got True; expected a int"),
        ({"path": None}, r"d\.path: got None; expected a str"),
        ({"path": ""}, r"d\.path: is missing"),
        ({"prmpt": "x"}, r"d: unknown key 'prmpt'; did you mean 'prompt'"),
    ],
)
def test_a_wrong_setting_of_a_source_is_named(change, said):
    with pytest.raises(ConfigError, match=said):
        parse_source({"path": "a.csv"} | change, "d")
    assert parse_source({"path": "a.csv", "limit": 1, "prompt": None}, "d") == DataSource("a.csv", limit=1)


def features(n_classes: int = 2):
    import datasets

    return datasets.Features(
        {
            "audio": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")},
            "label": datasets.ClassLabel(names=[f"class {n}" for n in range(n_classes)]),
            "extra": datasets.Value("string"),
        }
    )


def hf_dataset(data: Path):
    import datasets

    rows = {
        "audio": [{"bytes": (data / f"{n}.wav").read_bytes(), "path": f"{n}.wav"} for n in range(2)],
        "label": [1, 0],
        "extra": ["x", "y"],
    }
    made = datasets.Dataset.from_dict(rows, features=features())
    return made.cast_column("audio", datasets.Audio(decode=False)).cast_column("audio", datasets.Audio())


@pytest.mark.parametrize("form", ["saved", "saved splits", "parquet", "folder", "files"])
def test_hugging_face_data_sets(data, form):
    import datasets

    made, target = hf_dataset(data), data.parent / "set"
    source = DataSource(str(target), prompt="Which class?")
    if form == "saved":
        made.save_to_disk(str(target))
        with pytest.raises(ConfigError, match="no split 'dev'; the data set has one split"):
            open_source(DataSource(str(target), prompt="?", split="dev"))
    elif form == "saved splits":
        datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(str(target))
        with pytest.raises(ConfigError, match="several splits; choose split: one of train, test"):
            open_source(source)
        source = DataSource(str(target), prompt="Which class?", split="train")
    elif form == "parquet":
        target = data.parent / "set.parquet"
        made.to_parquet(str(target))
        source = DataSource(str(target), prompt="Which class?")
    elif form == "folder":
        target.mkdir()
        made.to_parquet(str(target / "train-00000-of-00001.parquet"))
    else:
        paths = [{"bytes": None, "path": str(data / f"{n}.wav")} for n in range(2)]
        rows = {"audio": paths, "label": [1, 0], "extra": ["x", "y"]}
        made = datasets.Dataset.from_dict(rows, features=features())
        made.cast_column("audio", datasets.Audio(decode=False)).save_to_disk(str(target))
    assert formats_of(str(target)) == ["huggingface"]
    found = open_source(source)
    assert [record.answer for record in found] == ["class 1", "class 0"]
    assert [heard(record.audio[0]) for record in found] == [0, 1]
    assert [heard(ref) for ref in pickle.loads(pickle.dumps([record.audio[0] for record in found]))] == [0, 1]
    assert found[0].meta == {"extra": "x"} and found[0].question == "Which class?"


@pytest.mark.parametrize("inside", [True, False])
def test_a_column_of_several_recordings(data, inside):
    import datasets

    def cell(number: int) -> dict:
        path = data / f"{number}.wav"
        return {"bytes": path.read_bytes() if inside else None, "path": path.name if inside else str(path)}

    rows = {
        "audio": [[cell(0), cell(2)], [cell(1)]],
        "question": ["Both?", "What?"],
        "answer": ["no", "a tone"],
    }
    parts = datasets.List({"bytes": datasets.Value("binary"), "path": datasets.Value("string")})
    texts = {name: datasets.Value("string") for name in ("question", "answer")}
    made = datasets.Dataset.from_dict(rows, features=datasets.Features({"audio": parts, **texts}))
    made.cast_column("audio", datasets.List(datasets.Audio(decode=False))).save_to_disk(
        str(data.parent / "set")
    )
    found = open_source(str(data.parent / "set"))
    assert [[heard(ref) for ref in record.audio] for record in found] == [[0, 2], [1]]
    assert [record.answer for record in found] == ["no", "a tone"]


def test_streaming_reads_so_many_rows_and_keeps_their_audio(data):
    target = data.parent / "set"
    target.mkdir()
    hf_dataset(data).to_parquet(str(target / "train.parquet"))
    with pytest.raises(ConfigError, match="streaming needs limit"):
        open_source(DataSource(str(target), streaming=True, prompt="?"))
    (record,) = open_source(DataSource(str(target), streaming=True, prompt="?", limit=1))
    (target / "train.parquet").unlink()
    assert heard(record.audio[0]) == 0 and record.answer == "class 1"


def test_a_data_set_that_cannot_be_opened_is_one_line(data):
    broken = data.parent / "broken.parquet"
    broken.write_bytes(b"PAR1 no")
    with pytest.raises(ManifestError, match=r"broken\.parquet: cannot be opened as a data set"):
        open_source(DataSource(str(broken), prompt="?"))


def test_lhotse_cuts_need_the_package(data):
    pytest.importorskip("datasets")
    cut = {"id": "c", "type": "MonoCut", "start": 0, "duration": 0.1, "channel": 0, "supervisions": []}
    path = lines(data / "cuts.jsonl", [cut])
    assert formats_of(path) == ["lhotse"]
    try:
        import lhotse  # noqa: F401
    except ImportError:
        with pytest.raises(ConfigError, match="pip install lhotse"):
            open_source(path)


def test_lhotse_cuts_are_segments_with_their_text(data, monkeypatch):
    """The reader gets cuts as `lhotse` hands them out; the package need not be installed here."""
    source = SimpleNamespace(type="file", source=str(data / "1.wav"))
    recording = SimpleNamespace(sources=[source], duration=0.1)
    spoken = [SimpleNamespace(text="one"), SimpleNamespace(text=None), SimpleNamespace(text="two")]
    cuts = [
        SimpleNamespace(id="part", start=0.02, duration=0.03, recording=recording, supervisions=spoken),
        SimpleNamespace(id="whole", start=0, duration=0.1, recording=recording, supervisions=spoken[:1]),
    ]
    package = SimpleNamespace(CutSet=SimpleNamespace(from_jsonl_lazy=lambda path: cuts))
    monkeypatch.setitem(sys.modules, "lhotse", package)
    path = lines(data / "cuts.jsonl", [{"id": "c", "type": "MonoCut"}])
    part, whole = open_source(DataSource(path, prompt="Say it."))
    assert (part.audio[0].start_s, part.audio[0].end_s) == (0.02, pytest.approx(0.05))
    assert (whole.audio[0].start_s, whole.audio[0].end_s) == (None, None)
    assert [(one.id, one.question, one.answer) for one in (part, whole)] == [
        ("part", "Say it.", "one two"), ("whole", "Say it.", "one"),
    ]  # fmt: skip


@pytest.mark.parametrize("change", ["no recording", "two sources", "a command", "breaks"])
def test_lhotse_cuts_that_are_no_segment_of_a_file_are_named(data, monkeypatch, change):
    source = SimpleNamespace(type="command" if change == "a command" else "file", source=str(data / "1.wav"))
    recording = SimpleNamespace(sources=[source] * (2 if change == "two sources" else 1), duration=0.1)
    cut = SimpleNamespace(id="c", start=0, duration=0.1, supervisions=[],
                          recording=None if change == "no recording" else recording)  # fmt: skip
    if change == "breaks":
        del cut.supervisions
    package = SimpleNamespace(CutSet=SimpleNamespace(from_jsonl_lazy=lambda path: [cut]))
    monkeypatch.setitem(sys.modules, "lhotse", package)
    path = lines(data / "cuts.jsonl", [{"id": "c", "type": "MonoCut"}])
    said = "not a cut \\(AttributeError" if change == "breaks" else "cut 'c' is not a segment of one file"
    with pytest.raises(ManifestError, match=rf"^[^ ]*cuts\.jsonl:1: {said}"):
        open_source(path)


def test_a_cut_of_the_beginning_or_the_end_is_a_segment(data, monkeypatch):
    """Only a cut of the whole recording, whose length is rounded in some tables, needs no times."""
    source = SimpleNamespace(type="file", source=str(data / "1.wav"))
    recording = SimpleNamespace(sources=[source], duration=0.1)
    times = [(0, 0.04), (0.06, 0.04), (0, 0.1 + 1e-8)]
    cuts = [
        SimpleNamespace(id=str(n), start=start, duration=length, recording=recording, supervisions=[])
        for n, (start, length) in enumerate(times)
    ]
    package = SimpleNamespace(CutSet=SimpleNamespace(from_jsonl_lazy=lambda path: cuts))
    monkeypatch.setitem(sys.modules, "lhotse", package)
    path = lines(data / "cuts.jsonl", [{"id": "c", "type": "MonoCut"}])
    found = open_source(DataSource(path), audio_only=True)
    assert [(r.audio[0].start_s, r.audio[0].end_s) for r in found] == [(0, 0.04), (0.06, 0.1), (None, None)]


def test_an_unclear_or_unknown_format_is_an_error_that_names_the_candidates(data):
    (data / "wav.scp").write_text("a 0.wav\n")
    tar(data / "a.tar", {"1.wav": (data / "1.wav").read_bytes()})
    with pytest.raises(
        ConfigError, match=r"could be kaldi or webdataset; say which: {path: .*, format: kaldi}"
    ):
        open_source(str(data))
    with pytest.raises(ConfigError, match="unknown data format 'kaldy'; did you mean 'kaldi'"):
        open_source(DataSource(str(data), format="kaldy"))
    with pytest.raises(ConfigError, match="format 'kaldi' takes no 'split'; it takes prompt, audio, limit"):
        open_source(DataSource(str(data), format="kaldi", split="x"))
    empty = data.parent / "empty"
    empty.mkdir()
    with pytest.raises(ManifestError, match="in no other known format"):
        open_source(str(empty))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"path": "a", "colums": {}}, r"data\.train\[0\]: unknown key 'colums'; did you mean 'columns'"),
        ({"format": "chat"}, r"data\.train\[0\]\.path: is missing"),
        ({"path": "a", "columns": {"audoi": "x"}}, "did you mean 'audio'"),
        ({"path": "a", "columns": {"audio": 3}}, r"columns\.audio: got 3"),
        ({"path": "a", "limit": True}, "limit: got True"),
        ({"path": "a", "limit": 0}, "expected at least 1"),
        (3, "got 3; expected a path"),
    ],
)
def test_settings_of_a_source_are_checked(value, said):
    with pytest.raises(ConfigError, match=said):
        parse_source(value, "data.train[0]")


def test_several_sources_mix_and_ids_are_compared_across_them(data):
    chat = lines(data / "a.jsonl", [{"id": "x", "messages": TURNS, "audios": ["0.wav"]}])
    native = lines(data / "b.jsonl", [{"id": "y", "audio": "1.wav", "question": "Q?", "answer": "a"}])
    records = open_records([chat, DataSource(native, limit=1)])
    assert [record.id for record in records] == ["x", "y"]
    lines(data / "b.jsonl", [{"id": "x", "audio": "1.wav", "question": "Q?", "answer": "a"}])
    with pytest.raises(ConfigError, match=r"b\.jsonl:1: id 'x' was already used at .*a\.jsonl:1"):
        open_records([chat, native])


def test_no_reader_lets_anything_but_a_user_error_out(data):
    for name, content in (("a.csv", b"\xff\xfe"), ("b.jsonl", b"{\xff}"), ("c.tar", b"x"), ("d.json", b"[")):
        (data / name).write_bytes(content)
        with pytest.raises(UserError):
            open_source(str(data / name))
