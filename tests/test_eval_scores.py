"""Scores of answers by hand: what counts as right, what a resample without a class gives, which seed draws."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from alm.data.records import Record
from encoders.mel import KaldiFbank
from eval.errors import MetricUnavailable
from eval.metrics.record import ratio
from eval.models import _requests
from eval.scoring.answer_scores import AnswerScore, score_answers
from eval.scoring.baselines import logmel_features
from eval.scoring.contamination import source_ids
from eval.scoring.correctness import by_choice, is_correct
from eval.scoring.judges import open_judge
from eval.scoring.predictions import prediction_key, records_of
from eval.scoring.scores import check_scorable, score_predictions


def question(number, answer, choices=(), answers=(), clip=None):
    return Record(
        f"q{number}", (), ({"role": "user", "content": "?"},), "what", "?", answer, choices,
        clip=clip or f"c{number}", meta={"answers": list(answers)} if answers else {},
    )  # fmt: skip


def test_all_right_claims_no_certainty_in_any_share():
    """Twenty clips, all answered right: by Clopper and Pearson the share is above 0.025 ** (1 / 20)."""
    records = [question(number, "a dog") for number in range(20)]
    scores = score_answers(records, ["a dog"] * 20, {}, ["exact_match"])
    for key in ("qa/overall", "answer/exact_match"):
        found = scores[key].interval(0)
        assert found.value == found.high == 1.0 and found.low == pytest.approx(0.025 ** (1 / 20))


def test_the_gap_of_two_equal_rankings_is_nothing():
    """A gap may be below 0, so 0 is not an end of its range."""
    records = [question(number, "ab"[number % 2], ("a", "b")) for number in range(12)]
    rankings = [[1.0, 0.0] if number % 3 else [0.0, 1.0] for number in range(12)]
    first, second = (
        score_answers(records, ["a"] * 12, {}, (), rankings=rankings)["ranking/map"] for _ in "ab"
    )
    gap = first.gap(second, 0)
    assert (gap.value, gap.low, gap.high) == (0.0, 0.0, 0.0)


def test_a_class_that_a_resample_lacks_leaves_the_balanced_accuracy():
    records = [question(0, "bell"), question(1, "bell"), question(2, "dog")]
    score = score_answers(records, ["bell", "dog", "cat"], {}, ["balanced"])["qa/balanced"]
    drawn = np.array([[1, 1, 1], [2, 1, 0], [0, 0, 3]]) @ score.columns  # how often each question counts
    assert score.statistic(drawn).tolist() == pytest.approx([1 / 4, 2 / 3, 0.0])


def test_any_of_several_right_answers_is_right(bert_dir, monkeypatch):
    """By choice, by text, and by embedding."""
    several = question(0, "dog", ("dog", "cat", "rain"), ("dog", "cat"))
    assert by_choice(several, "B") and is_correct(several, "cat") and not by_choice(several, "C")
    monkeypatch.setenv("ALM_SBERT_MODEL", str(bert_dir / "sbert"))
    scores = score_answers([several, several], ["cat", "rain"], {}, ["label_embedding"])
    assert scores["qa/label_embedding"].columns[:, 0].tolist() == [1.0, 0.0]


def test_features_of_a_log_mel_are_its_mean_and_deviation():
    """The deviation is taken over all frames, so that of a single frame is 0."""
    wave = np.random.default_rng(0).standard_normal(4000).astype(np.float32) * 0.1
    (row,) = logmel_features([wave], 16000)
    mel = KaldiFbank(16000)(torch.from_numpy(wave)[None], torch.tensor([4000]))[0][0].double().numpy()
    np.testing.assert_allclose(row, np.concatenate([mel.mean(axis=0), mel.std(axis=0)]), rtol=1e-4, atol=1e-4)
    (one,) = logmel_features([wave[:400]], 16000)
    assert np.isfinite(one).all() and not one[128:].any()


def test_eleven_digits_are_a_youtube_id_in_brackets_alone():
    assert source_ids_of("12345678901_30.wav") == set()
    assert source_ids_of("[12345678901]-[30-40].wav") == {"youtube:12345678901"}


def source_ids_of(name):
    return {one for one in source_ids(Path(name)) if not one.startswith("name:")}


def lines_of(n=40, control="none"):
    return [
        {"id": f"q{i}", "key": prediction_key(id=i, control=control), "control": control, "clip": f"c{i}",
         "kind": "what", "references": ["a dog"], "prediction": "a dog" if i % 3 else "a cat"}
        for i in range(n)
    ]  # fmt: skip


def test_the_seed_draws_every_interval():
    lines = [*lines_of(), *[{**line, "prediction": "a cat"} for line in lines_of(control="no_audio")]]
    first, again, other = (
        score_predictions(records_of(lines), lines, seed=seed, groups=("kind",)) for seed in (0, 0, 7)
    )
    assert first == again
    for found in (
        lambda one: one["arms"]["none"]["scores"]["qa/overall"],
        lambda one: one["gaps"]["no_audio"]["qa/overall"],
    ):
        mine, theirs = found(first), found(other)
        assert mine["value"] == theirs["value"] and (mine["low"], mine["high"]) != (
            theirs["low"],
            theirs["high"],
        )


def test_a_predictions_file_says_clips_groups_and_captions():
    lines = [
        {"id": "a", "references": ["x", "y"], "clip": "one", "groups": {"corpus": "esc"}},
        {"id": "b", "references": ["x", "y"], "caption": True, "kind": "scene"},
    ]
    first, second = records_of(lines)
    assert (first.clip, first.meta) == ("one", {"corpus": "esc", "answers": ["x", "y"]})
    assert not first.captions and second.captions == ("x", "y") and second.clip == "b"


def test_chance_counts_different_choices():
    """MMAU lists some options twice."""
    records = [question(0, "a", ("a", "b", "b")), question(1, "a", ("a", "b", "c", "d"))]
    lines = [{"id": one.id, "key": one.id, "control": "none", "prediction": "a"} for one in records]
    notes = score_predictions(records, lines)["notes"]
    assert any("at random answers 37.5 % of" in note for note in notes)


def test_a_required_map_is_there_where_choices_will_be_ranked():
    records = [question(number, "ab"[number % 2], ("a", "b")) for number in range(4)]
    check_scorable(records, require=["map"], ranked=True)
    with pytest.raises(MetricUnavailable, match="--require map: it applies to none of these records"):
        check_scorable(records, require=["map"])


def test_missing_answers_to_choices_name_no_choice():
    records = [question(number, "a", ("a", "b")) for number in range(4)]
    said = ["A", "a or b", "C is not there"]
    lines = [
        {"id": f"q{i}", "key": str(i), "control": "none", "prediction": text} for i, text in enumerate(said)
    ]
    found = score_predictions(records, lines)["arms"]["none"]["choice_parse_failures"]
    assert found == {"n": 3, "of": 4, "rate": 0.75}


def test_a_judge_is_asked_for_its_likeliest_word(monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr(
        _requests.Connections, "post", lambda self, body: sent.append(json.loads(body)) or ("yes", {})
    )
    judge = open_judge("http://nowhere/v1#judge", tmp_path / "judged.jsonl")
    assert judge.verdicts([{"question": "?", "references": ["a"], "answer": "a"}]) == [True]
    assert (sent[0]["model"], sent[0]["temperature"], sent[0]["max_tokens"]) == ("judge", 0, 8)


def test_a_score_of_some_samples_is_theirs_alone():
    score = AnswerScore(
        np.array([[1.0, 2.0], [0.0, 2.0], [3.0, 0.0]]), lambda sums: ratio("", sums), ["a", "b", "c"]
    )
    assert score.of_samples(np.array([0, 1])).interval(0).value == 0.25
    assert score.of_samples(np.array([2])) is None  # no reference words: no rate
