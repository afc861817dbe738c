"""Models of any kind under the same evaluation: directories of transformers, and Python files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from foreign_models import FAMILIES, build

from alm.common.errors import CheckpointError, ConfigError
from alm.data.manifest import write_manifest
from encoders.audio import save_wav
from eval.errors import EvaluationError
from eval.models import Opening, Prompt, open_model
from eval.models.audio_text import _batches
from eval.models.families import FAMILIES as REGISTRY
from eval.models.families import family_of
from eval.runner.benchmark import run_benchmark
from eval.scoring.predictions import read_predictions


@pytest.fixture(scope="module")
def manifest(tmp_path_factory, clips):
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for number, clip in enumerate(clips):
        save_wav(folder / f"{number}.wav", clip, 16000)
        base = {"audio": f"{number}.wav"}
        lines += [
            {**base, "id": f"q{number}", "question": "what is this " + "sound " * number, "answer": "a bell"},
            {**base, "id": f"m{number}", "question": "which", "answer": "dog", "choices": ["a bell", "dog"]},
        ]
    lines.append({"id": "silent", "audio": [], "question": "is a bell made of metal", "answer": "yes"})
    write_manifest(folder / "test.jsonl", lines)
    return folder / "test.jsonl"


@pytest.fixture(scope="module", params=FAMILIES)
def foreign(request, tmp_path_factory):
    return build(request.param, tmp_path_factory.mktemp("foreign") / request.param)


def prompts_of(clips):
    texts = ("what is this", "which", "say what you hear in this recording", "and now")
    return [
        Prompt([{"role": "user", "content": f"<|audio|>{text}"}], lambda clip=clip: [clip], ("a bell", "dog"))
        for clip, text in zip(clips, texts, strict=True)
    ]


def test_a_transformers_directory_is_evaluated_with_controls_and_intervals(foreign, manifest, tmp_path):
    options = [f"data={manifest}", "max_new_tokens=5"]
    scores = run_benchmark("manifest", foreign, tmp_path / "a", [*options, "batch_size=3"])
    assert set(scores["arms"]) == {"none", "no_audio", "other_clip"}
    for arm in scores["arms"].values():
        found = arm["scores"]["qa/overall"]
        assert found["low"] <= found["value"] <= found["high"] and arm["n_missing"] == 0
    assert set(scores["gaps"]) == {"no_audio", "other_clip"}
    assert scores["run"]["decoding"]["do_sample"] is False and scores["run"]["model_id"]
    lines = read_predictions(tmp_path / "a" / "predictions.jsonl")
    said = {(line["id"], line["control"]): line["prediction"] for line in lines}
    assert len(said) == 27
    asked = [f"{kind}{number}" for kind in "qm" for number in range(4)]
    for control in ("no_audio", "other_clip"):  # the recording reaches the model, and is taken from it
        assert sum(said[i, "none"] != said[i, control] for i in asked) >= 6, control
    assert {said["silent", control] for control in scores["arms"]} == {said["silent", "none"]}
    again = run_benchmark("manifest", foreign, tmp_path / "b", [*options, "batch_size=1"])
    assert again == scores
    # The same command has nothing left to ask.
    before = (tmp_path / "a" / "predictions.jsonl").read_bytes()
    assert run_benchmark("manifest", foreign, tmp_path / "a", options) == scores
    assert (tmp_path / "a" / "predictions.jsonl").read_bytes() == before


def test_audio_reaches_the_logits_and_padding_does_not(foreign, clips, monkeypatch):
    model = open_model(str(foreign), Opening(device="cpu"))
    prompts = [*prompts_of(clips), *prompts_of([np.resize(clip, 12000) for clip in clips])]

    def logits(asked):
        with torch.inference_mode():
            return model._model(**model._inputs(asked)).logits[:, -1].float()

    alone = torch.cat([logits([prompt]) for prompt in prompts])
    batches = list(_batches(prompts, 8, model._family.equal_lengths))
    assert max(map(len, batches)) >= 4 and sorted(i for rows in batches for i in rows) == list(range(8))
    for rows in batches:
        assert torch.allclose(logits([prompts[i] for i in rows]), alone[rows], atol=1e-4)
    other = [Prompt(one.messages, prompts[i - 1].clips) for i, one in enumerate(prompts)]
    changed = (logits(other) - alone).abs().amax(-1)
    assert (changed > 0.01).all()
    together, inputs = [], model._inputs
    monkeypatch.setattr(model, "_inputs", lambda rows, *more: together.append(rows) or inputs(rows, *more))
    assert len(list(model.generate(prompts, 8))) == 8
    assert [[prompts.index(prompt) for prompt in rows] for rows in together] == batches


@pytest.mark.parametrize(
    ("equal_lengths", "batches"), [(False, [[1, 2, 0], [3]]), (True, [[1, 2], [0], [3]])]
)
def test_batches_hold_recordings_of_one_number_and_of_one_length_only_where_padding_counts(
    equal_lengths, batches
):
    def asked(*lengths):
        return Prompt([], lambda: [np.zeros(n, np.float32) for n in lengths])

    prompts = [asked(9), asked(5), asked(5), asked(5, 9)]
    assert list(_batches(prompts, 4, equal_lengths)) == batches


def test_only_encoders_that_read_padding_want_equal_lengths():
    wanting = {name for name in REGISTRY.names() if REGISTRY.get(name).equal_lengths}
    assert wanting == {"granite_speech", "granite_speech_plus", "qwen3_omni_moe"}
    assert not family_of("some_other_model").equal_lengths


def test_ranking_equals_the_likelihood_of_one_choice_at_a_time(foreign, clips):
    model = open_model(str(foreign), Opening(device="cpu"))
    prompts = prompts_of(clips)
    found = {index: answer for index, answer in model.rank(prompts, 3, "sum")}
    for index, prompt in enumerate(prompts):
        expected = []
        for text in prompt.choices:
            inputs = model._inputs([prompt])
            total = 0.0
            ids = model._processor.tokenizer.encode(text, add_special_tokens=False)
            for token in [*ids, model.decoding["eos_token_id"][0]]:  # the whole turn, its end included
                with torch.inference_mode():
                    likely = model._model(**inputs).logits[0, -1].float().log_softmax(-1)
                total += float(likely[token])
                inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], dim=1)
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            expected.append(total)
        assert found[index].ranking == pytest.approx(expected, abs=1e-3)
        assert found[index].text == prompt.choices[int(np.argmax(expected))]
    choices = prompts[0].choices
    ((_, neutral),) = model.rank(
        [Prompt([{"role": "user", "content": "Answer:"}], choices=choices)], 1, "sum"
    )
    encode = model._processor.tokenizer.encode
    n_tokens = [len(encode(text, add_special_tokens=False)) + 1 for text in choices]  # and the turn's end
    for normalise, change in (
        ("length", lambda sums: np.divide(sums, n_tokens)),
        ("corrected", lambda sums: np.subtract(sums, neutral.ranking)),
    ):
        for index, answer in model.rank(prompts, 3, normalise):
            expected = change(found[index].ranking)
            assert answer.ranking == pytest.approx(expected, abs=1e-3)
            assert answer.text == choices[int(np.argmax(expected))]


def test_a_family_adds_arguments_of_generate(foreign, clips):
    model = open_model(str(foreign), Opening(device="cpu", max_new_tokens=4))
    tokenizer = model._processor.tokenizer
    (kept,) = tokenizer.encode("x", add_special_tokens=False)
    others = [token for token in range(len(tokenizer)) if token != kept]
    model._family = replace(model._family, generate={"suppress_tokens": others})
    ((_, answer),) = model.generate(prompts_of(clips)[:1], 1)
    assert answer.text == "xxxx"


FUNCTION = """
import numpy as np

def answer(prompts):
    assert len(prompts) <= 3
    return [f"{prompt.messages[-1]['content'].count('<|audio|>')} {sum(len(clip) for clip in prompt.clips())}"
            for prompt in prompts]

answer.sample_rate = 8000
ANSWERER = answer
"""
ANSWERER = """
from eval.models import Answer, Answerer

class Parrot(Answerer):
    model_id, sample_rate, differs, decoding = "parrot-1", 16000, {}, {"beak": "open"}

    def generate(self, prompts, batch_size):
        for index, prompt in enumerate(prompts):
            yield index, Answer(prompt.messages[-1]["content"])

    def rank(self, prompts, batch_size, normalise):
        for index, prompt in enumerate(prompts):
            yield index, Answer(prompt.choices[-1], [0.0, 1.0])

ANSWERER = Parrot
"""


def test_a_function_in_a_python_file(manifest, tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    options = [f"data={manifest}", "batch_size=3"]
    run_benchmark("manifest", tmp_path / "mine.py", tmp_path / "out", options)
    lines = read_predictions(tmp_path / "out" / "predictions.jsonl")
    said = {(line["id"], line["control"]): line["prediction"] for line in lines}
    assert said["q0", "none"] == "1 8000" and said["q0", "no_audio"] == "0 0"
    assert {line["model"] for line in lines} and all(line["model"].startswith("mine.py:") for line in lines)
    known = {line["model"] for line in lines}
    (tmp_path / "mine.py").write_text(FUNCTION.replace("8000", "4000"))  # too late: it has been imported
    assert {open_model(str(tmp_path / "mine.py")).model_id} == known
    (tmp_path / "b").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "b" / "mine.py")
    run_benchmark("manifest", tmp_path / "b" / "mine.py", tmp_path / "out", options)
    lines = read_predictions(tmp_path / "out" / "predictions.jsonl")
    others = [line for line in lines if line["model"] not in known and line["control"] == "none"]
    assert [line["prediction"] for line in others if line["id"] == "q0"] == ["1 4000"]
    (tmp_path / "mine.py").write_text(FUNCTION)
    with pytest.raises(
        EvaluationError, match="answer_by=rank: a function from prompts to texts gives no likelihoods"
    ):
        run_benchmark("manifest", tmp_path / "mine.py", tmp_path / "ranked", [*options, "answer_by=rank"])
    assert not (tmp_path / "ranked" / "predictions.jsonl").exists()


def test_the_seed_chooses_the_other_clips(manifest, tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    heard = {}
    for seed in range(3):
        options = [f"data={manifest}", "batch_size=3", "controls=[none, other_clip]", f"seed={seed}"]
        run_benchmark("manifest", tmp_path / "mine.py", tmp_path / str(seed), options)
        for line in read_predictions(tmp_path / str(seed) / "predictions.jsonl"):
            heard.setdefault((line["control"], seed), {})[line["id"]] = line["prediction"]
    assert heard["none", 0] == heard["none", 1] == heard["none", 2]
    others = [heard["other_clip", seed] for seed in range(3)]
    assert others[0] != others[1] or others[0] != others[2]


def test_missing_recordings_are_dropped_only_where_asked(manifest, tmp_path):
    (tmp_path / "mine.py").write_text(FUNCTION)
    rows = [json.loads(line) for line in manifest.read_text().splitlines()[:3]]
    rows = [{**row, "audio": str(manifest.parent / row["audio"])} for row in rows]
    write_manifest(
        tmp_path / "t.jsonl", [*rows, {**rows[0], "id": "gone", "audio": str(tmp_path / "gone.wav")}]
    )
    options = [f"data={tmp_path / 't.jsonl'}", "batch_size=3", "controls=[none]"]
    with pytest.raises(EvaluationError, match=r"gone\.wav"):
        run_benchmark("manifest", tmp_path / "mine.py", tmp_path / "a", options)
    kept = run_benchmark(
        "manifest", tmp_path / "mine.py", tmp_path / "a", [*options, "missing_audio=leave_out"]
    )
    assert kept["n_records"] == 3


def test_an_answerer_in_a_python_file_also_ranks(manifest, tmp_path, monkeypatch):
    (tmp_path / "bird.py").write_text(ANSWERER)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text(
        f"benchmark: manifest\nmodel: bird.py\ndata: {manifest}\nanswer_by: rank\n"
    )
    scores = run_benchmark("c.yaml")
    assert scores["arms"]["none"]["scores"]["qa/overall"]["value"] == pytest.approx(4 / 9)
    assert scores["run"]["model_id"] == "parrot-1" and scores["run"]["decoding"] == {"beak": "open"}
    assert json.loads((tmp_path / "eval" / "bird.py" / "manifest" / "scores.json").read_text()) == scores


LENGTHS = """
from eval.models import Answer, Answerer

class Counted(Answerer):
    model_id, differs, decoding = "counted", {}, {}

    def generate(self, prompts, batch_size):
        yield from ((index, Answer(f"{self.max_new_tokens} words")) for index in range(len(prompts)))

def answer(prompts, max_new_tokens):
    return [f"{max_new_tokens} words"] * len(prompts)

"""


@pytest.mark.parametrize("kind", ["Counted", "Counted()", "answer"])
def test_a_python_file_gets_the_longest_answer(kind, manifest, tmp_path):
    (tmp_path / "m.py").write_text(f"{LENGTHS}ANSWERER = {kind}\n")
    for options, length in (([], 64), (["max_new_tokens=7"], 7)):  # the benchmark's, and the user's
        out = tmp_path / str(length)
        options = [f"data={manifest}", "controls=[none]", *options]
        scores = run_benchmark("manifest", tmp_path / "m.py", out, options)
        said = {line["prediction"] for line in read_predictions(out / "predictions.jsonl")}
        assert said == {f"{length} words"} and scores["run"]["max_new_tokens"] == length


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "assigns no ANSWERER"),
        ("ANSWERER = 3\n", "assigns no ANSWERER"),
        ("ANSWERER = lambda prompts: 'x'\n", "returned str, expected a list of 9 texts"),
        ("ANSWERER = lambda prompts: ['x']\n", "returned 1 answers to 9 prompts"),
        ("ANSWERER = lambda prompts: [1] * 9\n", "returned list, expected a list of 9 texts"),
        ("import nothing_like_it\n", r"wrong\.py:1: cannot be imported"),
    ],
)
def test_python_files_that_are_no_models(text, message, manifest, tmp_path):
    (tmp_path / "wrong.py").write_text(text)
    with pytest.raises((ConfigError, EvaluationError), match=message):
        run_benchmark(
            "manifest", tmp_path / "wrong.py", tmp_path / "out", [f"data={manifest}", "controls=[none]"]
        )


PLUGIN = """
from eval.models import Answer, Answerer, ModelKind

class Echo(Answerer):
    differs, decoding = {}, {}

    def __init__(self, name):
        self.model_id = name

    def generate(self, prompts, batch_size):
        yield from ((index, Answer(self.model_id)) for index in range(len(prompts)))

MODEL_KIND = ModelKind("echo:TEXT", lambda name: name.startswith("echo:"), lambda name, opening: Echo(name), order=1)
"""


def test_a_plug_in_adds_a_kind_of_model(manifest, tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "echo.py").write_text(PLUGIN)
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    run_benchmark("manifest", "echo:dog", tmp_path / "out", [f"data={manifest}", "controls=[none]"])
    lines = read_predictions(tmp_path / "out" / "predictions.jsonl")
    assert {line["prediction"] for line in lines} == {"echo:dog"}
    with pytest.raises(
        EvaluationError, match=r"'what:is this': expected one of: echo:TEXT; openai:MODEL@URL"
    ):
        open_model("what:is this")
    with pytest.raises(CheckpointError, match="no such directory or weights file"):
        open_model(str(tmp_path / "a" / "b" / "model"))
    with pytest.raises(ConfigError, match="no such file"):
        open_model(str(tmp_path / "absent.py"))
    with pytest.raises(ConfigError, match="model is empty"):
        run_benchmark("manifest", "", tmp_path / "out", [f"data={manifest}"])


PROMPTS = """
from alm.data.manifest import read_manifest
from eval.benchmarks import Benchmark

BENCHMARK = Benchmark(
    reader=lambda path, split: read_manifest(path), prompt="{question}\\nName the letter.", metrics=("qa",),
    citation="This test.", official="mmau",
    prompts={"paper": "{stem} Choose from {choices}.", "short": "{stem}"},
)
"""
READER = """
def ANSWERER(prompts):
    # Sees the letters under one prompt only; "{choices}" of a question is no placeholder.
    said = []
    for prompt in prompts:
        text = prompt.messages[-1]["content"]
        said.append("(A)" if "A. bell" in text else "the dog" if "['bell', 'dog']" in text else "I do not know")
    return said
"""


def test_prompts_and_parsers_are_compared_on_the_same_questions(tmp_path, monkeypatch, capsys):
    from alm.cli import main

    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "worded.py").write_text(PROMPTS)
    (tmp_path / "reader.py").write_text(READER)
    (tmp_path / "worded.yaml").write_text("benchmark: worded\n")
    monkeypatch.setenv("ALM_PLUGINS", str(tmp_path / "plugins"))
    lines = [
        {"id": str(i), "audio": [], "question": "which {choices}" if i else "which", "choices": ["bell", "dog"],
         "answer": "bell" if i % 4 else "dog"}
        for i in range(8)
    ]  # fmt: skip
    write_manifest(tmp_path / "test.jsonl", lines)
    command = [
        "eval", "compare-prompts", str(tmp_path / "worded.yaml"), "--model", str(tmp_path / "reader.py"), "--data",
        str(tmp_path / "test.jsonl"), "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert main(command) == 0
    found = json.loads((tmp_path / "out" / "prompts.json").read_text())["prompts"]
    assert list(found) == ["ours", "paper", "short"]
    values = {name: arm["scores"]["qa/overall"]["value"] for name, arm in found.items()}
    assert values == {"ours": 0.75, "paper": 0.25, "short": 0.0}
    # The published rule wants the words of the choice: the letter alone is wrong for it.
    assert {name: arm["official"]["strict"] for name, arm in found.items()} == {
        "ours": 0.0,
        "paper": 0.25,
        "short": 0.0,
    }
    gap = found["paper"]["gaps"]["qa/overall"]
    assert gap["value"] == 0.5 and gap["low"] <= 0.5 <= gap["high"]
    assert {name: arm["choice_parse_failures"]["n"] for name, arm in found.items()} == {
        "ours": 0,
        "paper": 0,
        "short": 8,
    }
    table = capsys.readouterr().out
    assert "8 of 8" in table
    # Gaps are ours minus the other, and the table says how much more the other has.
    ends = f"-50.0 [{-100 * gap['high']:+.1f}, {-100 * gap['low']:+.1f}]"
    assert ends in table and gap["low"] < gap["high"]
    asked = read_predictions(tmp_path / "out" / "paper" / "predictions.jsonl")
    assert {line["question"] for line in asked} == {
        "which Choose from ['bell', 'dog'].", "which {choices} Choose from ['bell', 'dog'].",
    }  # fmt: skip
    assert main([*command[:-1], str(tmp_path / "few"), "limit=3"]) == 0
    assert json.loads((tmp_path / "few" / "prompts.json").read_text())["n_records"] == 3
    capsys.readouterr()
    # One prompt by itself, under a name that scores and keys hold.
    run = ["eval", str(tmp_path / "worded.yaml"), *command[3:7], "--out", str(tmp_path / "one")]
    assert main([*run, "prompt=paper", "controls=[none]"]) == 0
    scores = json.loads((tmp_path / "one" / "scores.json").read_text())
    assert (scores["run"]["prompt"], scores["run"]["prompt_version"]) == ("paper", "1-paper")
    capsys.readouterr()
    assert main([*run, "prompt=papers"]) == 2
    assert "worded has no prompt 'papers'; expected one of ours, paper, short" in capsys.readouterr().err
    assert main(["eval", "compare-prompts", "clotho", "--model", str(tmp_path / "reader.py")]) == 2
    assert "clotho has one prompt" in capsys.readouterr().err
    assert main(["eval", "compare-prompts"]) == 2


def test_recordings_that_a_processor_cuts_are_said(foreign, tmp_path):
    """Qwen2-Audio's processor hands on one window; published scores of it are of such parts."""
    rng = np.random.default_rng(0)
    seconds_of = {"long": 5.0, "short": 1.5, "middle": 2.5, "whole": 2.0}
    for name, seconds in seconds_of.items():
        save_wav(
            tmp_path / f"{name}.wav", rng.uniform(-0.3, 0.3, int(16000 * seconds)).astype(np.float32), 16000
        )
    rows = [
        {"id": n, "audio": f"{n}.wav", "question": "what", "answer": "x"}
        for n in ("long", "short", "middle", "whole")
    ]
    write_manifest(tmp_path / "m.jsonl", rows)
    options = [f"data={tmp_path / 'm.jsonl'}", "max_new_tokens=2", "controls=[none]"]
    scores = run_benchmark("manifest", foreign, tmp_path / "out", options)
    lines = {line["id"]: line for line in read_predictions(tmp_path / "out" / "predictions.jsonl")}
    said = [note for note in scores["notes"] if "cuts" in note]
    if foreign.name != "qwen2_audio":  # windows of two seconds in the tests' models; others take several
        assert said == [] and all("heard_s" not in line for line in lines.values())
        return
    assert {name: line.get("heard_s") for name, line in lines.items()} == {
        "long": 2.0, "middle": 2.0, "short": None, "whole": None,
    }  # fmt: skip
    assert said == [
        "2 of 4 questions are about recordings that the model's processor cuts: 4 s of 8 s are not heard "
        "(heard_s in predictions.jsonl)."
    ]
    # The same from the answers of an earlier run alone.
    assert run_benchmark("manifest", foreign, tmp_path / "out", options) == scores


def test_a_prompt_beyond_the_context_of_a_foreign_model_is_named(foreign, clips, tmp_path):
    model = open_model(str(foreign), Opening(device="cpu", max_new_tokens=4))
    short, long = prompts_of(clips)[:2]
    long = replace(long, messages=[{"role": "user", "content": "<|audio|>" + "what is " * 2000}], id="q7")
    with pytest.raises(
        EvaluationError, match=r"^q7: \d{4,} tokens and an answer of up to 4 .* context of 2048 tokens"
    ):
        list(model.generate([short, long], 2))
    n_prompt = int(model._of_processor([short])["attention_mask"].sum())
    model._context = n_prompt + 4
    assert len(list(model.generate([short], 1))) == 1
    model._context -= 1  # the prompt fits, its answer does not
    with pytest.raises(EvaluationError, match=rf"{n_prompt} tokens and an answer of up to 4 are more"):
        list(model.generate([short], 1))
