"""The published MMAU rule, beside the strict score that counts what is missing."""

import json
import random
import re

import pytest

from alm.common.errors import ConfigError
from alm.data.manifest import write_manifest
from eval.benchmarks import load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError
from eval.reports.score_table import format_scores, official_remark
from eval.runner.score_file import score_file
from eval.scoring.official import official_score
from eval.scoring.official_rules.mmau import mmau_match
from eval.scoring.predictions import read_foreign_predictions, read_predictions, records_of


@pytest.mark.parametrize(
    ("said", "answer", "choices", "right"),
    [
        ("Man", "Man", ["Man", "Woman"], True),
        ("(A) Man", "Man", ["Man", "Woman"], True),
        ("A", "Man", ["Man", "Woman"], False),  # a bare letter
        ("Not Woman but Man", "Man", ["Man", "Woman"], False),  # another option on the way
        ("a man speaks", "man", ["man", "men"], True),
        ("", "Man", ["Man"], False),
        ("the dog and the cat", "The dog", ["The dog", "The cat"], False),
        ("dog the", "The dog", ["The dog", "The cat"], True),  # any order
    ],
)
def test_rule(said, answer, choices, right):
    assert mmau_match(said, answer, choices) is right


def test_equals_the_rule_written_out_another_way(shared_dir):
    """On every question with right, wrong, bare and wordy answers."""
    records, *_ = read_records(load_benchmark("mmau"), shared_dir / "data" / "mmau", check_audio=False)
    rng = random.Random(0)
    said = {}
    for record in records:
        pick = rng.choice(record.choices)
        said[record.id] = rng.choice(["{0}", "The answer is {0}.", "B", "{0}, not {1}", ""]).format(
            pick, rng.choice(record.choices)
        )
    answered = [record for record in records if rng.random() < 0.7]
    right = 0
    for record in answered:
        words = set(re.findall(r"\w+", said[record.id].lower()))
        wanted = set(re.findall(r"\w+", record.answer.lower()))
        others = {word for choice in record.choices for word in re.findall(r"\w+", choice.lower())} - wanted
        right += bool(words) and not wanted - words and not words & others
    kept = {record.id for record in answered}
    answers = [said[record.id] if record.id in kept else None for record in records]
    found = official_score("mmau", records, answers)
    assert (found["n_right"], found["n_answered"], found["n_records"]) == (right, len(answered), 1000)
    assert found["value"] == pytest.approx(right / len(answered)) and found["strict"] == pytest.approx(
        right / 1000
    )
    with pytest.raises(ConfigError, match="unknown official rule 'mmlu'"):
        official_score("mmlu", records, answers)


def test_an_empty_answer_is_wrong_and_a_missing_one_is_not_counted():
    answers = {"a": "dog", "b": "cat", "c": "", "d": None}
    lines = [{"id": name, "references": ["dog"], "choices": ["dog", "cat"]} for name in answers]
    found = official_score("mmau", records_of(lines), list(answers.values()))
    assert (found["n_right"], found["n_answered"], found["n_records"]) == (1, 3, 4)
    assert found["value"] == pytest.approx(1 / 3) and found["strict"] == 0.25
    nothing = official_score("mmau", records_of(lines), [None] * 4)
    assert nothing["value"] is None and nothing["n_answered"] == 0 and nothing["strict"] == 0.0


def test_questions_without_choices_are_in_no_denominator():
    with_choices = [{"id": name, "references": ["dog"], "choices": ["dog", "cat"]} for name in "abcd"]
    free = [{"id": name, "references": ["dog"]} for name in "ef"]
    records = records_of([*with_choices, *free])
    found = official_score("mmau", records, ["dog", "cat", "dog", None, "dog", None])
    assert (found["n_right"], found["n_answered"], found["n_records"]) == (2, 3, 4)
    assert found["value"] == pytest.approx(2 / 3) and found["strict"] == 0.5
    none = official_score("mmau", records_of(free), ["dog", "dog"])
    assert none["value"] is None and none["strict"] is None and none["n_records"] == 0
    condition = {"official": found, "scores": {"qa/overall": {"value": 0.5, "n": 6}}}
    assert official_remark(condition) == (
        "official rule (mmau): 66.7 % of the 3 answered, 50.0 % with the missing as wrong, of 4 questions with choices"
    )
    condition["scores"]["qa/overall"]["n"] = 4
    assert official_remark(condition).endswith("50.0 % with the missing as wrong; ours 50.0 % (+0.0)")


def test_a_foreign_predictions_file(tmp_path):
    """The benchmark's own format, with an answer missing: the official score leaves it out, ours counts it as wrong."""
    items = [
        {
            "id": f"q{i}", "audio_id": f"./a/{i}.wav", "question": "Which?", "choices": ["dog", "cat"], "answer": "cat",
            "task": "sound", "difficulty": "easy" if i < 2 else "hard",
        }
        for i in range(4)
    ]  # fmt: skip
    (tmp_path / "mmau-test-mini.json").write_text(json.dumps(items))
    given = [
        {**items[0], "model_prediction": "cat"},
        {**items[1], "model_output": "B"},
        {"id": "q2", "response": "dog"},
    ]
    path = tmp_path / "answers.json"
    path.write_text(json.dumps([*given, items[3]]))
    scores = score_file(path, benchmark="mmau", data=str(tmp_path))
    arm = scores["arms"]["none"]
    assert arm["official"] == {
        "rule": "mmau", "value": pytest.approx(1 / 3), "n_right": 1, "n_answered": 3, "n_records": 4, "strict": 0.25,
    }  # fmt: skip
    assert arm["n_missing"] == 1 and arm["scores"]["qa/overall"]["value"] == 0.5
    assert arm["groups"]["difficulty"]["easy"]["qa/overall"]["value"] == 1.0
    text = format_scores(scores)
    assert "33.3 % of the 3 answered, 25.0 % with the missing as wrong; ours 50.0 % (+25.0)" in text
    assert "By difficulty" in text
    with pytest.raises(EvaluationError, match="neither a predictions file"):
        write_manifest(tmp_path / "m.jsonl", [{"id": "a", "audio": "a", "question": "q", "answer": "x"}])
        (tmp_path / "bad.json").write_text("{")
        score_file(tmp_path / "bad.json", benchmark="mmau", data=str(tmp_path))


def test_an_id_may_be_called_uniq_id_and_the_first_answer_field_counts(tmp_path):
    """MMAU-Pro's files; `model_prediction` stands before `output` in the list, whatever their order in the file."""
    path = tmp_path / "answers.json"
    path.write_text(
        json.dumps(
            [{"uniq_id": "a", "output": "long", "model_prediction": "short"}, {"id": 7, "output": "x"}]
        )
    )
    found = [(line["id"], line["prediction"], line["control"]) for line in read_foreign_predictions(path)]
    assert found == [("a", "short", "none"), ("7", "x", "none")]


def test_of_two_lines_with_one_key_the_first_counts(tmp_path):
    line = {"id": "a", "key": "k", "control": "none"}
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps({**line, "prediction": said}) + "\n" for said in ("one", "two")))
    assert [one["prediction"] for one in read_predictions(path)] == ["one"]
