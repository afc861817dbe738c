"""Spoken content: transcripts of real digits scored by word and character error rate."""

import csv
import json

import pytest

from alm.cli import main
from eval.benchmarks import load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError
from eval.runner.score_file import score_file

DIGITS = "zero one two three four five six seven eight nine".split()


def test_spoken_digits_from_a_table(shared_dir, tmp_path, capsys):
    with open(shared_dir / "data" / "fsdd" / "meta.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))[:40]
    said = [DIGITS[int(row["category"])] if row["category"].isdigit() else row["category"] for row in rows]
    with open(tmp_path / "digits.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["audio", "text", "speaker"])
        table.writerows([row["filename"], text, row["speaker"]] for row, text in zip(rows, said, strict=True))
    # One answer is wrong, one says a word too many, one is missing.
    heard = {row["filename"]: text.capitalize() + "." for row, text in zip(rows, said, strict=True)}
    names = list(heard)
    heard[names[0]], heard[names[1]] = "nothing", f"oh {heard[names[1]]}"
    del heard[names[2]]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "\n".join(json.dumps({"id": name, "prediction": text}) for name, text in heard.items())
    )
    scores = score_file(answers, benchmark="transcription", data=str(tmp_path / "digits.csv"))
    arm = scores["arms"]["none"]
    assert arm["scores"]["answer/wer"]["value"] == pytest.approx(3 / 40)
    assert 0 <= arm["scores"]["answer/wer"]["low"] < 3 / 40 < arm["scores"]["answer/wer"]["high"]
    assert 0 < arm["scores"]["answer/cer"]["value"] < 0.2
    assert arm["scores"]["qa/overall"]["value"] == pytest.approx(37 / 40)
    assert arm["n_missing"] == 1 and scores["backends"]["answer/wer"].startswith("wer[jiwer=")
    assert (
        main(["score", str(answers), "--benchmark", "transcription", "--data", str(tmp_path / "digits.csv")])
        == 0
    )
    assert "answer/wer" in capsys.readouterr().out


def test_a_table_without_text_is_an_error(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"audio": "a.wav"}\n')
    with pytest.raises(EvaluationError, match=r"t.jsonl:1 has no field 'text'"):
        read_records(load_benchmark("transcription"), tmp_path / "t.jsonl")
