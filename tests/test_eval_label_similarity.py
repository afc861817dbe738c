"""LTU's closed-ended classification: answers matched with labels by a local sentence embedding model."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from alm.cli import main
from eval.benchmarks import load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import MetricUnavailable
from eval.runner.score_file import score_file
from eval.scoring.answer_scores import score_answers
from eval.scoring.label_similarity import label_similarities, nearest

LABELS = ["dog", "cat", "rain"]


@pytest.fixture
def esc50(tmp_path):
    """Six clips of three classes in ESC-50's layout, and answers to them: three right, two wrong, one missing."""
    rows = [{"filename": f"{i}.wav", "category": LABELS[i % 3]} for i in range(6)]
    (tmp_path / "meta").mkdir()
    with open(tmp_path / "meta" / "esc50.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ["filename", "category"])
        writer.writeheader()
        writer.writerows(rows)
    said = ["dog", "cat", "rain", "cat", "dog"]
    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "\n".join(json.dumps({"id": f"audio/{i}.wav", "prediction": s}) for i, s in enumerate(said))
    )
    return tmp_path, answers, said


def test_similarities_are_cosines_of_mean_pooled_states(bert_dir):
    from transformers import AutoModel, AutoTokenizer

    source = str(bert_dir / "sbert")
    found, backend = label_similarities(["a dog barks", None, " ", "rain"], LABELS, source)
    tokenizer, model = AutoTokenizer.from_pretrained(source), AutoModel.from_pretrained(source).eval()

    def embed(text):
        with torch.inference_mode():
            pooled = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        return (pooled / pooled.norm()).numpy()

    wanted = [[embed(text) @ embed(label) for label in LABELS] for text in ("a dog barks", "rain")]
    assert found[[0, 3]] == pytest.approx(np.array(wanted), abs=1e-5)
    assert (found[1:3] == -1).all()
    assert backend == f"label_embedding[{source}]"
    assert nearest(found)[1:] == [None, None, 2]


def test_equally_near_labels_are_no_answer():
    assert nearest(np.array([[0.5, 0.5, 0.1], [0.1, 0.5, 0.2]])) == [None, 1]


def test_benchmark_is_scored_by_embedding(bert_dir, esc50, monkeypatch):
    root, answers, said = esc50
    monkeypatch.setenv("ALM_SBERT_MODEL", str(bert_dir / "sbert"))
    scores = score_file(answers, benchmark="ltu_classification", data=str(root), split="esc50")
    arm = scores["arms"]["none"]
    assert arm["scores"]["qa/label_embedding"]["value"] == pytest.approx(3 / 6)
    assert arm["n_missing"] == 1
    assert scores["backends"]["qa/label_embedding"].startswith("label_embedding[")
    similarities = label_similarities([*said, None], LABELS)[0]
    precisions = []
    for column, label in enumerate(LABELS):
        wanted = np.array([LABELS[i % 3] == label for i in range(6)])
        # Average precision with ties sharing a threshold, as scikit-learn computes it.
        order = sorted(set(similarities[:, column]), reverse=True)
        taken = [similarities[:, column] >= level for level in order]
        recalls = [0.0, *(float((wanted & one).sum() / wanted.sum()) for one in taken)]
        at = [float((wanted & one).sum() / one.sum()) for one in taken]
        precisions.append(sum(p * (b - a) for p, a, b in zip(at, recalls[:-1], recalls[1:], strict=True)))
    assert arm["scores"]["ranking/label_embedding_map"]["value"] == pytest.approx(np.mean(precisions))


def test_without_a_model_it_is_absent_and_can_be_required(esc50, monkeypatch, capsys):
    root, answers, _ = esc50
    monkeypatch.delenv("ALM_SBERT_MODEL", raising=False)
    scores = score_file(answers, benchmark="ltu_classification", data=str(root), split="esc50")
    assert "ALM_SBERT_MODEL" in scores["absent"]["label_embedding"]
    assert "qa/label_embedding" not in scores["arms"]["none"]["scores"]
    given = [
        "score",
        str(answers),
        "--benchmark",
        "ltu_classification",
        "--data",
        str(root),
        "--split",
        "esc50",
    ]
    assert main([*given, "--require", "label_embedding"]) == 2
    assert "--require label_embedding: needs a sentence embedding model" in capsys.readouterr().err


def test_records_without_common_labels_are_not_matched_with_the_first_records(esc50, bert_dir, monkeypatch):
    root, _, said = esc50
    monkeypatch.setenv("ALM_SBERT_MODEL", str(bert_dir / "sbert"))
    records, *_ = read_records(load_benchmark("ltu_classification"), root, "esc50", check_audio=False)
    records[-1] = replace(records[-1], choices=tuple(reversed(LABELS)))
    absent = {}
    found = score_answers(records, [*said, None], {}, ["qa", "label_embedding"], absent=absent)
    assert "needs the same choices in every record" in absent["label_embedding"]
    assert "qa/overall" in found and "qa/label_embedding" not in found


def test_a_required_metric_that_scores_nothing_here_is_an_error(esc50):
    root, _, said = esc50
    records, *_ = read_records(load_benchmark("ltu_classification"), root, "esc50", check_audio=False)
    with pytest.raises(MetricUnavailable, match="--require meteor: it applies to none of these records"):
        score_answers(records, [*said, None], {}, require=["meteor"])
