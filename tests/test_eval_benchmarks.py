"""Benchmarks are discovered, and one runs from config to scores on a tiny random model."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from answerers import Rule
from tiny_model import save_tiny_model

from alm.checkpoint import model_id_of
from alm.common.errors import ConfigError
from alm.common.settings import load_settings
from alm.data.manifest import write_manifest
from alm.data.records import Record
from encoders.audio import save_wav
from eval.benchmarks import BENCHMARKS, load_benchmark
from eval.errors import EvaluationError
from eval.runner.benchmark import _data_hash, find_config, prepare, read_settings, run_benchmark
from eval.runner.settings import EvalSettings
from eval.scoring.predictions import PREDICTIONS, read_predictions


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_every_benchmark_is_a_whole_record_with_a_config(name):
    benchmark = load_benchmark(name)
    assert benchmark.name == name
    optional = ("groups", "official", "prompts", "takes_sources")
    fields = [field.name for field in dataclasses.fields(benchmark) if field.name not in optional]
    assert all(getattr(benchmark, name) for name in fields)
    assert load_settings(EvalSettings, find_config(name)).benchmark == name


def test_unknown_names_are_typed_errors():
    with pytest.raises(ConfigError, match="did you mean 'manifest'"):
        load_benchmark("manifset")
    with pytest.raises(EvaluationError, match="neither a YAML config nor a benchmark"):
        find_config("nonsense")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size is 0"),
        ("limit=-1", "limit is -1"),
        ("controls=[silence]", "'silence'"),
        ("controls=[no_audio]", "must hold 'none'"),
        ("bach_size=4", "batch_size"),
        ("data=", "data is empty"),
    ],
)
def test_bad_settings_are_one_line(override, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run_benchmark("manifest", tmp_path, None, [override])


def test_missing_data_is_found_before_the_model_is_loaded(tmp_path):
    with pytest.raises(EvaluationError, match=r"absent\.jsonl"):
        run_benchmark("manifest", "no/model", None, [f"data={tmp_path / 'absent.jsonl'}"])


def test_model_id_follows_the_files(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    first = model_id_of(tmp_path)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "scores.json").write_text("{}")
    assert model_id_of(tmp_path) == first
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert model_id_of(tmp_path) != first


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory, llm_dir):
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("benchmark") / "model"
    return save_tiny_model(llm_dir, folder)


def test_manifest_benchmark_end_to_end(model_dir, clips, tmp_path, capsys):
    lines = []
    for number, clip in enumerate(clips[:3]):
        # One clip is of another class of length, so that there is something to break down by.
        save_wav(tmp_path / f"{number}.wav", np.resize(clip, 6 * 16000) if number == 2 else clip, 16000)
        base = {"audio": f"{number}.wav"}
        lines += [
            {**base, "id": f"q{number}", "question": "what is this sound", "answer": "a bell"},
            {**base, "id": f"m{number}", "question": "which", "answer": "dog", "choices": ["bell", "dog"]},
            {**base, "id": f"c{number}", "captions": ["a dog barks", "a dog"]},
        ]
    write_manifest(tmp_path / "test.jsonl", lines)
    options = [f"data={tmp_path / 'test.jsonl'}", "batch_size=5", "max_new_tokens=4"]
    scores = run_benchmark("manifest", model_dir, None, options)
    out = model_dir / "eval" / "manifest"
    assert json.loads((out / "scores.json").read_text()) == scores
    assert set(scores["arms"]) == {"none", "no_audio", "other_clip"}
    assert set(scores["arms"]["none"]["scores"]) == {
        "caption/bleu_4", "caption/rouge_l", "caption/cider_d", "qa/overall", "qa/qa",
    }  # fmt: skip
    table = capsys.readouterr().out
    assert "qa/overall" in table and "other clip" in table and str(out) in table
    assert scores["run"]["prompt_version"] == "1" and scores["run"]["benchmark"] == "manifest"
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert page.count("<audio") == 3 and "By length" in page and "http:" not in page
    assert "| all questions | 6 |" in text and "ids_sha256" in text
    before = (out / "predictions.jsonl").read_bytes()
    assert len(before.splitlines()) == 3 * len(lines)
    # Nothing is left to answer, and other batch sizes give the same answers.
    assert run_benchmark("manifest", model_dir, None, options) == scores
    assert (out / "predictions.jsonl").read_bytes() == before
    again = run_benchmark(
        "manifest", model_dir, tmp_path / "again", [*options[:1], "batch_size=1", *options[2:]]
    )
    assert again == scores
    assert np.isfinite(scores["gaps"]["other_clip"]["qa/overall"]["value"])


def test_ranking_from_the_command_line(model_dir, clips, tmp_path, capsys):
    from alm.cli import main

    lines = []
    for number, clip in enumerate(clips[:3]):
        save_wav(tmp_path / f"1-1736{number}-A-x.wav", clip, 16000)
        lines.append(
            {"id": f"m{number}", "audio": f"1-1736{number}-A-x.wav", "question": "which", "answer": "dog",
             "choices": ["bell", "dog"]}
        )  # fmt: skip
    write_manifest(tmp_path / "test.jsonl", lines)
    write_manifest(tmp_path / "train.jsonl", [{**lines[0], "audio": "17361.wav"}])
    out = tmp_path / "out"
    command = [
        "eval",
        "manifest",
        "--model",
        str(model_dir),
        "--data",
        str(tmp_path / "test.jsonl"),
        "--out",
        str(out),
    ]
    options = ["--batch-size", "2", "--limit", "2", "answer_by=rank", "controls=[none]"]
    assert main([*command, *options, f"training=[{tmp_path / 'train.jsonl'}]"]) == 0
    scores = json.loads((out / "scores.json").read_text())
    assert scores["n_records"] == 2 and scores["limited"] and scores["run"]["answer_by"] == "rank"
    assert scores["contamination"]["shared"] == ["1-17361-A-x.wav"]
    assert scores["arms"]["none"]["choice_parse_failures"]["n"] == 0
    assert 0 <= scores["arms"]["none"]["scores"]["ranking/map"]["value"] <= 1
    predictions = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    for line in predictions:
        assert line["prediction"] == line["choices"][int(np.argmax(line["ranking"]))]
    assert main([*command, *options, "rank_by=likelihood"]) == 2
    assert "rank_by is 'likelihood'" in capsys.readouterr().err
    assert main([*command, "rank_by=sum"]) == 2
    assert "rank_by is 'sum', and nothing is ranked; set answer_by=rank" in capsys.readouterr().err
    assert main(["eval", "list"]) == 0
    assert all(name in capsys.readouterr().out for name in ("mmau",))
    assert main(["eval", "manifest"]) == 2


def test_two_models_two_benchmarks_one_page(model_dir, clips, tmp_path):
    """From model directories to the page that compares them, by the commands of the README."""
    import csv
    import shutil

    import torch

    from alm.checkpoint import load_model
    from alm.cli import main

    other = model_dir.parent / "other"  # beside the first, whose LLM it refers to by relative path
    shutil.copytree(model_dir, other, ignore=shutil.ignore_patterns("eval"))
    torch.manual_seed(1)
    changed = load_model(other)
    with torch.no_grad():
        for part in (changed.encoder, changed.projector):
            for value in part.parameters():
                value += torch.randn(value.shape)
    changed.save_pretrained(other)
    root = tmp_path / "esc"
    (root / "meta").mkdir(parents=True)
    (root / "audio").mkdir()
    with open(root / "meta" / "esc50.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["filename", "category"], *([f"{i}.wav", ("dog", "rain")[i % 2]] for i in range(4))]
        )
    lines = []
    for number, clip in enumerate([*clips[:2], *clips[:2]]):
        save_wav(root / "audio" / f"{number}.wav", clip, 16000)
        asked = {"id": str(number), "audio": f"audio/{number}.wav"}
        lines.append(
            {**asked, "captions": ["a dog barks"]}
            if number % 2
            else {**asked, "question": "what", "answer": "dog"}
        )
    write_manifest(root / "test.jsonl", lines)
    shared = ["max_new_tokens=4", "controls=[none]", "--batch-size", "3"]
    for name, model in (("first", model_dir), ("second", other)):
        at = tmp_path / name / "eval"
        for benchmark, data, more in (
            ("manifest", root / "test.jsonl", []),
            ("ltu_classification", root, ["split=esc50", "answer_by=rank"]),
        ):
            command = [
                "eval",
                benchmark,
                "--model",
                str(model),
                "--data",
                str(data),
                "--out",
                str(at / benchmark),
            ]
            assert main([*command, *shared, *more]) == 0
    page = tmp_path / "comparison"
    assert main(["compare", str(tmp_path / "first"), str(tmp_path / "second"), "--out", str(page)]) == 0
    found = json.loads((page / "comparison.json").read_text())
    assert [one["name"] for one in found["sets"]] == ["ltu_classification", "manifest"]
    for row in found["rows"]:
        own = [
            json.loads((tmp_path / name / "eval" / row["set"] / "scores.json").read_text())
            for name in ("first", "second")
        ]
        values = [one["arms"]["none"]["scores"][row["score"]]["value"] for one in own]
        assert [row["first"]["value"], row["second"]["value"]] == values
        assert row["difference"]["value"] == pytest.approx(values[0] - values[1])
    scores = {(row["set"], row["score"]) for row in found["rows"]}
    assert {
        ("manifest", "qa/overall"),
        ("manifest", "caption/cider_d"),
        ("ltu_classification", "ranking/map"),
    } <= scores
    html = (page / "comparison.html").read_text()
    assert "ltu_classification" in html and "manifest" in html and "http:" not in html


def test_a_missing_ranking_puts_its_choices_last():
    """Against scikit-learn, with the choices of the missing one below all others."""
    from sklearn.metrics import average_precision_score

    from eval.scoring.answer_scores import score_answers

    names = ("bell", "dog", "rain")
    turns = ({"role": "user", "content": "what"},)
    records = [
        Record(str(i), (), turns, "qa", "what", names[i % 3], choices=names, clip=str(i)) for i in range(6)
    ]
    values = np.random.default_rng(0).standard_normal((6, 3))
    for missing in range(6):
        rows = [None if i == missing else row.tolist() for i, row in enumerate(values)]
        found = score_answers(records, ["bell"] * 6, {}, rankings=rows)["ranking/map"].interval(0).value
        last = values.copy()
        last[missing] = -100.0
        wanted = [average_precision_score(np.arange(6) % 3 == k, last[:, k]) for k in range(3)]
        assert found == pytest.approx(np.mean(wanted))
        best = [[float(name == record.answer) for name in names] for record in records]
        whole = score_answers(records, ["bell"] * 6, {}, rankings=best)["ranking/map"]
        part = score_answers(records, ["bell"] * 6, {}, rankings=rows)["ranking/map"]
        assert whole.gap(part, 0).value == pytest.approx(1.0 - np.mean(wanted)) == -part.gap(whole, 0).value


def test_every_label_of_a_clip_counts_in_the_mean_average_precision():
    """Against scikit-learn; AudioSet and FSD50K have clips with several labels."""
    from sklearn.metrics import average_precision_score

    from eval.scoring.answer_scores import score_answers

    names = ("bell", "dog", "rain")
    labels = [("bell",), ("dog", "bell"), ("rain",), ("rain", "dog"), ("bell", "dog", "rain"), ("dog",)]
    records = [
        Record(str(i), (), ({"role": "user", "content": "what"},), "qa", "what", own[0], choices=names,
               clip=str(i), meta={"answers": list(own)})
        for i, own in enumerate(labels)
    ]  # fmt: skip
    values = np.random.default_rng(0).standard_normal((6, 3))
    found = (
        score_answers(records, ["bell"] * 6, {}, rankings=values.tolist())["ranking/map"].interval(0).value
    )
    wanted = [
        average_precision_score([name in own for own in labels], values[:, column])
        for column, name in enumerate(names)
    ]
    assert found == pytest.approx(np.mean(wanted))


OWN_RULE = """
from alm.data.manifest import read_manifest
from eval.benchmarks import Benchmark

BENCHMARK = Benchmark(
    reader=lambda path, split: read_manifest(path), prompt="{question}", prompt_version="1", metrics=("qa",),
    citation="This test.", max_new_tokens=5, is_right=lambda record, answer: record.id in ("0", "2"), groups=("part",),
)
"""


def test_the_rule_of_a_benchmark_and_the_seed_of_the_config_reach_the_run(
    model_dir, clips, tmp_path, monkeypatch
):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own_rule.py").write_text(OWN_RULE)
    (tmp_path / "c.yaml").write_text("benchmark: own_rule\n")
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    save_wav(tmp_path / "0.wav", clips[0], 16000)
    lines = [
        {"id": str(i), "audio": "0.wav", "question": "what", "answer": "bell", "part": "ab"[i % 2]}
        for i in range(3)
    ]
    write_manifest(tmp_path / "test.jsonl", lines)

    def run(name, seed):
        options = [f"data={tmp_path / 'test.jsonl'}", "controls=[none]", f"seed={seed}", "decoding.do_sample=true",
                   "decoding.temperature=5.0"]  # fmt: skip
        scores = run_benchmark(str(tmp_path / "c.yaml"), model_dir, tmp_path / name, options)
        return scores, {
            line["id"]: line["prediction"] for line in read_predictions(tmp_path / name / PREDICTIONS)
        }

    scores, first = run("a", 1)
    assert scores["arms"]["none"]["scores"]["qa/overall"]["value"] == pytest.approx(2 / 3)
    by_part = scores["arms"]["none"]["groups"]["part"]
    assert (by_part["a"]["qa/overall"]["value"], by_part["b"]["qa/overall"]["value"]) == (1.0, 0.0)
    assert run("b", 1)[1] == first != run("c", 2)[1]


def test_every_setting_of_an_evaluation_reaches_it(model_dir, clips, tmp_path, monkeypatch):
    """None of the values is a default, so that none can be missing."""

    class Reached(Exception):
        pass

    def evaluate(model, records, out_dir, **options):
        options |= options.pop("scoring")
        raise Reached(records, out_dir, {**options, "max_new_tokens": model.max_new_tokens}, model)

    monkeypatch.setattr("eval.runner.benchmark.evaluate_manifest", evaluate)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "own_rule.py").write_text(OWN_RULE.replace("groups=", "official='mmau', groups="))
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    (tmp_path / "c.yaml").write_text("benchmark: own_rule\n")
    save_wav(tmp_path / "0.wav", clips[0], 16000)
    line = {
        "id": "0",
        "audio": "0.wav",
        "question": "what",
        "answer": "a",
        "choices": ["a", "b"],
        "part": "x",
    }
    write_manifest(tmp_path / "test.jsonl", [line, {**line, "id": "1", "audio": "gone.wav"}])
    given = {"batch_size": 3, "max_new_tokens": 11, "limit": 5, "controls": ["none", "no_audio"], "seed": 4,
             "answer_by": "rank", "rank_by": "sum", "require": ["token_f1"]}  # fmt: skip
    options = [f"{key}={json.dumps(value)}" for key, value in given.items()]
    options += [
        f"data={tmp_path / 'test.jsonl'}",
        f"training=[{tmp_path / 'test.jsonl'}]",
        "decoding.num_beams=2",
        "missing_audio=leave_out",
    ]
    with pytest.raises(Reached) as stopped:
        run_benchmark(str(tmp_path / "c.yaml"), model_dir, tmp_path / "out", options)
    records, out_dir, found, model = stopped.value.args
    benchmark = load_benchmark("own_rule")
    assert [record.id for record in records] == ["0"] and out_dir == tmp_path / "out"
    assert {key: list(found[key]) if isinstance(found[key], tuple) else found[key] for key in given} == given
    assert model.differs["num_beams"] == 2 and model.decoding["num_beams"] == 2
    for key in ("prompt_version", "groups", "metrics", "official", "is_right"):
        assert found[key] == getattr(benchmark, key), key
    assert benchmark.official == "mmau" and model.model_id == model_id_of(model_dir)
    assert any("1 of 1 clips are in the training manifests" in note for note in found["notes"])
    assert any("1 of 2 records were dropped" in note for note in found["notes"])


def test_a_benchmark_with_another_right_answer_has_another_hash():
    def hashed(**changes):
        values = {
            "choices": ("a", "b"),
            "question": "which",
            "meta": {"answers": ["a"]},
            "answer": "a",
            **changes,
        }
        return _data_hash([Record("r", (), (), "qa", values.pop("question"), values.pop("answer"), **values)])

    others = [
        hashed(question="who"), hashed(answer="b"), hashed(choices=("b", "a")), hashed(meta={"answers": ["a", "b"]}),
        hashed(captions=("a", "c")),
    ]  # fmt: skip
    assert len({hashed(), *others}) == 6 and hashed(meta={"answers": ["a"], "more": 1}) == hashed()


def test_each_split_and_prompt_has_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    more = "prompts={'paper': '{question} Think.'}, splits=('test', 'dev'), groups="
    (tmp_path / "plugins" / "own_rule.py").write_text(OWN_RULE.replace("groups=", more))
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    lines = [{"id": "0", "audio": "0.wav", "question": "what", "answer": "a"}]
    write_manifest(tmp_path / "test.jsonl", lines)
    save_wav(tmp_path / "0.wav", np.full(4000, 0.1, np.float32), 16000)
    found = {}
    for options in ((), ("split=dev",), ("prompt=paper",), ("split=dev", "prompt=paper")):
        settings = read_settings("own_rule", [f"data={tmp_path / 'test.jsonl'}", "model=rule", *options])
        run = prepare(settings, None, Rule(lambda *_: ()))
        found[run.out_dir] = run.data.records[0].question
    home = Path("eval") / "rule"
    assert found == {
        home / "own_rule": "what",
        home / "own_rule-dev": "what",
        home / "own_rule-paper": "what Think.",
        home / "own_rule-dev-paper": "what Think.",
    }


def test_perfect_answers_give_exactly_one_with_absent_classes():
    from pathlib import Path

    from alm.data.corpora import Clip, Entry
    from eval.benchmarks._readers import entry_record
    from eval.scoring.answer_scores import score_answers

    labels = [f"label {word}" for word in "one two three four".split()]
    records = [
        entry_record(
            Entry(
                str(i),
                (Clip(f"{i}.wav", Path(f"{i}.wav")),),
                "s",
                question="what",
                answer=labels[i % 2],
                choices=tuple(labels),
            ),
            show_choices=False,
        )
        for i in range(7)
    ]
    rankings = [[float(label == record.answer) for label in labels] for record in records]
    scores = score_answers(records, [record.answer for record in records], {}, rankings=rankings)
    assert scores["ranking/map"].interval(0).value == 1.0 and scores["qa/overall"].interval(0).value == 1.0
