import json
from pathlib import Path

import numpy as np
import pytest

from alm.common.errors import ManifestError, UserError
from alm.data.manifest import read_manifest, write_manifest
from alm.data.records import CAPTION_PROMPTS, AudioRef, caption_prompt
from encoders.audio import save_wav

GOOD = {"id": "a", "audio": "a.wav", "question": "What is this sound?", "answer": "a bell"}


def write(path: Path, *lines: dict | str) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_question_becomes_a_conversation_with_one_marker_per_audio(tmp_path):
    path = write(
        tmp_path / "m.jsonl",
        {
            **GOOD,
            "audio": ["a.wav", {"path": "/b.wav", "start_s": 1, "end_s": 2.5}],
            "kind": "what",
            "x": [1],
        },
    )
    (record,) = read_manifest(path)
    assert [ref.path for ref in record.audio] == [tmp_path / "a.wav", Path("/b.wav")]
    assert (record.audio[1].start_s, record.audio[1].end_s) == (1.0, 2.5)
    assert record.messages == (
        {"role": "user", "content": "<|audio|><|audio|>What is this sound?"},
        {"role": "assistant", "content": "a bell"},
    )
    assert (record.question, record.answer, record.references) == (
        "What is this sound?",
        "a bell",
        ("a bell",),
    )
    assert (record.kind, record.clip, record.meta) == ("what", "a.wav+/b.wav", {"x": [1]})
    assert record.source == f"{path}:1"
    assert record.prompt_messages == record.messages[:1]


def test_choices_are_lettered_lines_under_the_question(tmp_path):
    (record,) = read_manifest(write(tmp_path / "m.jsonl", {**GOOD, "choices": ["a drum", "a bell"]}))
    assert record.question == "What is this sound?\nA. a drum\nB. a bell"
    assert record.choices == ("a drum", "a bell")
    assert record.kind == "qa"


def test_captions_get_a_prompt_chosen_by_the_id_or_their_own(tmp_path):
    captions = ["A bell rings.", "One can hear a bell."]
    first, second = read_manifest(
        write(
            tmp_path / "m.jsonl",
            {"id": "a", "audio": "a.wav", "captions": captions, "clip": "scene7"},
            {"id": "b", "audio": "a.wav", "captions": captions, "prompt": "Tell me."},
        )
    )
    assert first.question == caption_prompt("a") and first.question in CAPTION_PROMPTS
    assert second.question == "Tell me."
    assert first.kind == "caption" and first.clip == "scene7" and first.references == tuple(captions)
    assert first.messages[-1]["content"] == captions[0]
    assert first.conversation(3)[-1]["content"] == captions[1]
    assert first.conversation(3)[0] == first.messages[0]
    assert len({caption_prompt(str(i)) for i in range(100)}) == len(CAPTION_PROMPTS)


def test_a_record_without_id_gets_one_that_stays_when_the_folder_is_moved(tmp_path):
    rows = [{**GOOD, "id": "a"}, {k: v for k, v in GOOD.items() if k != "id"}]
    ids = []
    for folder in (tmp_path / "x", tmp_path / "y"):
        folder.mkdir()
        rows[1]["answer"] = "a bell"
        ids.append([record.id for record in read_manifest(write(folder / "train.jsonl", *rows))])
    rows[1]["answer"] = "a drum"
    other = read_manifest(write(tmp_path / "train.jsonl", *rows))[1].id
    assert ids[0] == ids[1] and ids[0][0] == "a" and ids[0][1].startswith("train-2-")
    assert other != ids[0][1] and len({*ids[0], other}) == 3


def test_a_conversation_may_have_no_audio(tmp_path):
    (record,) = read_manifest(write(tmp_path / "m.jsonl", {**GOOD, "audio": []}))
    assert record.audio == () and record.clip == "a"
    assert record.messages[0] == {"role": "user", "content": "What is this sound?"}


def test_messages_keep_markers_that_are_placed_already(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello, what is\n<|audio|> this?"},
        {"role": "assistant", "content": "a bell"},
        {"role": "user", "content": "And <|audio|>?"},
    ]
    (record,) = read_manifest(
        write(tmp_path / "m.jsonl", {"id": "a", "audio": ["a.wav", "b.wav"], "messages": turns})
    )
    assert list(record.messages) == turns
    assert record.question == "And ?"
    assert record.answer is None and record.references == ()
    assert record.prompt_messages == record.messages


def test_an_unknown_answer_is_null(tmp_path):
    (record,) = read_manifest(write(tmp_path / "m.jsonl", {**GOOD, "answer": None}))
    assert record.answer is None and len(record.messages) == 1


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"id": "b", "audio"', "broken JSON"),
        ("", "blank line"),
        ("[1]", "JSON list"),
        ('{"id": "b", "id": "c"}', "'id' given twice"),
        ({**GOOD, "id": "a"}, "id 'a' was already used at"),
        ({**GOOD, "id": 7}, "'id' is 7"),
        ({"id": "b", "audio": "a.wav"}, "expected exactly one of"),
        ({"id": "b", "audio": "a.wav", "quesiton": "What?", "answer": "x"}, "did you mean 'question'"),
        ({**GOOD, "id": "b", "captions": ["x"]}, "'question' and 'captions'"),
        ({"id": "b", "question": "What?", "answer": "x"}, "'audio' is missing"),
        ({"id": "b", "audio": []}, "expected exactly one of"),
        ({**GOOD, "id": "b", "audio": None}, "'audio' holds None"),
        ({"audio": "", **{k: v for k, v in GOOD.items() if k != "audio"}, "id": "b"}, "'audio' holds ''"),
        ({**GOOD, "id": "b", "audio": [3]}, "'audio' holds 3"),
        ({**GOOD, "id": "b", "audio": {"path": "a", "start": 1}}, "nearest one is 'start_s'"),
        ({**GOOD, "id": "b", "audio": {"path": "a", "start_s": -1}}, "'start_s' is -1"),
        ('{"id": "b", "audio": {"path": "a", "end_s": NaN}, "question": "q", "answer": "a"}', "NaN"),
        ({**GOOD, "id": "b", "audio": {"path": "a", "start_s": 2, "end_s": 1}}, "expected after its start"),
        ({"id": "b", "audio": "a", "question": "What?"}, "'answer' is missing"),
        ({**GOOD, "id": "b", "choices": ["x", "y"]}, "not one of the choices"),
        ({**GOOD, "id": "b", "choices": ["a bell", "a bell"]}, "all different"),
        ({"id": "b", "audio": "a", "captions": []}, "'captions' is []"),
        ({"id": "b", "audio": "a", "captions": ["x"], "answer": "y"}, "'answer' belongs with 'question'"),
        ({"id": "b", "audio": "a", "messages": []}, "'messages' is []"),
        ({"id": "b", "audio": "a", "messages": [{"role": "bot", "content": "x"}]}, "role 'bot'"),
        (
            {"id": "b", "audio": "a", "messages": [{"role": "assistant", "content": "x"}]},
            "user and assistant in turn",
        ),
        ({"id": "b", "audio": "a", "messages": [{"role": "user", "content": " "}]}, "non-empty string"),
        (
            {"id": "b", "audio": "a", "messages": [{"role": "user", "content": "<|audio|><|audio|>"}]},
            "for 1 audio",
        ),
        ({**GOOD, "id": "b", "answer": "<|audio|>"}, "outside a user turn"),
    ],
)
def test_a_bad_line_is_one_error_naming_file_and_line(tmp_path, line, said):
    path = write(tmp_path / "m.jsonl", GOOD, line)
    with pytest.raises(ManifestError) as caught:
        read_manifest(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ") and said in message and "\n" not in message
    assert isinstance(caught.value, UserError)


def test_missing_empty_and_undecodable_files(tmp_path):
    with pytest.raises(ManifestError, match="No such file"):
        read_manifest(tmp_path / "none.jsonl")
    with pytest.raises(ManifestError, match="empty"):
        read_manifest(write(tmp_path / "empty.jsonl"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(ManifestError, match=r"latin\.jsonl:1: byte 8 is not UTF-8"):
        read_manifest(tmp_path / "latin.jsonl")


def test_files_are_looked_for_on_request(tmp_path):
    path = write(tmp_path / "m.jsonl", GOOD)
    read_manifest(path)
    with pytest.raises(ManifestError, match=r"m\.jsonl:1: no audio file .*a\.wav"):
        read_manifest(path, check_files=True)
    (tmp_path / "a.wav").touch()
    read_manifest(path, check_files=True)


def test_written_manifests_read_back_and_line_separators_stay_inside_lines(tmp_path):
    path = tmp_path / "m.jsonl"
    rows = [{**GOOD, "answer": "a\u2028bell"}, {**GOOD, "id": "é"}]
    write_manifest(path, rows)
    assert [(record.id, record.answer) for record in read_manifest(path)] == [
        ("a", "a\u2028bell"),
        ("é", "a bell"),
    ]


def test_writing_is_whole_or_not_at_all(tmp_path):
    path = write(tmp_path / "m.jsonl", GOOD)
    before = path.read_bytes()
    with pytest.raises(ManifestError, match=r"m\.jsonl:2: id 'a' was already used"):
        write_manifest(path, [GOOD, GOOD])
    with pytest.raises(ManifestError, match="'answer' is missing"):
        write_manifest(path, [GOOD, {"id": "b", "audio": "a", "question": "q"}])
    with pytest.raises(ManifestError, match="cannot be written"):
        write_manifest(tmp_path / "no" / "m.jsonl", [GOOD])
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["m.jsonl"]


def test_the_length_of_a_part_is_that_of_its_samples(tmp_path):
    """The length is read from the header alone (2 s at 8 kHz), and equals the number of samples that are read."""
    save_wav(tmp_path / "a.wav", np.linspace(-0.5, 0.5, 16000, dtype=np.float32), 8000)
    for start_s, end_s, wanted in (
        (None, None, 2.0),
        (0.5, None, 1.5),
        (None, 0.75, 0.75),
        (0.5, 1.25, 0.75),
    ):
        ref = AudioRef(tmp_path / "a.wav", start_s, end_s)
        assert ref.seconds() == wanted
        assert len(ref.load(8000)) == 8000 * wanted
