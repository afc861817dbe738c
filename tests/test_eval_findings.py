"""What pages say: sentences that follow from intervals, verdicts, confusion tables, names and published figures."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from alm.common.text import markdown_table
from alm.data.records import Record
from eval.reports.answers import _chosen, answer_sections
from eval.reports.findings import comparison_findings, score_findings
from eval.reports.names import model_names, without_folders
from eval.reports.published import published, published_sections, results_of
from eval.scoring.confusions import OTHER, UNPARSED, confusions, verdict_of
from eval.scoring.predictions import prediction_key
from eval.scoring.scores import score_predictions

ROOT = Path(__file__).resolve().parents[1]


def interval(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 20, "n_clips": 10}


def scores(gaps, own=(0.8, 0.7, 0.9), kinds=("order", "count"), key="qa/overall"):
    """Scores of a model whose gap to each other arm is given per score."""
    keys = [key, *(f"qa/{kind}" for kind in kinds)]
    named = {key: interval(*own) for key in keys}
    found = {"scores": named, "n_missing": 0, "choice_parse_failures": {"n": 3, "of": 20, "rate": 0.15}}
    return {
        "n_records": 20,
        "limited": False,
        "arms": {"none": found, **{name: {**found, "scores": dict(named)} for name in gaps}},
        "gaps": {name: {key: interval(*ends) for key in keys} for name, ends in gaps.items()},
    }


def test_pretraining_buys_nothing_where_the_interval_includes_0():
    other = {"other_clip": (0.5, 0.4, 0.6)}
    heard, buys, weak = score_findings(scores({**other, "untrained_encoder": (0.01, -0.02, 0.04)}))
    assert heard == (
        "Questions answered right: 80.0 % [70.0, 90.0], with another clip's audio 80.0 % [70.0, 90.0]: the model "
        "listens (difference +50.0 points [+40.0, +60.0])."
    )
    assert buys == (
        "Pretraining buys nothing here: +1.0 points [-2.0, +4.0] against an untrained encoder, which includes 0."
    )
    assert weak.endswith("it listens in every kind, each tested by itself.")
    more = scores(other)  # the score of another metric is no kind of question
    more["arms"]["none"]["scores"]["answer/token_f1"] = interval(0.1, 0, 1)
    assert score_findings(more)[2] == weak
    helps = score_findings(scores({**other, "untrained_encoder": (0.1, 0.02, 0.2)}))[1]
    hurts = score_findings(scores({**other, "untrained_encoder": (-0.1, -0.2, -0.02)}))[1]
    assert helps.startswith("Pretraining the encoder helps:") and hurts.startswith(
        "Pretraining the encoder hurts:"
    )
    assert (
        "not shown to differ from qformer"
        in score_findings(scores({**other, "qformer": (0.0, -0.1, 0.1)}))[1]
    )


def test_a_model_listens_only_where_the_interval_says_so():
    deaf = score_findings(scores({"other_clip": (0.02, -0.1, 0.1)}))
    assert "nothing here shows that the model listens" in deaf[0]
    assert deaf[2].endswith("nothing shows that it listens in order, count.")
    assert "no control was run" in score_findings(scores({}))[0]
    assert "the right audio makes it worse" in score_findings(scores({"other_clip": (-0.3, -0.4, -0.2)}))[0]
    both = score_findings(scores({"other_clip": (0.5, 0.4, 0.6), "no_audio": (0.3, 0.2, 0.4)}))
    assert "with another clip's audio" in both[0]  # the harder control decides
    assert both[1].startswith("Without any audio it reaches 80.0 %")
    # One clip alone has no interval: nothing is shown.
    assert "too few clips for an interval" in score_findings(scores({"other_clip": (0.5, None, None)}))[0]


def test_of_error_rates_less_is_better():
    words = score_findings(scores({"other_clip": (-0.5, -0.6, -0.4)}, kinds=(), key="answer/wer"))
    assert words[0].startswith("Word error rate: 0.800") and "the model listens" in words[0]
    assert words[2] == "3 of 20 multiple-choice answers name no single choice."
    grouped = scores({}, kinds=(), key="answer/wer")
    by_length = {"0 to 5 s": interval(0.2, 0.1, 0.3), "over 30 s": interval(0.6, 0.5, 0.7)}
    groups = {"length": {name: {"answer/wer": found} for name, found in by_length.items()}}
    grouped["arms"]["none"]["groups"] = groups
    assert score_findings(grouped)[2] == "Weakest at length over 30 s (0.600 [0.500, 0.700], n = 20)."


def comparison(better, difference, gaps=((0.5, 0.4, 0.6), (0.5, 0.4, 0.6)), kinds=None):
    def row(score, better):
        return {
            "set": "mmau", "score": score, "first": interval(0.8, 0.7, 0.9), "second": interval(0.6, 0.5, 0.7),
            "difference": interval(*difference), "better": better, "p_holm": 0.01, "lower_is_better": False,
        }  # fmt: skip

    control = {"score": "qa/overall", "control": "other_clip"}
    control |= {f"{side}_gap": interval(*gap) for side, gap in zip(("first", "second"), gaps, strict=True)}
    rows = [row("qa/overall", better), *(row(f"qa/{kind}", who) for kind, who in (kinds or {}).items())]
    return {"sets": [{"name": "mmau", "controls": [control]}], "rows": rows}


def test_a_comparison_names_the_better_model_only_where_the_test_does():
    names = ("whisper", "beats")
    found = comparison_findings(comparison("second", (-0.2, -0.3, -0.1), kinds={"order": "second"}), names)
    assert found[0].startswith("On mmau beats is better (Questions answered right 80.0 %")
    assert "p = 0.010 after Holm" in found[0]
    assert found[1] == "By kind of question a difference is shown in order (beats); in no other."
    assert found[2].startswith("Both listen")
    found = comparison_findings(
        comparison(None, (0.1, -0.1, 0.3), gaps=((0.0, -0.1, 0.1), (0.5, 0.4, 0.6))), names
    )
    assert "no difference between whisper and beats is shown" in found[0]
    assert found[2].startswith("Nothing shows that whisper listens")


def record(number, answer, choices=(), kind="what", answers=()):
    return Record(
        f"q{number}", (), ({"role": "user", "content": "?"},), kind, "?", answer, choices, clip=f"c{number}",
        meta={"answers": list(answers)} if answers else {},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("record", "answer", "verdict"),
    [
        (record(0, "dog", ("dog", "cat")), "It is A.", "right"),
        (record(0, "dog", ("dog", "cat")), "a cat", "wrong"),
        (record(0, "dog", ("dog", "cat")), "dog or cat", UNPARSED),
        (record(0, "dog", ("dog", "cat")), None, UNPARSED),
        (record(0, "dog"), "The dog.", "right"),
        (record(0, "dog"), "a cat", "wrong"),
        (record(0, "dog"), " ", UNPARSED),
        (record(0, "dog", answers=("dog", "puppy")), "puppy", "right"),
        (Record("q", (), (), "caption", "?", "a", captions=("a", "b")), "a", ""),
    ],
)
def test_an_answer_is_right_wrong_or_unparsed(record, answer, verdict):
    assert verdict_of(record, answer) == verdict


def test_a_confusion_table_counts_every_answer_once():
    choices = ("dog", "cat")
    pairs = [
        (record(0, "dog", choices, "which"), "A"), (record(1, "dog", choices, "which"), "a cat"),
        (record(2, "cat", choices, "which"), "A or B"), (record(3, "cat", choices, "which"), "B"),
        (record(4, "yes"), "Yes, I hear it"), (record(5, "yes"), "no"), (record(6, "no"), "there is none"),
        (record(7, "no"), "No."), (record(8, "yes"), None),
        (record(9, "two", kind="count", answers=("two", "three")), "3"), (record(10, "four", kind="count"), "four"),
    ]  # fmt: skip
    found = {one.kind: one for one in confusions(pairs)}
    assert set(found) == {"which", "what"}  # right answers of "count" do not recur
    assert found["which"].answers == ("cat", "dog", UNPARSED) and found["which"].counts == (
        (1, 0, 1),
        (1, 1, 0),
    )
    assert found["what"].answers == ("no", "yes", OTHER, UNPARSED)
    assert found["what"].counts == ((1, 0, 1, 0), (1, 1, 0, 1))
    many = [(record(i, str(i % 12)), str(i % 12)) for i in range(48)]
    (table,) = confusions(many)
    assert table.n_left_out == 8 and [int(one) for one in table.answers] == sorted(map(int, table.answers))
    assert sum(map(sum, table.counts)) == 40


def test_answers_fill_a_page_with_the_wrong_ones_first():
    records = [record(i, "dog" if i % 2 else "cat", ("dog", "cat")) for i in range(600)]
    right, wrong = (
        {one.id: said for one, said in zip(records, pair * 300, strict=True)} for pair in ("BA", "AB")
    )
    answers = {one.id: (right if i % 10 else wrong)[one.id] for i, one in enumerate(records)}
    section, heading, table = answer_sections(records, answers)
    assert heading.heading == "Confusions"
    (shown,) = section.tables
    verdicts = [verdict for verdict, _ in shown.tags]
    assert verdicts[:60] == ["wrong"] * 60 and set(verdicts[60:]) == {"right"} and len(verdicts) == 400
    assert shown.note.startswith("400 of 600 answers") and section.filters == {"answers": ["wrong", "right"]}
    answers = {one.id: (wrong if i % 10 else right)[one.id] for i, one in enumerate(records)}
    verdicts = [verdict for verdict, _ in answer_sections(records, answers)[0].tables[0].tags]
    assert verdicts == ["wrong"] * 340 + ["right"] * 60
    assert [str(cell) for cell in table.tables[0].rows[0]] == ["cat", "240", "60"]
    assert (
        len(answer_sections(records[::2], answers)) == 1
    )  # one right answer alone: nothing to mistake it for


def test_clips_with_most_wrong_answers_come_first_and_are_heard_once():
    """Three clips: all three answers to the last are wrong, one to the others."""
    asked = [
        replace(record(f"{clip}{number}", "dog", ("dog", "cat")), clip=f"c{clip}")
        for clip in range(3)
        for number in range(3)
    ]
    answers = {one.id: "B" if one.clip == "c2" or one.id.endswith("0") else "A" for one in asked}
    (table,) = answer_sections(asked, answers)[0].tables
    assert [row[0] for row in table.rows] == [*["c2"] * 3, "c0", "c1", *["c0"] * 2, *["c1"] * 2]
    verdicts = {one.id: verdict_of(one, answers[one.id]) for one in asked}
    chosen = _chosen(asked, verdicts)
    assert sorted(one.clip for one in chosen) == ["c0", "c1", "c2"]
    assert all(verdicts[one.id] == "wrong" for one in chosen)


def test_names_are_what_tells_folders_apart(monkeypatch, tmp_path):
    assert model_names("runs/a/eval/mmau", "runs/b/eval/mmau") == ("a", "b")
    assert model_names("/x/a/predictions.jsonl", "/y/z/predictions.jsonl") == ("x/a", "y/z")
    assert model_names("runs/model", "runs/model") == ("model (first)", "model (second)")
    assert model_names("runs/model", "runs/model/eval") == ("model", "model/eval")
    monkeypatch.chdir(tmp_path)
    told = {"data": str(tmp_path / "data" / "test.jsonl"), "why": "/home/ann/runs/x/model: no file", "n": 3}
    assert without_folders(told) == {"data": "data/test.jsonl", "why": "…/x/model: no file", "n": 3}
    kept = ["dog/cat", "https://host/a/b/c", "s3://bucket/a/b", "1/2", "and/or /", "~/x/y"]
    assert without_folders(kept) == kept


# ---- published figures ----
def test_the_page_of_the_docs_shows_the_figures_of_the_file():
    page = (ROOT / "docs" / "published.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in page if line.startswith("|") and not re.match(r"\|(---|\s*model\s*)\|", line)]
    listed = []
    for tables in published().values():
        for one in tables:
            assert {len(row) for row in one["rows"]} == {len(one["columns"]) + 1}, one["name"]
            assert set(one["ours"]) <= set(one["columns"])
            listed += markdown_table([], one["rows"])[2:]
    assert sorted(row for row in rows if not row.startswith("| model")) == sorted(listed)


def asked_in(benchmark, split, **more):
    lines, records = (
        [],
        [record(i, "dog", ("dog", "cat"), kind="sound" if i % 2 else "speech") for i in range(8)],
    )
    for number, one in enumerate(records):
        key = prediction_key(id=one.id)
        lines.append(
            {"id": one.id, "key": key, "control": "none", "prediction": "dog" if number < 6 else "cat"}
        )
    found = score_predictions(records, lines, **more)
    return published_sections(
        {"benchmark": benchmark, "split": split, "prompt": "r1_aqa"}, {"this run": results_of(found)},
        n_records=len(records), limited=False,
    )  # fmt: skip


def test_published_rows_stand_below_the_run_with_their_protocol():
    (section,) = asked_in("mmau", "test-mini", official="mmau")
    newest, first = section.tables
    assert newest.head[:2] == ["model", "sound, mini"]
    assert newest.rows[0][0] == "this run" and str(newest.rows[0][1]).startswith("75.0 [")
    assert str(newest.rows[0][2]) == "–" and str(newest.rows[0][4]) == "75.0"  # no music; the official rule
    assert newest.rows[1][0] == "Audio Flamingo 3" and len(newest.rows) == 12 and "Source:" in newest.note
    assert "8 of 1000 questions of the split test-mini, prompt r1_aqa" in section.notes[0]
    assert "do not compare" in section.notes[1]
    assert "do not compare" not in " ".join(asked_in("clothoaqa", "val")[0].notes)
    (table,) = asked_in("clothoaqa", "val")[0].tables
    assert str(table.rows[0][1]) == "–" and str(table.rows[0][2]).startswith("75.0")
    assert asked_in("manifest", "") == [] and asked_in("mmar", "else") == []


def test_breakdowns_hold_error_rates_of_words():
    lines, records = [], [record(i, "one two three four", kind="transcript") for i in range(4)]
    for number, one in enumerate(records):
        said = "one two three five" if number == 0 else "one two three four"
        line = {"id": one.id, "key": prediction_key(id=one.id), "control": "none", "prediction": said}
        lines.append({**line, "duration_s": 3.0 if number < 2 else 40.0})
    found = score_predictions(records, lines, metrics=("wer", "bleu_mt"))["arms"]["none"]
    by_length = found["groups"]["length"]
    assert found["scores"]["answer/wer"]["value"] == 1 / 16
    short, long = by_length["0 to 5 s"], by_length["over 30 s"]
    assert (short["answer/wer"]["value"], long["answer/wer"]["value"]) == (1 / 8, 0.0)
    assert long["answer/bleu_mt"]["value"] == pytest.approx(100.0) and short["answer/bleu_mt"]["value"] < 100
    assert short["qa/overall"]["value"] == 0.5
