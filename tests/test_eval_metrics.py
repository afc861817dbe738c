"""The metrics against the official COCO numbers, and against input that is not as it should be."""

import json
import random
import time
from pathlib import Path

import evaluate
import pytest

import eval.metrics
from eval.errors import MetricError
from eval.metrics import list_metrics, load_metric
from eval.metrics._base import TextMetric

METRICS_DIR = Path(eval.metrics.__file__).parent
TEXT_METRICS = [name for name in list_metrics() if isinstance(load_metric(name), TextMetric)]
CAPTION_METRICS = ("bleu", "rouge_l", "cider_d")
KEYS = {"bleu": ("bleu_1", "bleu_2", "bleu_3", "bleu_4"), "rouge_l": ("rouge_l",), "cider_d": ("cider_d",)}
ODD = ["", "...", "a\u2028b c", "[laughs] (x) {y}", "a dog \U0001f600 barks", "naïve café", "la " * 500]
ODD += ["\x0b\x85 \r\n"]


@pytest.fixture(scope="module")
def golden(shared_dir):
    return json.loads((shared_dir / "golden" / "captions_audiocaps200.json").read_text())["audiocaps200"]


@pytest.mark.parametrize("name", CAPTION_METRICS)
@pytest.mark.parametrize("tokenizer", ["ptb", "none"])
def test_equals_official_code(golden, name, tokenizer):
    result = load_metric(name).compute(
        predictions=golden["candidates"], references=golden["references"], tokenizer=tokenizer
    )
    suffix = "ptb" if tokenizer == "ptb" else "no_tokenizer"
    for key in KEYS[name]:
        assert result[key] == pytest.approx(golden[f"corpus_{suffix}"][key], abs=1e-9)
        if tokenizer == "ptb":
            samples = result["per_sample_by_key"][key] if name == "bleu" else result["per_sample"]
            assert samples == pytest.approx(golden["per_sample_ptb"][key], abs=1e-9)
    assert result["backend"] == f"{name}[ptb={'py' if tokenizer == 'ptb' else 'none'}]"


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_every_metric_keeps_samples_apart_for_odd_captions(name):
    plain = [f"a dog barks {index} times" for index in range(len(ODD))]
    references = [[text, "a cat meows"] for text in plain]
    clean = load_metric(name).compute(predictions=plain, references=references)
    mixed_predictions = [text for pair in zip(ODD, plain, strict=True) for text in pair]
    mixed_references = [[odd, "rain falls"] for odd in ODD]
    mixed = load_metric(name).compute(
        predictions=mixed_predictions,
        references=[item for pair in zip(mixed_references, references, strict=True) for item in pair],
    )
    assert len(mixed["per_sample"]) == 2 * len(ODD)
    if name != "cider_d":  # its document frequencies belong to the whole set
        assert mixed["per_sample"][1::2] == clean["per_sample"]
    assert all(score > 0 for score in mixed["per_sample"][1::2])
    assert all(score == score and score >= 0 for score in mixed["per_sample"])


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_result_has_score_samples_and_backend(name):
    result = load_metric(name).compute(predictions=["a bell", "rain"], references=[["a bell"], "rain"])
    assert all(key in result for key in KEYS.get(name, (name,)))
    assert len(result["per_sample"]) == 2
    assert result["backend"].startswith(f"{name}[")


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], [["a"], ["b"]], "1 predictions and 2 references"),
        (["a", "b"], [["a"], []], "sample 1 has no reference"),
        ([], [], "no predictions"),
        (["a", None], [["a"], ["b"]], "prediction 1 is NoneType"),
        (["a"], [["a", 3]], "a reference of sample 0 is int"),
        (["\ud800"], [["a"]], "not valid Unicode"),
        ("a", ["a"], "one string"),
        (["a"], None, "only one of"),
    ],
)
@pytest.mark.parametrize("name", TEXT_METRICS)
def test_bad_input_is_a_typed_error(name, predictions, references, message):
    with pytest.raises(MetricError, match=message):
        load_metric(name).compute(predictions=predictions, references=references)


def test_unknown_names_are_typed_errors():
    with pytest.raises(MetricError, match="did you mean 'cider_d'"):
        load_metric("cider")
    with pytest.raises(MetricError, match="unknown tokenizer 'moses'"):
        load_metric("bleu").compute(predictions=["a"], references=[["a"]], tokenizer="moses")


@pytest.mark.parametrize("name", TEXT_METRICS)
def test_evaluate_loads_the_file(name, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    metric = evaluate.load(str(METRICS_DIR / f"{name}.py"), cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    result = metric.compute(predictions=["a bell", "rain"], references=[["a bell"], ["rain"]])
    assert result == load_metric(name).compute(
        predictions=["a bell", "rain"], references=[["a bell"], ["rain"]]
    )


def test_evaluate_combines_metrics():
    combined = evaluate.combine([load_metric(name) for name in TEXT_METRICS])
    result = combined.compute(predictions=["a bell", "rain"], references=[["a bell"], ["rain"]])
    assert result["accuracy"] == result["exact_match"] == 1.0
    assert "cider_d_backend" in result


def test_cider_d_of_a_clotho_sized_set_takes_a_second_at_most():
    rng = random.Random(0)
    words = [f"w{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxyz'[i // 100]}" for i in range(600)]
    captions = [" ".join(rng.choices(words, k=11)) for _ in range(1045 * 6)]
    references = [captions[i : i + 5] for i in range(1045, len(captions), 5)]
    start = time.perf_counter()
    load_metric("cider_d").compute(predictions=captions[:1045], references=references)
    assert time.perf_counter() - start < 1.0 * 2  # twice the bound: the test machine is shared
