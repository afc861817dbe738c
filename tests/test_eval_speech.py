"""Speech benchmarks beyond transcripts: translation, emotion, spoken questions, and Whisper's normaliser."""

import json

import numpy as np
import pytest

from encoders.audio import save_wav
from eval.benchmarks import load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError, MetricUnavailable
from eval.metrics import load_metric
from eval.runner.score_file import score_file


def scored(benchmark, rows, answers, folder):
    """The scores of answers, by the position of their row."""
    data = folder / "table.jsonl"
    data.write_text("".join(json.dumps({"audio": f"{n}.wav", **row}) + "\n" for n, row in enumerate(rows)))
    file = folder / "answers.jsonl"
    file.write_text(
        "".join(json.dumps({"id": f"{n}.wav", "prediction": said}) + "\n" for n, said in enumerate(answers))
    )
    return score_file(file, benchmark=benchmark, data=str(data))


def test_whispers_normaliser_unifies_what_is_said_the_same_way(tmp_path):
    # By hand: colour and color, twenty-one dollars and $21, Mr., contractions and fillers are the same; one of the
    # seven words of the first sentence is another, and one of four is missing.
    rows = [
        {"text": "Mr Smith's colour was twenty-one dollars, uh, fine"},
        {"text": "we're not going there"},
    ]
    answers = ["mister smith's color was $21 bad", "we are not there"]
    arm = scored("open_asr", rows, answers, tmp_path)["arms"]["none"]["scores"]
    # mister smith is color was $21 fine (7), we are not going there (5)
    assert arm["answer/wer_whisper"]["value"] == pytest.approx(2 / 12)
    assert arm["answer/wer"]["value"] > 0.5


def test_the_table_of_spellings_is_named_where_it_is_missing(monkeypatch):
    from eval.metrics.wer_whisper import wer_whisper

    wer_whisper._normaliser.cache_clear()
    monkeypatch.setattr(wer_whisper, "files", lambda name: (_ for _ in ()).throw(ModuleNotFoundError(name)))
    with pytest.raises(MetricUnavailable, match=r"alm-toolkit\[speech\]"):
        load_metric("wer_whisper").compute(predictions=["a"], references=["a"])
    wer_whisper._normaliser.cache_clear()


SAID = ["The cat sat on the mat.", "It is raining in Berlin today , I think", "", "hello there"]
MEANT = [
    ["The cat is sitting on the mat."],
    ["Today it rains in Berlin, I think."],
    ["Nothing was said."],
    ["hello there"],
]


def test_translations_are_scored_as_sacrebleu_does(tmp_path):
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs alm-toolkit[speech]")
    rows = [{"translation": targets[0], "language": "English"} for targets in MEANT]
    arm = scored("speech_translation", rows, SAID, tmp_path)["arms"]["none"]["scores"]
    streams = [[targets[0] for targets in MEANT]]
    expected = {
        "bleu_mt": sacrebleu.corpus_bleu(SAID, streams).score,
        "chrf": sacrebleu.corpus_chrf(SAID, streams).score,
    }
    for name, value in expected.items():
        found = arm[f"answer/{name}"]
        assert found["value"] == pytest.approx(value, abs=1e-9) and 5 < value < 95
        assert 0 <= found["low"] < value < found["high"] <= 100 + 1e-9
        result = load_metric(name).compute(predictions=SAID, references=MEANT)
        sentence = {"bleu_mt": sacrebleu.sentence_bleu, "chrf": sacrebleu.sentence_chrf}[name]
        assert result["per_sample"] == pytest.approx(
            [sentence(said, targets).score for said, targets in zip(SAID, MEANT, strict=True)]
        )


def test_several_translations_may_be_right():
    sacrebleu = pytest.importorskip("sacrebleu", reason="needs alm-toolkit[speech]")
    more = [[*targets, "A cat sat on the mat."] for targets in MEANT]
    streams = [list(stream) for stream in zip(*more, strict=True)]
    for name, corpus in (("bleu_mt", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        result = load_metric(name).compute(predictions=SAID, references=more)
        assert result[name] == pytest.approx(corpus(SAID, streams).score, abs=1e-9)


def test_emotions_are_averaged_over_classes(tmp_path):
    rows = [{"emotion": name} for name in ["neutral"] * 6 + ["angry"] * 2 + ["sad"]]
    answers = ["neutral"] * 6 + ["A. angry", "neutral"] + ["angry"]
    scores = scored("emotion", rows, answers, tmp_path)
    arm = scores["arms"]["none"]["scores"]
    assert arm["qa/overall"]["value"] == pytest.approx(7 / 9)
    assert arm["qa/balanced"]["value"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert 0 <= arm["qa/balanced"]["low"] <= arm["qa/balanced"]["value"] <= arm["qa/balanced"]["high"] <= 1
    by_emotion = scores["arms"]["none"]["groups"]["emotion"]
    assert {name: found["qa/overall"]["value"] for name, found in by_emotion.items()} == {
        "angry": 0.5,
        "neutral": 1.0,
        "sad": 0.0,
    }


def test_spoken_questions_have_their_question_in_the_recording(tmp_path):
    rows = [{"answer": "Paris"}, {"answer": "four", "answers": ["4"]}, {"answer": "a red fox"}]
    arm = scored("spoken_qa", rows, ["paris.", "4", "the fox"], tmp_path)["arms"]["none"]["scores"]
    assert arm["qa/overall"]["value"] == pytest.approx(2 / 3)
    assert 2 / 3 < arm["answer/token_f1"]["value"] < 1
    for number in range(3):
        save_wav(tmp_path / f"{number}.wav", np.zeros(1600, np.float32), 16000)
    [first, *_] = read_records(load_benchmark("spoken_qa"), tmp_path / "table.jsonl").records
    assert (
        first.messages[0]["content"].startswith("<|audio|>") and "Paris" not in first.messages[0]["content"]
    )


@pytest.mark.parametrize(
    ("benchmark", "field"),
    [("speech_translation", "translation"), ("emotion", "emotion"), ("spoken_qa", "answer")],
)
def test_a_table_without_its_field_is_an_error(benchmark, field, tmp_path):
    (tmp_path / "t.jsonl").write_text('{"audio": "a.wav"}\n')
    with pytest.raises(EvaluationError, match=rf"t.jsonl:1 has no field '{field}'"):
        read_records(load_benchmark(benchmark), tmp_path / "t.jsonl")
