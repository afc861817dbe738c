"""The metrics against the official COCO numbers, and against input that is not as it should be."""

import importlib.util
import json
import os
import random
import shutil
import sys
import time
from collections import Counter
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch

import eval.metrics
from eval.errors import MetricError, MetricUnavailable
from eval.metrics import METRICS, load_metric
from eval.metrics._base import TextMetric
from eval.metrics._encoder import error_probabilities, sentence_embeddings

METRICS_DIR = Path(eval.metrics.__file__).parent
# What needs Java or a model of its own, and is absent without.
WITH_JAVA = {"meteor", "spice", "spider", "spider_fl"}
WITH_MODELS = {"judge_score", "sbert_sim", "fense", "bertscore", "spider_fl"}
TEXT_METRICS = [
    name
    for name in METRICS.names()
    if name not in WITH_JAVA | WITH_MODELS and isinstance(load_metric(name), TextMetric)
]
CAPTION_METRICS = ("bleu", "rouge_l", "cider_d")
KEYS = {"bleu": ("bleu_1", "bleu_2", "bleu_3", "bleu_4"), "rouge_l": ("rouge_l",), "cider_d": ("cider_d",)}
KEYS["sound_events"] = ("segment_f1", "event_f1", "psds")
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
    if name not in ("wer", "cer", "wer_whisper"):  # there, none is best
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


@pytest.mark.parametrize("name", METRICS.names())
def test_an_option_that_a_metric_does_not_have_is_refused(name):
    """`normalize=False` would otherwise score normalised texts."""
    metric = load_metric(name)
    values = ["a", "b"] if isinstance(metric, TextMetric) else [[1.0], [0.0]]
    with pytest.raises(MetricError, match="does not take 'normalize'"):
        metric.compute(predictions=values, references=values, normalize=False)


def test_a_composed_metric_hands_each_part_its_options(monkeypatch):
    import eval.metrics.spice.spice as module

    given = []

    def compute(self, predictions, references, jar_dir=None, **options):
        given.append((jar_dir, options))
        return {"spice": 0.5, "per_sample": [0.5, 0.5], "backend": "spice[given]"}

    monkeypatch.setattr(module.Spice, "_compute", compute)
    said, wanted = ["A dog, barks!", "rain falls"], [["a dog barks"], ["a cat"]]
    result = load_metric("spider").compute(
        predictions=said, references=wanted, tokenizer="none", jar_dir="somewhere"
    )
    cider = load_metric("cider_d").compute(predictions=said, references=wanted, tokenizer="none")
    assert result["per_sample"] == pytest.approx([(one + 0.5) / 2 for one in cider["per_sample"]])
    assert given == [("somewhere", {})]
    with pytest.raises(MetricError, match="did you mean 'tokenizer'"):
        load_metric("spider").compute(predictions=said, references=wanted, tokeniser="none")


@pytest.mark.parametrize("name", METRICS.names())
def test_evaluate_loads_the_folder(name, tmp_path, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", True)
    metric = evaluate.load(str(METRICS_DIR / name), cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    if name not in TEXT_METRICS:
        return
    texts = {"predictions": ["bell: 1 - 2", "rain: 2 - 3"], "references": [["bell: 1 - 2"], ["rain: 2 - 3"]]}
    assert metric.compute(**texts) == load_metric(name).compute(**texts)


def test_evaluate_combines_metrics():
    combined = evaluate.combine([str(METRICS_DIR / name) for name in TEXT_METRICS])
    result = combined.compute(predictions=["a bell", "rain"], references=[["a bell"], ["rain"]])
    assert result["accuracy"] == result["exact_match"] == 1.0
    assert "cider_d_backend" in result


@pytest.mark.parametrize(
    ("said", "wanted", "rates"),
    [
        (["a Dog, barks"], [["a dog barks"]], (0, 0)),
        (["a cat barks"], [["a dog barks"]], (1 / 3, 3 / 11)),
        (["", "x y"], [[""], ["x"]], (1.0, 2.0)),
        (["rain falls", "one"], [["wind blows", "rain falls"], ["two"]], (1 / 3, 3 / 13)),
        # More edits, but a lower rate: 2 of 1 word or 3 of 4, 3 of 1 character or 5 of 7.
        (["a b"], [["c", "a x y z"]], (3 / 4, 5 / 7)),
    ],
)
def test_error_rates(said, wanted, rates):
    for name, rate in zip(("wer", "cer"), rates, strict=True):
        result = load_metric(name).compute(predictions=said, references=wanted)
        assert result[name] == pytest.approx(rate)
        assert result[name] == pytest.approx(
            sum(edits for edits, _ in result["counts"]) / sum(length for _, length in result["counts"])
        )


def test_bleu_by_hand():
    """Five of five, three of four, one of three and none of two n-grams; the shorter of two close references counts."""
    said = ["a b c x d"]
    bleu = load_metric("bleu")
    found = bleu.compute(predictions=said, references=[["a b c d", "c x e f g d"]], tokenizer="none")
    precisions = [5 / 5, 3 / 4, 1 / 3, 1e-15 / 2]
    wanted = [np.prod(precisions[:order]) ** (1 / order) for order in (1, 2, 3, 4)]
    assert [found[f"bleu_{order}"] for order in (1, 2, 3, 4)] == pytest.approx(wanted, abs=1e-6)
    short = bleu.compute(predictions=["a b c"], references=[["a b c d", "a b c d e"]], tokenizer="none")
    assert short["bleu_2"] == pytest.approx(np.exp(1 - 4 / 3))


def cider_d_by_definition(said, wanted):
    """Vedantam et al. 2015, equations 1 and 2, with CIDEr-D's clipping and length penalty, one pair at a time."""

    def ngrams(text, n):
        words = text.split()
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    scores = []
    for hypothesis, references in zip(said, wanted, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):
            seen = [set().union(*(ngrams(one, n) for one in refs)) for refs in wanted]

            def weighed(text, n=n, seen=seen):
                known = ngrams(text, n)
                idf = {g: np.log(len(wanted) / max(1, sum(g in one for one in seen))) for g in known}
                return {g: count * idf[g] for g, count in known.items()}

            own = weighed(hypothesis)
            for reference in references:
                other = weighed(reference)
                norm = np.sqrt(sum(v**2 for v in own.values())) * np.sqrt(sum(v**2 for v in other.values()))
                gap = len(hypothesis.split()) - len(reference.split())
                shared = sum(min(own[g], other[g]) * other[g] for g in own if g in other)
                total += (shared / norm if norm else 0.0) * np.exp(-(gap**2) / 72) / len(references) / 4
        scores.append(10 * total)
    return scores


def rouge_l_by_definition(hypothesis, references):
    """Lin 2004: F with beta 1.2 of the longest common subsequence, the best precision and the best recall."""

    def common(one, other):
        if not one or not other:
            return 0
        if one[-1] == other[-1]:
            return 1 + common(one[:-1], other[:-1])
        return max(common(one[:-1], other), common(one, other[:-1]))

    said, wanted = hypothesis.split(), [one.split() for one in references]
    precision = max(common(said, one) / len(said) for one in wanted)
    recall = max(common(said, one) / len(one) for one in wanted)
    both = recall + 1.2**2 * precision
    return (1 + 1.2**2) * precision * recall / both if both else 0.0


def test_cider_d_and_rouge_l_by_definition():
    rng = random.Random(0)
    words = "a dog barks the rain falls and wind blows".split()

    def caption():
        return " ".join(rng.choice(words) for _ in range(rng.randint(3, 8)))

    wanted = [[caption() for _ in range(rng.randint(1, 3))] for _ in range(12)]
    said = [rng.choice(refs) if i % 3 == 0 else caption() for i, refs in enumerate(wanted)]
    options = {"predictions": said, "references": wanted, "tokenizer": "none"}
    cider = load_metric("cider_d").compute(**options)
    by_hand = cider_d_by_definition(said, wanted)
    assert cider["per_sample"] == pytest.approx(by_hand) and cider["cider_d"] == pytest.approx(
        np.mean(by_hand)
    )
    rouge = load_metric("rouge_l").compute(**options)
    by_hand = [rouge_l_by_definition(one, refs) for one, refs in zip(said, wanted, strict=True)]
    assert rouge["per_sample"] == pytest.approx(by_hand) and rouge["rouge_l"] == pytest.approx(
        np.mean(by_hand)
    )


def test_error_rates_without_normalisation_count_case_and_punctuation():
    for name, rate in (("wer", 1.0), ("cer", 2 / 5)):
        found = load_metric(name).compute(predictions=["A dog."], references=[["a dog"]], normalise=False)
        assert (
            found[name] == pytest.approx(rate)
            and f"{name}[" in found["backend"]
            and "=none" in found["backend"]
        )
        assert load_metric(name).compute(predictions=["A dog."], references=[["a dog"]])[name] == 0


def test_repeated_words_are_shared_as_often_as_both_say_them():
    found = load_metric("token_f1").compute(
        predictions=["dog dog cat"], references=[["dog dog rain", "rain"]]
    )
    assert found["token_f1"] == pytest.approx(2 * 2 / 6)


def test_texts_longer_than_a_model_reads_are_cut(bert_dir, tmp_path):
    """Texts are cut where the tokenizer states a length; and BERTScore takes the layer that is asked for."""
    from transformers import AutoModel, AutoTokenizer

    source = str(tmp_path / "short")
    shutil.copytree(bert_dir / "sbert", source)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.model_max_length = 8
    tokenizer.save_pretrained(source)
    long, cut = sentence_embeddings(source, ["dog " * 600, "dog " * 6])
    torch.testing.assert_close(long, cut)
    model = AutoModel.from_pretrained(source).eval()

    @torch.no_grad()
    def words(text, layer):
        states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[
            layer
        ][0]
        return torch.nn.functional.normalize(states.double(), dim=-1)[1:-1]

    said, wanted = "a dog barks", "rain falls loudly"
    for layer in (0, 1, -1):
        alike = words(said, layer) @ words(wanted, layer).T
        precision, recall = alike.amax(1).mean(), alike.amax(0).mean()
        found = load_metric("bertscore").compute(
            predictions=[said, "", ""], references=[[wanted], [""], [wanted]], bert_model=source, layer=layer
        )
        f1 = float(2 * precision * recall / (precision + recall))
        assert found["per_sample"] == pytest.approx([f1, 1.0, 0.0], abs=1e-5)


def test_token_f1():
    result = load_metric("token_f1").compute(
        predictions=["the dog barks", "two", "cat", "a cat sleeps"],
        references=[["a dog"], ["2"], ["bird", "dog"], ["bird", "the cat", "cat sleeps here"]],
    )
    assert result["per_sample"] == pytest.approx([2 / 3, 1.0, 0.0, 4 / 5])


@pytest.mark.parametrize(
    ("name", "needed"),
    [
        ("meteor", "ALM_METEOR_DIR"),
        ("spice", "ALM_SPICE_DIR"),
        ("spider", "ALM_SPICE_DIR"),
        ("fense", "ALM_FLUENCY_MODEL"),
        ("spider_fl", "ALM_FLUENCY_MODEL"),
        ("sbert_sim", "ALM_SBERT_MODEL"),
        ("bertscore", "ALM_BERTSCORE_MODEL"),
    ],
)
def test_metrics_that_need_more_are_absent_without(name, needed, monkeypatch, tmp_path):
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    find = importlib.util.find_spec  # for one package only: transformers asks too, and remembers the answer
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *parent: None if name == "pycocoevalcap" else find(name, *parent),
    )
    for variable in ("METEOR_DIR", "SPICE_DIR", "FLUENCY_MODEL", "SBERT_MODEL", "BERTSCORE_MODEL"):
        monkeypatch.delenv(f"ALM_{variable}", raising=False)
    with pytest.raises(MetricUnavailable, match=needed):
        load_metric(name).compute(predictions=["a"], references=[["b"]])
    monkeypatch.setenv(needed, str(tmp_path))
    with pytest.raises(MetricUnavailable):  # an empty folder holds neither a jar nor a model
        load_metric(name).compute(predictions=["a"], references=[["b"]])


def test_what_runs_java_or_a_model_is_costly():
    costly = {name for name in METRICS.names() if METRICS.get(name).costly}
    assert costly == WITH_JAVA | WITH_MODELS


def test_java_is_asked_for_by_name(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MetricUnavailable, match="needs Java"):
        load_metric("meteor").compute(predictions=["a"], references=[["b"]])


@pytest.mark.slow
def test_meteor_equals_official_numbers(golden):
    metric = load_metric("meteor")
    said, wanted = golden["candidates"], golden["references"]
    try:
        result = metric.compute(
            predictions=[*said, "", "a ||| b\u2028c"], references=[*wanted, ["a"], ["a b c"]]
        )
        alone = metric.compute(predictions=said, references=wanted)
    except MetricUnavailable as error:
        pytest.skip(f"METEOR: {error}")
    assert alone["meteor"] == pytest.approx(golden["corpus_ptb"]["meteor"], abs=1e-6)
    assert alone["per_sample"] == pytest.approx(golden["per_sample_ptb"]["meteor"], abs=1e-6)
    assert result["per_sample"][: len(said)] == alone["per_sample"]
    # An empty caption scores 0; bars, which end a field for the program, keep captions and scores together.
    assert (
        result["per_sample"][-2] == 0.0 < result["per_sample"][-1] < 1.0
        and len(result["per_sample"]) == len(said) + 2
    )


def test_metrics_from_local_models(bert_dir, monkeypatch):
    sbert, fluency = str(bert_dir / "sbert"), str(bert_dir / "fluency")
    said = ["a dog barks", "rain falls loudly a cat", "cat"] * 30
    wanted = [["a dog barks"], ["rain falls", "a cat"], ["dog"]] * 30
    similarity = load_metric("sbert_sim").compute(predictions=said, references=wanted, sbert_model=sbert)
    assert similarity["per_sample"][0] == pytest.approx(1.0) and similarity["per_sample"][2] < 1
    assert similarity["backend"] == f"sbert_sim[{sbert}]"
    alone = load_metric("sbert_sim").compute(predictions=said[1:2], references=wanted[1:2], sbert_model=sbert)
    assert alone["per_sample"][0] == pytest.approx(similarity["per_sample"][1], abs=1e-6)
    errors = error_probabilities(fluency, said[:3]).numpy()
    monkeypatch.setattr("eval.metrics._captions.FLUENCY_THRESHOLD", float(np.median(errors)))
    fense = load_metric("fense").compute(
        predictions=said[:3], references=wanted[:3], sbert_model=sbert, error_model=fluency
    )
    penalty = np.where(errors > np.median(errors), 0.1, 1.0)
    assert 0 < (penalty < 1).sum() < 3
    assert fense["per_sample"] == pytest.approx(similarity["per_sample"][:3] * penalty)
    bert = load_metric("bertscore").compute(predictions=said[:3], references=wanted[:3], bert_model=sbert)
    assert bert["per_sample"][0] == pytest.approx(1.0) and bert["per_sample"][2] < 1
    with pytest.raises(MetricUnavailable, match="cannot load"):
        load_metric("bertscore").compute(
            predictions=["a"], references=[["a"]], bert_model=str(bert_dir / "none")
        )


def test_bertscore_similarity_and_fluency_by_hand(bert_dir):
    """One text at a time from the model's own outputs in float64; only words agree, the last label is the error."""
    from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

    sbert, fluency = bert_dir / "sbert", bert_dir / "fluency"
    tokenizer, model = AutoTokenizer.from_pretrained(sbert), AutoModel.from_pretrained(sbert).eval()
    detector = AutoModelForSequenceClassification.from_pretrained(fluency).eval()

    @torch.no_grad()
    def states(text):
        return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()

    def words(text):
        return (states(text) / np.linalg.norm(states(text), axis=1, keepdims=True))[1:-1]

    def cosine(one, other):
        first, second = states(one).mean(axis=0), states(other).mean(axis=0)
        return first @ second / np.linalg.norm(first) / np.linalg.norm(second)

    @torch.no_grad()
    def p_error(text):
        logits = detector(**tokenizer(text, return_tensors="pt")).logits[0].double()
        return float(1 / (1 + torch.exp(-logits[5])))

    def f1(said, wanted):
        alike = words(said) @ words(wanted).T
        precision, recall = alike.max(axis=1).mean(), alike.max(axis=0).mean()
        return 2 * precision * recall / (precision + recall)

    said, wanted = (
        ["cat", "a dog barks", "rain falls loudly a cat"],
        [["dog"], ["a cat"], ["rain", "a dog falls"]],
    )
    found = load_metric("bertscore").compute(predictions=said, references=wanted, bert_model=str(sbert))
    by_hand = [max(f1(one, target) for target in targets) for one, targets in zip(said, wanted, strict=True)]
    assert found["per_sample"] == pytest.approx(by_hand, abs=1e-5)
    found = load_metric("sbert_sim").compute(predictions=said, references=wanted, sbert_model=str(sbert))
    by_hand = [
        np.mean([cosine(one, target) for target in targets])
        for one, targets in zip(said, wanted, strict=True)
    ]
    assert found["per_sample"] == pytest.approx(by_hand, abs=1e-5)
    assert error_probabilities(str(fluency), said).tolist() == pytest.approx(
        [p_error(one) for one in said], abs=1e-5
    )


# Stands in for the Java program, which needs half a gigabyte of models: it checks how it is called and scores a caption
# by the share of its words in the references, last caption first.
SPICE_STAND_IN = """#!{python}
import json, os, pathlib, sys
assert sys.argv[1:4] == ["-Xmx8G", "-jar", "spice-1.0.jar"] and pathlib.Path("spice-1.0.jar").is_file()
assert sys.argv[5] == "-out" and sys.argv[7:] == ["-subset", "-silent"]
if os.environ.get("STAND_IN") == "fails":
    sys.exit("no scene graph today")
told = []
for row in json.load(open(sys.argv[4], encoding="utf-8")):
    words, known = row["test"].split(), {{word for ref in row["refs"] for word in ref.split()}}
    score = sum(word in known for word in words) / max(1, len(words))
    told.append({{"image_id": row["image_id"], "scores": {{"All": {{"f": score}}}}}})
told = told[:0:-1] if os.environ.get("STAND_IN") == "forgets" else told[::-1]
json.dump(told, open(sys.argv[6], "w", encoding="utf-8"))
"""


def put_on_path(tmp_path, monkeypatch, stand_in):
    """Let a Python program be what `java` starts."""
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    program.write_text(stand_in.format(python=sys.executable))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


def test_spice_wrapper_speaks_to_its_program(tmp_path, monkeypatch):
    """The protocol against a stand-in: what SPICE itself would say is not tested here."""
    put_on_path(tmp_path, monkeypatch, SPICE_STAND_IN)
    (tmp_path / "lib").mkdir()
    (tmp_path / "spice-1.0.jar").touch()
    spice = load_metric("spice")
    said = ["A dog barks.", "rain\u2028falls", "", "a caf\u00e9 \U0001f415"]
    wanted = [["a dog"], ["rain falls loudly"], ["a cat"], ["caf\u00e9"]]
    with pytest.raises(MetricUnavailable, match="models jar are missing"):
        spice.compute(predictions=said, references=wanted, jar_dir=str(tmp_path))
    (tmp_path / "lib" / "stanford-corenlp-3.6.0-models.jar").touch()
    result = spice.compute(predictions=said, references=wanted, jar_dir=str(tmp_path))
    assert result["per_sample"] == pytest.approx([2 / 3, 1.0, 0.0, 1 / 2])  # the tokenizer drops emoji
    assert result["spice"] == pytest.approx(np.mean(result["per_sample"]))
    monkeypatch.setenv("STAND_IN", "forgets")
    with pytest.raises(MetricError, match="SPICE scored 3 of 4"):
        spice.compute(predictions=said, references=wanted, jar_dir=str(tmp_path))
    monkeypatch.setenv("STAND_IN", "fails")
    with pytest.raises(MetricError, match="no scene graph today"):
        spice.compute(predictions=said, references=wanted, jar_dir=str(tmp_path))


# Stands in for METEOR's program: statistics are the words of the caption and how many a reference holds; the score of
# the corpus is that of the sums.
METEOR_STAND_IN = """#!{python}
import os, pathlib, sys
assert sys.argv[1:] == "-Xmx2G -XX:+UseSerialGC -jar meteor-1.5.jar - - -stdio -l en -norm".split()
assert pathlib.Path("meteor-1.5.jar").is_file()
for line in sys.stdin:
    if os.environ.get("STAND_IN") == "fails":
        sys.exit("no more memory")
    task, *fields = line.rstrip("\\n").split(" ||| ")
    if task == "SCORE":
        *references, caption = ([word for word in one.split(" ") if word] for one in fields)
        found = max(sum(word in one for word in caption) for one in references)
        print(found, len(caption), flush=True)
    else:
        assert task == "EVAL"
        told = [tuple(map(int, one.split())) for one in fields]
        for found, n in [*told, tuple(map(sum, zip(*told)))]:
            print(found / max(1, n), flush=True)
"""


def test_meteor_wrapper_speaks_to_its_program(tmp_path, monkeypatch):
    """The protocol against a stand-in; the scores of the program itself are compared where Java is installed."""
    put_on_path(tmp_path, monkeypatch, METEOR_STAND_IN)
    (tmp_path / "meteor-1.5.jar").touch()
    monkeypatch.setenv("ALM_METEOR_DIR", str(tmp_path))
    said = [
        "A dog barks.",
        "",
        "rain ||| falls",
    ]  # the tokenizer makes three words of the bars: they end no field
    wanted = [["a dog", "the dog barks"], ["a cat"], ["rain falls loudly"]]
    result = load_metric("meteor").compute(predictions=said, references=wanted)
    assert result["per_sample"] == pytest.approx([2 / 3, 0.0, 2 / 5])
    assert result["meteor"] == pytest.approx(4 / 8)
    monkeypatch.setenv("STAND_IN", "fails")
    with pytest.raises(MetricError, match="ended early: no more memory"):
        load_metric("meteor").compute(predictions=said, references=wanted)


def test_spider_and_its_penalty(monkeypatch, bert_dir):
    """SPICE's own program is too large to be here; what is made of its numbers is checked with given ones."""
    import eval.metrics.spice.spice as module

    monkeypatch.setattr(
        module.Spice, "_compute", lambda self, predictions, references, **options: {
            "spice": 0.5, "per_sample": [0.25, 0.75], "backend": "spice[given]",
        },
    )  # fmt: skip
    said, wanted = ["a dog barks", "rain falls"], [["a dog barks"], ["a cat"]]
    cider = load_metric("cider_d").compute(predictions=said, references=wanted)["per_sample"]
    result = load_metric("spider").compute(predictions=said, references=wanted)
    assert result["per_sample"] == pytest.approx([(cider[0] + 0.25) / 2, (cider[1] + 0.75) / 2])
    assert result["backend"] == "spider[cider_d[ptb=py]+spice[given]]"
    less = load_metric("spider_fl").compute(
        predictions=said, references=wanted, error_model=str(bert_dir / "fluency")
    )
    assert less["per_sample"] == pytest.approx(result["per_sample"])  # an untrained detector is never so sure


def test_cider_d_of_a_clotho_sized_set_is_no_hang():
    """`python -m benchmarks.metrics` says how long it takes: a second."""
    rng = random.Random(0)
    words = [f"w{'abcdefghij'[i % 10]}{'klmnopqrst'[i // 10 % 10]}{'uvwxyz'[i // 100]}" for i in range(600)]
    captions = [" ".join(rng.choices(words, k=11)) for _ in range(1045 * 6)]
    references = [captions[i : i + 5] for i in range(1045, len(captions), 5)]
    start = time.process_time()
    load_metric("cider_d").compute(predictions=captions[:1045], references=references)
    assert time.process_time() - start < 10  # comparing all pairs takes minutes
