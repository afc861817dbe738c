"""Running and scoring with a rule in place of a model: it hears pitch, so its right answers are known."""

import json
from dataclasses import replace

import numpy as np
import pytest
from answerers import Rule

from alm.data.manifest import read_manifest, write_manifest
from alm.data.records import AUDIO_MARKER, AudioRef
from encoders.audio import save_wav
from eval.errors import EvaluationError
from eval.reports.score_table import format_scores
from eval.runner.manifest import _longest_first, _plan, evaluate_manifest, other_clips
from eval.scoring.predictions import PredictionsFile, prediction_key, read_predictions
from eval.scoring.scores import score_predictions

RATE = 16000
KINDS = {"low hum": 100.0, "bell": 900.0, "whistle": 3000.0}


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Nine clips of three kinds, each with a question, a multiple-choice question and captions."""
    folder = tmp_path_factory.mktemp("manifest")
    lines = []
    for number in range(9):
        kind = list(KINDS)[number % 3]
        time = np.arange(RATE // 4) / RATE
        save_wav(
            folder / f"{number}.wav", 0.5 * np.sin(2 * np.pi * KINDS[kind] * time).astype(np.float32), RATE
        )
        base = {"audio": f"{number}.wav", "clip": f"clip{number}"}
        lines += [
            {**base, "id": f"q{number}", "question": "What is it?", "answer": f"a {kind}", "kind": "what"},
            {
                **base,
                "id": f"m{number}",
                "question": "Which?",
                "answer": kind,
                "choices": list(KINDS),
                "kind": "choice",
            },
            {
                **base,
                "id": f"c{number}",
                "captions": [f"a {kind} sounds for a while", f"the sound of a {kind}"],
            },
        ]
    write_manifest(folder / "test.jsonl", lines)
    return read_manifest(folder / "test.jsonl")


class Listener:
    """Answers with the kind whose pitch is nearest; without audio it says bell."""

    def __init__(self, die_after: int | None = None) -> None:
        self.die_after = die_after
        self.asked: list[list[dict]] = []
        self.heard: set[int] = set()

    def __call__(self, conversations, audios, max_new_tokens=64, batch_size=16):
        for index in reversed(range(len(conversations))):  # any order is allowed
            if self.die_after is not None and len(self.asked) >= self.die_after:
                raise KeyboardInterrupt
            conversation, clips = conversations[index], audios[index]
            self.asked.append(conversation)
            assert conversation[-1]["role"] == "user"
            assert "".join(turn["content"] for turn in conversation).count(AUDIO_MARKER) == len(clips)
            kind = "bell"
            for clip in clips:
                self.heard.add(id(clip))
                pitch = np.abs(np.fft.rfft(clip)).argmax() * RATE / len(clip)
                kind = min(KINDS, key=lambda name: abs(KINDS[name] - pitch))
            if "Which?" in conversation[-1]["content"]:
                yield index, f"The answer is {'ABC'[list(KINDS).index(kind)]}."
            else:
                yield (
                    index,
                    kind if "What is it?" in conversation[-1]["content"] else f"a {kind} sounds for a while",
                )


def run(records, folder, listener, max_new_tokens=64, **options):
    model = Rule(listener, max_new_tokens=max_new_tokens)
    return evaluate_manifest(model, records, folder, batch_size=4, **options)


def test_scores_beside_their_controls(records, tmp_path, capsys):
    listener = Listener()
    scores = run(records, tmp_path, listener, title="questions")
    assert (
        "questions: 100%" in (shown := capsys.readouterr().err)
        and f"{3 * len(records)}/{3 * len(records)}" in shown
    )
    arms = scores["arms"]
    assert {name: arm["scores"]["qa/overall"]["value"] for name, arm in arms.items()}["none"] == 1.0
    assert arms["no_audio"]["scores"]["qa/overall"]["value"] == pytest.approx(1 / 3)
    same = [
        int(refs[0].path.stem) % 3 == int(own.id[1:]) % 3
        for own, refs in zip(records, other_clips(records), strict=True)
    ]
    assert arms["other_clip"]["scores"]["qa/overall"]["value"] == pytest.approx(np.mean(same))
    assert arms["none"]["scores"]["qa/overall"]["low"] < 1.0
    assert arms["none"]["scores"]["caption/bleu_4"]["value"] == pytest.approx(1.0)
    gap = scores["gaps"]["other_clip"]["qa/overall"]
    assert gap["value"] == pytest.approx(1.0 - arms["other_clip"]["scores"]["qa/overall"]["value"])
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert len(listener.asked) == 3 * len(records)
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    lines = read_predictions(tmp_path / "predictions.jsonl")
    assert set(lines[0]) == {
        "id", "key", "model", "clip", "kind", "control", "question", "prediction", "references", "choices",
        "duration_s",
    }  # fmt: skip


def test_scoring_again_from_the_file_gives_the_same(records, tmp_path):
    scores = run(records, tmp_path, Listener())
    lines = read_predictions(tmp_path / "predictions.jsonl")
    assert score_predictions(records, lines[::-1]) == scores


def test_audio_is_read_once_per_clip(records, tmp_path, monkeypatch):
    import eval.waveforms as module

    read = []
    original = AudioRef.load
    monkeypatch.setattr(AudioRef, "load", lambda ref, rate: read.append(ref) or original(ref, rate))
    run(records, tmp_path, Listener())
    assert len(read) == 9
    monkeypatch.setattr(module, "CACHE_BYTES", 1)  # not even to say how long a clip was
    run(records, tmp_path / "small", Listener(), controls=["none"])
    assert len(read) == 9 + 27


def test_a_replaced_recording_is_asked_about_again(tmp_path):
    def noise(seed):
        wave = 0.1 * np.random.default_rng(seed).standard_normal(RATE // 4)
        save_wav(tmp_path / "a.wav", wave.astype(np.float32), RATE)

    noise(0)
    write_manifest(
        tmp_path / "m.jsonl", [{"id": "1", "audio": "a.wav", "question": "What is it?", "answer": "x"}]
    )
    made = []
    for seed, new in ((None, 1), (None, 0), (1, 1)):
        size = (tmp_path / "a.wav").stat().st_size
        if seed is not None:
            noise(seed)
            assert (tmp_path / "a.wav").stat().st_size == size
        listener = Listener()
        run(read_manifest(tmp_path / "m.jsonl"), tmp_path / "out", listener, controls=["none"])
        made.append(len(listener.asked) == new)
    assert all(made)


def test_the_longest_audio_comes_first_whatever_its_format(tmp_path):
    import soundfile

    asked = []

    def listening(conversations, audios, max_new_tokens=64, batch_size=16):
        asked.extend(len(clips[0]) / RATE for clips in audios)
        yield from ((i, "x") for i in range(len(audios)))

    noise = 0.1 * np.random.default_rng(0).standard_normal(RATE * 3)
    lines = []
    for seconds, name in ((1, "wav"), (2, "ogg"), (3, "flac")):
        soundfile.write(tmp_path / f"a.{name}", noise[: seconds * RATE], RATE)
        lines.append({"id": name, "audio": f"a.{name}", "question": "?", "answer": "x"})
    part = {"path": "a.flac", "start_s": 0.0, "end_s": 2.5}
    lines.append({"id": "part", "audio": part, "question": "?", "answer": "x"})
    write_manifest(tmp_path / "m.jsonl", lines)
    run(read_manifest(tmp_path / "m.jsonl"), tmp_path / "out", listening, controls=["none"])
    assert asked == pytest.approx([3.0, 2.5, 2.0, 1.0], abs=0.01)


@pytest.mark.parametrize("torn", [b"", b'{"id": "q1", "ke', b'{"id": "q1"}'])
def test_a_killed_run_goes_on(records, tmp_path, torn):
    with pytest.raises(KeyboardInterrupt):
        run(records, tmp_path / "killed", Listener(die_after=31))
    path = tmp_path / "killed" / "predictions.jsonl"
    kept = len(path.read_bytes().splitlines())
    assert kept == 27 + (31 - 27) // 4 * 4  # the first control, and a whole batch of the second
    with open(path, "ab") as file:
        file.write(torn)
    again = Listener()
    scores = run(records, tmp_path / "killed", again)
    assert len(again.asked) == 3 * len(records) - kept
    assert scores == run(records, tmp_path / "whole", Listener())
    whole = (tmp_path / "whole" / "predictions.jsonl").read_bytes().splitlines()
    assert sorted(path.read_bytes().splitlines()) == sorted(whole)
    nothing = Listener()
    run(records, tmp_path / "killed", nothing)
    assert nothing.asked == []


def test_another_model_or_decoding_is_asked_anew(records, tmp_path):
    run(records, tmp_path, Listener(), controls=["none"])
    again = Listener()
    scores = run(records, tmp_path, again, controls=["none"], max_new_tokens=8)
    assert len(again.asked) == len(records)
    assert scores["arms"]["none"]["n_missing"] == 0
    with pytest.raises(EvaluationError, match="two predictions for id"):
        score_predictions(records, read_predictions(tmp_path / "predictions.jsonl"))


def test_other_clips_are_never_the_same_clip(records):
    for seed in range(20):
        borrowed = other_clips(records, seed)
        donors = {}
        for record, refs in zip(records, borrowed, strict=True):
            assert refs[0].path != record.audio[0].path
            donors.setdefault(record.clip, set()).add(refs)
        assert all(len(refs) == 1 for refs in donors.values())
        assert len({next(iter(refs)) for refs in donors.values()}) == 9
    assert other_clips(records, 1) == other_clips(records, 1) != other_clips(records, 2)
    with pytest.raises(EvaluationError, match="at least two clips"):
        other_clips(records[:3])


def test_other_clips_with_several_recordings(tmp_path):
    lines = [
        {"id": "two", "audio": ["a.wav", "b.wav"], "question": "?", "answer": "x"},
        {"id": "one", "audio": "c.wav", "question": "?", "answer": "x"},
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    both, single = other_clips(read_manifest(tmp_path / "m.jsonl"))
    assert [ref.path.name for ref in both] == ["c.wav", "c.wav"]
    assert [ref.path.name for ref in single] == ["a.wav"]


def test_without_audio_no_marker_is_left_and_controls_are_asked_one_after_the_other(tmp_path):
    """The Listener counts markers against clips; the longest clips come first within each control."""
    for name, seconds in (("a", 0.25), ("b", 0.5), ("c", 1.0)):
        save_wav(tmp_path / f"{name}.wav", np.full(int(RATE * seconds), 0.1, np.float32), RATE)
    lines = [
        {"id": "two", "audio": ["a.wav", "b.wav"], "question": "Which is louder?", "answer": "x"},
        {"id": "one", "audio": "c.wav", "question": "What is it?", "answer": "x"},
        {"id": "short", "audio": "a.wav", "question": "What is it?", "answer": "x"},
    ]
    write_manifest(tmp_path / "m.jsonl", lines)
    found = read_manifest(tmp_path / "m.jsonl")
    controls = ("other_clip", "no_audio", "none")
    listener = Listener()
    run(found, tmp_path / "run", listener, controls=controls)
    assert len(listener.asked) == 9
    questions = [one for control in controls for one in _plan(found, control, "m", {}, {}, 0)]
    order = [(one.control, one.record.id) for one in _longest_first(questions)]
    # without audio the longest question comes first
    assert order[:3] == [("none", "one"), ("none", "two"), ("none", "short")]
    assert order[3:6] == [("no_audio", "two"), ("no_audio", "one"), ("no_audio", "short")]
    assert [control for control, _ in order[6:]] == ["other_clip"] * 3


def test_what_a_model_remarks_stands_beside_its_scores(records, tmp_path):
    model = Rule(Listener())
    model.remarks = lambda: ["It was slow."]
    scores = evaluate_manifest(model, records, tmp_path, controls=["none"], notes=["A note."])
    assert scores["notes"][:2] == ["A note.", "It was slow."]


def test_limit_is_said_beside_cider(records, tmp_path):
    scores = run(records, tmp_path, Listener(), limit=6, controls=["none"])
    assert scores["limited"] and scores["n_records"] == 6
    text = format_scores(scores)
    assert "Only the first 6 records" in text and "does not compare" in text
    assert not run(records, tmp_path, Listener(), controls=["none"])["limited"]
    with pytest.raises(EvaluationError, match="limit is 0"):
        run(records, tmp_path, Listener(), limit=0)


def test_missing_predictions_are_wrong(records, tmp_path):
    run(records, tmp_path, Listener(), controls=["none"])
    lines = [
        line for line in read_predictions(tmp_path / "predictions.jsonl") if line["id"] not in ("q0", "c1")
    ]
    scores = score_predictions(records, lines)
    assert scores["arms"]["none"]["n_missing"] == 2
    assert scores["arms"]["none"]["scores"]["qa/what"]["value"] == pytest.approx(8 / 9)
    assert scores["arms"]["none"]["scores"]["qa/what"]["n"] == 9
    assert scores["arms"]["none"]["scores"]["caption/cider_d"]["n"] == 9
    assert "2 predictions missing" in format_scores(scores)


def test_extra_arm_and_parse_failures(records, tmp_path):
    run(records, tmp_path, Listener(), controls=["none"])
    lines = read_predictions(tmp_path / "predictions.jsonl")
    silent = [{**line, "prediction": "I cannot tell."} for line in lines]
    scores = score_predictions(records, lines, extra={"untrained_encoder": silent})
    arm = scores["arms"]["untrained_encoder"]
    assert arm["scores"]["qa/overall"]["value"] == 0.0
    assert arm["choice_parse_failures"] == {"n": 9, "of": 9, "rate": 1.0}
    assert scores["gaps"]["untrained_encoder"]["qa/overall"]["value"] == 1.0
    text = format_scores(scores)
    assert "untrained encoder" in text and "9 of 9 multiple-choice answers name no single choice" in text


def test_an_extra_arm_is_what_its_model_says_with_the_right_audio(records, tmp_path):
    """The file of another model holds its controls, too."""
    run(records, tmp_path, Listener())
    lines = read_predictions(tmp_path / "predictions.jsonl")
    own = [line for line in lines if line["control"] == "none"]
    scores = score_predictions(records, own, extra={"other": lines})
    assert scores["arms"]["other"]["scores"]["qa/overall"]["value"] == 1.0
    assert scores["arms"]["other"]["n_missing"] == 0 and scores["gaps"]["other"]["qa/overall"]["value"] == 0.0


def test_a_length_belongs_to_the_group_that_it_ends(records):
    """5 s are the last of "0 to 5 s"; one clip each, answered right up to 10 s."""
    lengths = {4.9: "0 to 5 s", 5.0: "0 to 5 s", 5.01: "5 to 10 s", 10.0: "5 to 10 s", 10.1: "10 to 30 s",
               30.0: "10 to 30 s", 30.1: "over 30 s", None: "not given"}  # fmt: skip
    asked = [record for record in records if record.kind == "what"][: len(lengths)]
    lines = [
        {"id": record.id, "key": record.id, "control": "none", "duration_s": length,
         "prediction": record.answer if length and length <= 10 else "nothing"}
        for record, length in zip(asked, lengths, strict=True)
    ]  # fmt: skip
    found = score_predictions(asked, lines)["arms"]["none"]["groups"]["length"]
    counted = {name: (one["qa/overall"]["n"], one["qa/overall"]["value"]) for name, one in found.items()}
    assert counted == {
        "0 to 5 s": (2, 1.0), "5 to 10 s": (2, 1.0), "10 to 30 s": (2, 0.0), "over 30 s": (1, 0.0),
        "not given": (1, 0.0),
    }  # fmt: skip


def test_intervals_of_a_breakdown_resample_clips(records):
    """Two questions about one clip are one observation: no interval, but two samples."""
    asked = [
        replace(record, meta={"part": "one" if record.clip == "clip0" else "others"})
        for record in records
        if not record.captions
    ]
    lines = [
        {"id": record.id, "key": record.id, "control": "none", "prediction": "x" if i % 2 else record.answer}
        for i, record in enumerate(asked)
    ]
    found = score_predictions(asked, lines, groups=["part"])["arms"]["none"]["groups"]["part"]
    one, others = (found[name]["qa/overall"] for name in ("one", "others"))
    assert (one["n"], one["n_clips"], one["value"], one["low"], one["high"]) == (2, 1, 0.5, None, None)
    assert (others["n"], others["n_clips"], others["value"]) == (16, 8, 0.5)
    assert others["low"] == others["high"] == 0.5  # half of every clip's answers are right


def test_wrong_inputs_are_typed_errors(records, tmp_path):
    run(records, tmp_path, Listener(), controls=["none"])
    lines = read_predictions(tmp_path / "predictions.jsonl")
    with pytest.raises(EvaluationError, match="id 'q8'.*which the manifest does not"):
        score_predictions([record for record in records if record.id != "q8"], lines)
    with pytest.raises(EvaluationError, match="unknown control 'silence'"):
        run(records, tmp_path, Listener(), controls=["none", "silence"])
    with pytest.raises(EvaluationError, match="no records"):
        run([], tmp_path, Listener())
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot write predictions"):
        run(records, tmp_path / "file" / "out", Listener())
    with pytest.raises(EvaluationError, match="absent.jsonl: cannot be read .*expected a predictions.jsonl"):
        read_predictions(tmp_path / "absent.jsonl")


def test_broken_line_in_the_middle_names_its_line(tmp_path):
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"id": "a", "key": "k", "control": "none", "prediction": "x"}\nnot json\n{"id": 1}\n')
    with pytest.raises(EvaluationError, match="predictions.jsonl:2: broken JSON"):
        PredictionsFile(path)
    path.write_text('{"id": "a", "key": "k", "control": "none"}\n')
    with pytest.raises(EvaluationError, match="predictions.jsonl:1: not a prediction, 'prediction'"):
        read_predictions(path)


def test_odd_answers_survive_the_file(tmp_path):
    odd = ["", "a\u2028b\nc", '"quoted" \\', "\U0001f600", "\x00"]
    lines = [
        {"id": str(i), "key": prediction_key(id=i), "control": "none", "prediction": text}
        for i, text in enumerate(odd)
    ]
    with PredictionsFile(tmp_path / "p.jsonl") as file:
        file.append(lines)
    assert read_predictions(tmp_path / "p.jsonl") == lines
