"""What scoring needs is checked before the first answer, and no answer of a model is ever lost."""

import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from answerers import Rule
from transformers import GenerationConfig

from alm.cli import main
from alm.common.errors import ConfigError
from alm.common.settings import load_settings
from alm.data.manifest import read_manifest, write_manifest
from encoders.audio import save_wav
from eval.benchmarks import BENCHMARKS, load_benchmark
from eval.benchmarks._data import read_records
from eval.errors import EvaluationError, MetricError, MetricUnavailable
from eval.metrics import METRICS, find_metric
from eval.models._local import check_decoding, ignored_settings
from eval.models.own import OwnModel
from eval.runner.manifest import evaluate_manifest
from eval.runner.score_file import score_file
from eval.runner.settings import EvalSettings
from eval.scoring.predictions import PredictionsFile, read_predictions
from eval.scoring.scores import score_predictions

RATE = 16000


def manifest(folder, lines):
    for number in range(len(lines)):
        wave = 0.1 * np.random.default_rng(number).standard_normal(RATE // 4)
        save_wav(folder / f"{number}.wav", wave.astype(np.float32), RATE)
    rows = [{"id": str(number), "audio": f"{number}.wav", **line} for number, line in enumerate(lines)]
    write_manifest(folder / "t.jsonl", rows)
    return read_manifest(folder / "t.jsonl")


def evaluate(records, folder, said, differs=None, rank=None, **options):
    """Answers every question with the same text; returns the scores and how often it was asked."""
    asked = []

    def generate(conversations, audios, max_new_tokens=64, batch_size=16):
        asked.extend(conversations)
        yield from ((index, said) for index in range(len(conversations)))

    try:
        model = Rule(generate, differs=differs, rank=rank)
        scoring = {key: options.pop(key) for key in ("metrics", "official", "require") if key in options}
        scores = evaluate_manifest(model, records, folder, controls=["none"], scoring=scoring, **options)
    except Exception as error:
        return error, len(asked)
    return scores, len(asked)


def test_choices_that_differ_have_no_map_and_every_other_score():
    records = [
        SimpleNamespace(
            id=str(i),
            clip=str(i),
            captions=(),
            choices=choices,
            references=(choices[0],),
            meta={},
            kind="qa",
            source="s",
        )
        for i, choices in enumerate((("rain", "wind"), ("a bell", "a horn")))
    ]
    lines = [
        {"id": one.id, "control": "none", "prediction": one.choices[0], "ranking": [1.0, 0.0]}
        for one in records
    ]
    scores = score_predictions(records, lines)
    assert scores["arms"]["none"]["scores"]["qa/overall"]["value"] == 1.0
    assert "same choices" in scores["absent"]["ranking/map"]
    assert "ranking/map" not in scores["arms"]["none"]["scores"]


def test_an_empty_transcript_counts_its_insertions(tmp_path):
    first, second = manifest(tmp_path, [{"question": "?", "answer": "one two"}] * 2)
    records = [first, replace(second, answer="")]
    scores, _ = evaluate(records, tmp_path / "o", "one", metrics=("wer",))
    wer = scores["arms"]["none"]["scores"]["answer/wer"]
    assert wer["value"] == 1.0  # one deletion and one insertion for two words
    assert wer["low"] is not None and np.isfinite([wer["low"], wer["high"]]).all()
    json.dumps(scores, allow_nan=False)


@pytest.mark.parametrize(
    ("lines", "options", "error", "message"),
    [
        (
            [{"question": "?", "answer": "..."}],
            {"metrics": ("wer",)},
            MetricError,
            "all references are empty",
        ),
        ([{"question": "?", "answer": "x", "answers": "x"}], {}, EvaluationError, "expected a list of texts"),
        ([{"question": "?", "answer": "x", "answers": ["x", 1]}], {}, EvaluationError, "list of texts"),
        (
            [{"question": "?", "answer": "a", "choices": ["a", "b"], "answers": ["c"]}],
            {},
            EvaluationError,
            "not one of the choices",
        ),
        (
            [{"question": "?", "answer": "x"}],
            {"metrics": ("blue_4",)},
            MetricError,
            "unknown metric 'blue_4'",
        ),
        ([{"question": "?", "answer": "x"}], {"official": "mmua"}, ConfigError, "did you mean 'mmau'"),
        ([{"question": "?", "answer": "x"}], {"require": ("meteor",)}, MetricUnavailable, "meteor"),
    ],
)
def test_what_cannot_be_scored_is_found_before_the_first_answer(tmp_path, lines, options, error, message):
    found, asked = evaluate(manifest(tmp_path, lines), tmp_path / "o", "x", **options)
    assert isinstance(found, error) and message in str(found)
    assert asked == 0


def test_cider_of_short_references_and_of_one_clip():
    def scores(*captions):
        records = [
            SimpleNamespace(
                id=str(i),
                clip=str(i),
                captions=(one,),
                choices=(),
                references=(one,),
                meta={},
                kind="caption",
                source="s",
            )
            for i, one in enumerate(captions)
        ]
        lines = [
            {"id": one.id, "control": "none", "prediction": f"{one.captions[0]} loudly"} for one in records
        ]
        return score_predictions(records, lines, metrics=("cider_d",))

    two = scores("a dog barks", "rain falls")
    assert two["arms"]["none"]["scores"]["caption/cider_d"]["value"] > 1 and not two["notes"]
    one = scores("a dog barks in the yard")
    assert one["arms"]["none"]["scores"]["caption/cider_d"]["value"] == 0.0
    assert "single clip is 0" in one["notes"][0]


def test_decoding_is_in_the_key_and_checked(tmp_path):
    records = manifest(tmp_path, [{"question": "?", "answer": "x"}])
    decoding = {"do_sample": False, "repetition_penalty": 1.0}
    assert evaluate(records, tmp_path / "o", "x", decoding)[1] == 1
    assert evaluate(records, tmp_path / "o", "x", decoding)[1] == 0
    assert evaluate(records, tmp_path / "o", "x", {**decoding, "repetition_penalty": 1.1})[1] == 1
    check_decoding({"do_sample": True, "repetition_penalty": 1.1})
    with pytest.raises(ConfigError, match="did you mean 'repetition_penalty'"):
        check_decoding({"repetiton_penalty": 1.1})
    with pytest.raises(ConfigError, match=r"decoding\.num_return_sequences"):
        load_settings(EvalSettings, None, ["decoding.num_return_sequences=2"])


def test_settings_of_the_llm_that_are_not_applied_are_named():
    from transformers import GenerationConfig

    model = SimpleNamespace(generation_config=GenerationConfig(repetition_penalty=1.1, eos_token_id=2))
    (note,) = ignored_settings(model, {"do_sample": False})
    assert "repetition_penalty=1.1" in note and "eos" not in note
    assert not ignored_settings(model, {"repetition_penalty": 1.2})
    model.generation_config.output_attentions = model.generation_config.output_scores = False  # as SmolLM2's
    assert not ignored_settings(model, {"repetition_penalty": 1.2})
    model.generation_config.trust_remote_code = False  # what from_pretrained leaves there; nothing to apply
    assert not ignored_settings(model, {"repetition_penalty": 1.2})


def test_recordings_that_cannot_be_read_are_counted_or_dropped(tmp_path):
    manifest(tmp_path, [{"question": "?", "answer": "x"}] * 3)
    (tmp_path / "2.wav").write_bytes(b"")
    benchmark = load_benchmark("manifest")
    with pytest.raises(EvaluationError, match=r"t\.jsonl:3.*1 of 3 records lack their recording"):
        read_records(benchmark, tmp_path / "t.jsonl")
    records, notes, _ = read_records(benchmark, tmp_path / "t.jsonl", missing_audio="leave_out")
    assert [record.id for record in records] == ["0", "1"] and "1 of 3 records" in notes[0]
    (tmp_path / "0.wav").unlink()
    assert len(read_records(benchmark, tmp_path / "t.jsonl", check_audio=False)[0]) == 3


@pytest.mark.parametrize(
    ("times", "said"),
    [
        ({"start_s": 99}, "start_s is 99.0 but the clip ends at"),
        ({"start_s": 99, "end_s": 100}, "start_s is 99.0 but the clip ends at"),
        ({"start_s": 0.1, "end_s": 0.1000001}, "holds no samples; choose a longer one"),
    ],
)
def test_segments_without_samples_are_found_before_the_first_answer(tmp_path, times, said):
    manifest(tmp_path, [{"question": "?", "answer": "x"}] * 2)
    path = tmp_path / "t.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["audio"] = {"path": rows[1]["audio"], **times}
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(EvaluationError, match=rf"t\.jsonl:2: .*{said}.*1 of 2 records lack their recording"):
        read_records(load_benchmark("manifest"), path)


def test_an_unknown_answer_field_is_an_error_that_names_the_fields(tmp_path, capsys):
    manifest(tmp_path, [{"question": "?", "answer": "rain"}])
    path = tmp_path / "p.jsonl"
    for text, message in (
        ('{"id": "0", "filtered_resps": ["rain"]}\n', "the first object has id, filtered_resps"),
        ('{"id": "0", "prediction": ["rain"]}\n', "'prediction' is a list"),
    ):
        path.write_text(text)
        assert main(["score", str(path), "--benchmark", "manifest", "--data", str(tmp_path / "t.jsonl")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"references": [["x"]]}, "'references' is [['x']], expected a list of texts"),
        ({"references": ["x"], "choices": [1]}, "'choices' is [1]"),
        ({"references": ["x"], "choices": ["y"]}, "not one of the choices"),
        ({"references": ["x"], "groups": []}, "'groups' as an object"),
    ],
)
def test_lines_that_cannot_be_scored_name_their_id(tmp_path, fields, message):
    path = tmp_path / "p.jsonl"
    path.write_text(
        json.dumps({"id": "7", "key": "k", "control": "none", "prediction": "x", **fields}) + "\n"
    )
    with pytest.raises(EvaluationError) as caught:
        score_file(path)
    assert message in str(caught.value) and "7" in str(caught.value)


def test_choices_of_null_are_no_choices(tmp_path):
    path = tmp_path / "p.jsonl"
    line = {"id": "7", "key": "k", "control": "none", "prediction": "x", "references": ["x"], "choices": None}
    path.write_text(json.dumps(line) + "\n")
    assert score_file(path)["arms"]["none"]["scores"]["qa/overall"]["value"] == 1.0


def test_a_full_disk_is_one_line_and_the_next_run_continues(tmp_path):
    class Full:
        """A file whose disk is full after 40 bytes."""

        def __init__(self, file):
            self.file = file

        def write(self, data):
            self.file.write(data[:40])
            self.file.flush()
            raise OSError(28, "No space left on device")

        def close(self):
            self.file.close()

    path = tmp_path / "p.jsonl"
    lines = [{"id": str(i), "key": str(i), "control": "none", "prediction": "x"} for i in range(2)]
    with PredictionsFile(path) as file:
        file.append(lines[:1])
        file._file = Full(file._file)
        with pytest.raises(
            EvaluationError, match=r"cannot write answers \(No space left on device\).*run again"
        ):
            file.append(lines[1:])
    with PredictionsFile(path) as file:
        assert file.lines == lines[:1]
        file.append(lines[1:])
    assert read_predictions(path) == lines


PLUGIN_METRIC = """
import datasets
import evaluate
from eval.metrics.record import ANSWERS, MetricRecord


class WordCount(evaluate.Metric):
    def _info(self):
        features = {"predictions": datasets.Value("string"), "references": datasets.Sequence(datasets.Value("string"))}
        return evaluate.MetricInfo(
            description="x", citation="x", inputs_description="x", features=datasets.Features(features)
        )

    def _compute(self, predictions, references):
        counts = [len(one.split()) for one in predictions]
        return {"n_words": sum(counts) / len(counts), "per_sample": counts, "backend": "n_words"}


METRIC = MetricRecord(applies_to=(ANSWERS,), lower_is_better=True, build=lambda: WordCount(keep_in_memory=True))
"""
PLUGIN_BENCHMARK = """
from alm.data.manifest import read_manifest
from eval.benchmarks import Benchmark

BENCHMARK = Benchmark(
    reader=lambda path, split: read_manifest(path), prompt="Listen. {question} Be brief.", prompt_version="1",
    metrics=("qa", "n_words", "token_f1", "exact_match"), citation="This test.", max_new_tokens=7,
    is_right=lambda record, answer: answer.startswith(record.answer), official="first_word",
)
"""
PLUGIN_RULE = "OFFICIAL_RULE = lambda said, answer, choices: said.split()[0] == answer\n"


def test_a_file_in_a_plug_in_folder_adds_a_benchmark_a_metric_and_a_rule(tmp_path, monkeypatch):
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    for name, text in (("n_words", PLUGIN_METRIC), ("my_set", PLUGIN_BENCHMARK), ("first_word", PLUGIN_RULE)):
        (plugins / f"{name}.py").write_text(text)
    assert "my_set" not in BENCHMARKS.names() and "n_words" not in METRICS.names()
    monkeypatch.setenv("ALM_PLUGINS", str(plugins))
    assert "my_set" in BENCHMARKS.names() and "n_words" in METRICS.names()
    lines = [{"question": "What?", "answer": "rain", "choices": ["rain", "wind"]}] * 2
    manifest(tmp_path, lines)
    benchmark = load_benchmark("my_set")
    assert benchmark.name == "my_set" and benchmark.max_new_tokens == 7
    records, *_ = read_records(benchmark, tmp_path / "t.jsonl")
    assert records[0].prompt_messages[-1]["content"].endswith("Listen. What?\nA. rain\nB. wind Be brief.")
    (tmp_path / "p.jsonl").write_text(
        '{"id": "0", "answer": 1, "prediction": "rain it is"}\n{"id": "1", "prediction": "A"}\n'
    )
    scores = score_file(tmp_path / "p.jsonl", benchmark="my_set", data=str(tmp_path / "t.jsonl"))
    found = {key: one["value"] for key, one in scores["arms"]["none"]["scores"].items()}
    # "A" is right for the parser of multiple choice, but not for this benchmark.
    assert found["qa/overall"] == 0.5
    assert found["answer/n_words"] == 2.0
    assert found["answer/token_f1"] == pytest.approx((2 / 4 + 0) / 2)
    assert found["answer/exact_match"] == 0.0
    assert scores["arms"]["none"]["official"]["value"] == 0.5


def test_parts_of_metrics_are_found_by_name():
    assert find_metric("bleu_2")[0] == "bleu" and find_metric("bleu_2")[2] == ("bleu_2",)
    assert find_metric("bleu")[2] == ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
    assert find_metric("wer")[1].lower_is_better and not find_metric("token_f1")[1].lower_is_better
    with pytest.raises(MetricError, match="unknown metric 'bleu_9'"):
        find_metric("bleu_9")


def test_damaged_predictions_are_scored_or_refused():
    import fuzz_predictions
    from fuzzing import fuzz

    assert not fuzz("predictions", fuzz_predictions.case, n=60, seed=0).findings


def test_only_records_that_may_be_dropped_are_decoded_before(tmp_path, monkeypatch):
    from alm.common.errors import AudioError
    from alm.data.records import AudioRef

    def load(ref, rate):
        if ref.file_name == "1.wav":
            raise AudioError(f"{ref.path}: cut off")
        return np.zeros(rate, np.float32)

    manifest(tmp_path, [{"question": "?", "answer": "x"}] * 2)
    monkeypatch.setattr(AudioRef, "load", load)
    benchmark = load_benchmark("manifest")
    assert len(read_records(benchmark, tmp_path / "t.jsonl")[0]) == 2
    records, *_ = read_records(benchmark, tmp_path / "t.jsonl", missing_audio="leave_out")
    assert [record.id for record in records] == ["0"]


@pytest.mark.parametrize("missing_audio", ["error", "leave_out"])
def test_each_clip_is_checked_once_however_many_records_it_has(tmp_path, monkeypatch, missing_audio):
    from alm.data.records import AudioRef

    manifest(tmp_path, [{"question": "?", "answer": "x"}] * 2)
    rows = [{"id": str(i), "audio": f"{i % 2}.wav", "question": "?", "answer": "x"} for i in range(8)]
    write_manifest(tmp_path / "t.jsonl", rows)
    read = []
    for name in ("load", "check"):
        real = getattr(AudioRef, name)
        monkeypatch.setattr(
            AudioRef, name, lambda ref, *given, real=real: read.append(ref.file_name) or real(ref, *given)
        )
    records, *_ = read_records(load_benchmark("manifest"), tmp_path / "t.jsonl", missing_audio=missing_audio)
    assert len(records) == 8 and read == ["0.wav", "1.wav"]


def earlier_key(record, **more):
    """The key that the first version gave an answer."""
    identity = {
        "model": "m",
        "prompt": [dict(turn) for turn in record.prompt_messages],
        "decoding": {"max_new_tokens": 64, "do_sample": False, "prompt_version": "1", **more},
        "sample": record.id,
        "control": "none",
        "audio": [[ref.path.name, ref.state(), ref.start_s, ref.end_s] for ref in record.audio],
    }
    text = json.dumps(identity, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:32]


def keys_with(records, folder, own, options=None, **more):
    """The keys of generated answers of an LLM with a generation config."""
    model = SimpleNamespace(generation_config=GenerationConfig(eos_token_id=2, **own))
    processor = SimpleNamespace(
        stop_token_ids=[2, 5], tokenizer=SimpleNamespace(pad_token_id=0), sample_rate=RATE
    )
    differs = OwnModel(model, processor, "m", 64, options).differs
    said, _ = evaluate(records, folder, "x", differs, **more)
    assert isinstance(said, dict), said
    lines = read_predictions(folder / "predictions.jsonl")
    return [line["key"] for line in sorted(lines, key=lambda line: line["id"])]


def test_answers_of_earlier_runs_are_reused_where_decoding_was_neutral(tmp_path):
    records = manifest(tmp_path, [{"question": "?", "answer": "x"}])
    key = earlier_key(records[0])
    neutral = [
        ({}, {}),
        ({"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}, {}),
        ({"repetition_penalty": 1.0}, {}),
        ({}, {"repetition_penalty": 1.0, "num_beams": 1, "no_repeat_ngram_size": 0}),
    ]
    for number, (own, options) in enumerate(neutral):
        assert keys_with(records, tmp_path / f"n{number}", own, options) == [key]
    line = {"id": "0", "key": key, "control": "none", "prediction": "x"}
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "predictions.jsonl").write_text(json.dumps(line) + "\n")
    assert evaluate(records, tmp_path / "old", "y")[1] == 0
    others = [
        ({"repetition_penalty": 1.1}, {}),  # which greedy decoding once applied
        ({"repetition_penalty": 1.1}, {"repetition_penalty": 1.0}),
        ({"suppress_tokens": [7]}, {}),
        ({}, {"repetition_penalty": 1.1}),
        ({}, {"num_beams": 2}),
        ({}, {"suppress_tokens": [7]}),
        ({}, {"eos_token_id": 9}),
        ({}, {"do_sample": True}),
    ]
    for number, (own, options) in enumerate(others):
        assert keys_with(records, tmp_path / f"o{number}", own, options) != [key], (own, options)
    two_beams = {"num_beams": 2}
    assert keys_with(records, tmp_path / "two", {}, two_beams) != keys_with(
        records, tmp_path / "short", {}, {**two_beams, "length_penalty": 0.5}
    )


def test_decoding_settings_are_not_in_the_keys_of_ranked_answers(tmp_path):
    lines = [
        {"question": "?", "answer": "x", "choices": ["x", "y"]},
        {"question": "?", "answer": "x"},  # generated, in this mode too
    ]
    records = manifest(tmp_path, lines)

    def rank(given):
        return ((i, one[0], [1.0, 0.0]) for i, one in enumerate(given))

    earlier = [earlier_key(record, answer_by="rank", rank_by="length") for record in records]
    assert keys_with(records, tmp_path / "a", {}, rank=rank, answer_by="rank") == earlier
    ranked, generated = keys_with(
        records, tmp_path / "b", {"repetition_penalty": 1.1}, rank=rank, answer_by="rank"
    )
    assert ranked == earlier[0] and generated != earlier[1]
