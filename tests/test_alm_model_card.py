"""README.md of saved, trained, evaluated and exported models."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

import alm
from alm.cli import main
from alm.data.manifest import write_manifest
from alm.hub.model_card import Score, base_models, front_matter, is_ours, scores_in
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class
from eval.reports.model_card import add_to_card
from train.pipeline.rundir import damage
from train.pipeline.runner import run_stage
from train.settings import TrainSettings

README = "README.md"
ONE = {"low": 0.25, "high": 1.0, "n": 7}


def card_of(folder):
    return (folder / README).read_text()


@pytest.fixture(scope="module")
def bases(llm_dir, tmp_path_factory):
    """Directories of an encoder, and of an LLM with a card of its own; data with four questions."""
    root = tmp_path_factory.mktemp("bases")
    encoder_class("audiomosaic").tiny().save_pretrained(root / "my-encoder")
    shutil.copytree(llm_dir, root / "my-llm")
    (root / "my-llm" / README).write_text("---\nlicense: Apache-2.0\n---\n# An LLM\n")
    rows = []
    for i, word in enumerate(("bell", "dog", "rain", "horn")):
        soundfile.write(root / f"{word}.wav", 0.3 * np.sin(np.arange(8000) * (i + 1) / 20), 16000)
        rows.append({"id": word, "audio": f"{word}.wav", "question": "what is this", "answer": word})
    write_manifest(root / "sounds.jsonl", rows)
    return root


@pytest.fixture(scope="module")
def trained(bases):
    """A model after alignment and instruction tuning, evaluated in its own directory."""
    from alm.common.settings import parse_settings

    common = {
        "data": {"train": [str(bases / "sounds.jsonl")]},
        "optim": {"steps": 2, "batch_size": 2, "warmup_steps": 0},
    }
    align = {"stage": "align", "out": str(bases / "align"), "encoder": str(bases / "my-encoder")}
    first = run_stage(parse_settings(TrainSettings, {**common, **align, "llm": str(bases / "my-llm")}))
    instruct = {"stage": "instruct", "out": str(bases / "instruct"), "model": str(first)}
    policy = {"llm": "lora", "llm_lora": {"r": 2, "alpha": 4}}
    folder = run_stage(parse_settings(TrainSettings, {**common, **instruct, "policy": policy}))
    before = card_of(folder)
    config = bases / "eval.yaml"
    config.write_text(
        f"benchmark: manifest\ndata: {bases / 'sounds.jsonl'}\nmax_new_tokens: 2\ncontrols: [none, no_audio]\n"
    )
    assert main(["eval", str(config), "--model", str(folder)]) == 0
    return folder, before


def test_the_card_says_what_was_trained_on_what(trained, bases):
    folder, before = trained
    model, _ = alm.load(folder, device="cpu")
    front = front_matter(before)
    assert front["library_name"] == "transformers" and front["pipeline_tag"] == "audio-text-to-text"
    assert "license" not in front and "base_model" not in front  # one is unknown, none is on the hub
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.components.items()}
    lora = sum(p.numel() for name, p in model.llm.named_parameters() if ".lora_" in name)
    lines = before.splitlines()
    assert f"| encoder | my-encoder (AudioMosaicPretrain) | not stated | {sizes['encoder']:,} |  |" in lines
    assert f"| projector | mlp, new |  | {sizes['projector']:,} |  |" in lines
    llm = (
        f"| LLM | my-llm (llama) | apache-2.0 | {sizes['llm'] - lora:,} | LoRA, rank 2, {lora:,} parameters |"
    )
    assert llm in lines
    trains = f"projector ({sizes['projector']:,} parameters)"
    assert f"| align | {trains} | 2 | sounds.jsonl | 4 |" in lines
    assert f"| instruct | {trains}, LLM (LoRA) ({lora:,} parameters) | 2 | sounds.jsonl | 4 |" in lines
    assert "The licence of my-encoder is not stated" in before and "refers to my-llm" in before
    assert "## Scores" not in before
    ModelCard(before).data.to_dict()  # the hub's own reader


def test_scores_stand_in_the_card_beside_their_controls(trained, bases, tmp_path):
    folder, before = trained
    text = card_of(folder)
    (name,) = (path.parent.name for path in folder.glob("eval/*/scores.json"))
    scores = json.loads((folder / "eval" / name / "scores.json").read_text())
    own, control = (scores["arms"][arm]["scores"]["qa/overall"] for arm in ("none", "no_audio"))
    cells = [
        f"{one['value'] * 100:.1f} [{one['low'] * 100:.1f}, {one['high'] * 100:.1f}]"
        for one in (own, control)
    ]
    assert f"| {name} | qa/overall | 4 | {cells[0]} | {cells[1]} |" in text.splitlines()
    entry, _ = ModelCard(text).data.eval_results
    assert (entry.dataset_name, entry.metric_name, entry.metric_value) == (name, "qa/overall", own["value"])
    assert damage(folder.parent) is None  # the finished stage is not run again for its card
    assert main(["export", str(folder), "--merge", "--out", str(tmp_path / "whole")]) == 0
    exported = card_of(tmp_path / "whole")
    assert "LoRA, rank" not in exported and "refers to" not in exported and cells[0] in exported
    shutil.copytree(folder, tmp_path / "other")
    model, _ = alm.load(folder, device="cpu")
    model.save_pretrained(tmp_path / "same")
    assert card_of(tmp_path / "same") == text
    with torch.no_grad():
        next(model.projector.parameters()).add_(1.0)
    model.save_pretrained(tmp_path / "other")  # the weights differ, so the old scores do not apply
    assert cells[0] not in card_of(tmp_path / "other")
    assert main(["export", str(tmp_path / "other"), "--out", str(tmp_path / "again")]) == 0
    assert cells[0] not in card_of(tmp_path / "again")


def test_scores_of_several_evaluations_stand_side_by_side(model, tmp_path):
    model.save_pretrained(tmp_path / "m")

    def scores(value, **arms):
        one = {**ONE, "value": value, "low": value / 2}
        return {"arms": {name: {"scores": {"caption/cider_d": one}} for name in ("none", *arms)}}

    add_to_card(tmp_path / "m", model, "a|b_c", scores(0.25, no_audio=1))
    first = scores_in(card_of(tmp_path / "m"))
    assert first == [
        Score(
            "a|b_c", "caption/cider_d", 0.25, 7, dict.fromkeys(("model", "no_audio"), "0.250 [0.125, 1.000]")
        )
    ]
    add_to_card(tmp_path / "m", model, "mmau", scores(0.5), limit=7)
    text = card_of(tmp_path / "m")
    assert scores_in(text)[0] == first[0] and is_ours(text)
    assert "| mmau (first 7 records) | caption/cider_d | 7 | 0.500 [0.250, 1.000] |  |" in text.splitlines()
    add_to_card(tmp_path / "m", model, "a|b_c", scores(0.75))
    assert sorted(row.value for row in scores_in(card_of(tmp_path / "m"))) == [0.5, 0.75]
    (tmp_path / "m" / README).write_text("# By hand\n")
    add_to_card(tmp_path / "m", model, "mmau", scores(0.5))
    assert card_of(tmp_path / "m") == "# By hand\n"


def test_no_card_names_a_folder_of_this_machine(trained, bases, tmp_path):
    folder, before = trained
    for text in (before, card_of(folder)):
        assert str(bases) not in text and bases.parent.name not in text and str(Path.home()) not in text
    config = json.loads((folder / "config.json").read_text())
    assert str(bases) not in json.dumps([config["base_models"], config["training"]])


def test_the_example_of_a_card_works(trained, bases, tmp_path, capsys):
    folder, _ = trained
    assert main(["export", str(folder), "--out", str(tmp_path / "m")]) == 0
    sound = str(shutil.copy(bases / "dog.wav", tmp_path / "m" / "sound.wav"))
    found = subprocess.run(
        [sys.executable, "-c", card_of(tmp_path / "m").partition("```python\n")[2].partition("```")[0]],
        cwd=tmp_path / "m",
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": str(Path(alm.__file__).parents[1]),
            "HF_MODULES_CACHE": str(tmp_path / "modules"),
        },
    )
    assert found.returncode == 0, found.stderr
    capsys.readouterr()
    assert main(["ask", str(tmp_path / "m"), sound, "What is this sound?"]) == 0
    assert found.stdout.split() == capsys.readouterr().out.split()


@pytest.fixture
def model(bases):
    llm = load_llm(str(bases / "my-llm"))
    encoder = encoder_class("audiomosaic").tiny()
    sources = {"llm_source": str(bases / "my-llm"), "encoder_source": "openai/some-encoder"}
    model = AudioLanguageModel.assemble(encoder, llm, **sources)
    build_processor(AutoTokenizer.from_pretrained(bases / "my-llm"), model)
    return model


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def test_what_a_user_writes_around_the_generated_part_stays(model, tmp_path):
    model.save_pretrained(tmp_path / "m")
    assert is_ours(card_of(tmp_path / "m"))
    index = "model-index:\n- name: mine\n  results: []\n"
    text = card_of(tmp_path / "m").replace(
        "pipeline_tag:", f"license: mit\nmy_key: [1, é]  # a\n{index}pipeline_tag:"
    )
    head, end, tail = text.partition("<!-- alm-toolkit: end")
    (tmp_path / "m" / README).write_text(head + end + tail + "\n## My notes\n\nGreetings — ünïcode.\n")
    loaded = AudioLanguageModel.from_pretrained(tmp_path / "m")
    loaded.config.training = [{"stage": "align", "steps": 3, "projector": "train", "data": []}]
    loaded.save_pretrained(tmp_path / "m")
    loaded.save_pretrained(tmp_path / "copy")
    for name in ("m", "copy"):
        found = card_of(tmp_path / name)
        assert found.endswith("\n## My notes\n\nGreetings — ünïcode.\n") and "| align | projector" in found
        front = front_matter(found)
        assert (front["license"], front["my_key"]) == ("mit", [1, "é"])
        assert front["base_model"] == ["openai/some-encoder"] and found.count("\n# ") == 1
        assert is_ours(found) and "my_key: [1, é]  # a\n" in found
        scores = {"arms": {"none": {"scores": {"x": {**ONE, "value": 0.5}}}}}
        add_to_card(tmp_path / name, loaded, "mmau", scores)
        loaded.save_pretrained(tmp_path / name)
        names = [one["name"] for one in front_matter(card_of(tmp_path / name))["model-index"]]
        assert names == ["mine", "my-llm that hears with some-encoder"]
    with torch.no_grad():
        next(loaded.projector.parameters()).add_(1.0)
    loaded.save_pretrained(tmp_path / "m")
    assert [one["name"] for one in front_matter(card_of(tmp_path / "m"))["model-index"]] == ["mine"]


@pytest.mark.parametrize("edit", ["inside", "foreign", "not text", "broken metadata"])
def test_a_card_that_is_not_ours_is_left_alone(model, tmp_path, edit):
    model.save_pretrained(tmp_path / "m")
    content = card_of(tmp_path / "m").replace("## Use", "## How to use it").encode()
    if edit == "broken metadata":
        content = card_of(tmp_path / "m").replace("tags:", "tags: {").encode()
    elif edit != "inside":
        content = b"# By hand\n" if edit == "foreign" else b"\xff\xfe\x00"
    (tmp_path / "m" / README).write_bytes(content)
    loaded = AudioLanguageModel.from_pretrained(tmp_path / "m")
    loaded.config.training = [{"stage": "align", "steps": 3, "data": []}]
    loaded.save_pretrained(tmp_path / "m")
    assert (tmp_path / "m" / README).read_bytes() == content
    loaded.save_pretrained(tmp_path / "copy")
    if edit != "not text":
        assert (tmp_path / "copy" / README).read_bytes() == content


def test_licences_and_names_of_base_models(bases, tmp_path):
    found = base_models(encoder=bases / "my-encoder", llm=bases / "my-llm", other=None)
    assert found == {"encoder": {"name": "my-encoder"}, "llm": {"name": "my-llm", "license": "apache-2.0"}}
    snapshot = tmp_path / "hub" / "models--some-org--a-model" / "snapshots" / "0123"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"license": "MIT"}')
    assert base_models(llm=snapshot) == {"llm": {"name": "some-org/a-model", "license": "mit"}}
    (snapshot / README).write_text("---\nlicense: [other]\n---\n")
    assert base_models(llm=snapshot)["llm"]["license"] == "other"
    for broken in (
        "---\nlicense: [a, b]\n---\n",
        "---\nlicense: a b | c\n---\n",
        "---\n{\n---\n",
        "no metadata",
    ):
        (snapshot / README).write_text(broken)
        assert base_models(llm=snapshot)["llm"]["license"] == "mit"
    alone = tmp_path / "hub" / "models--gpt2" / "snapshots" / "0123"
    alone.mkdir(parents=True)
    assert base_models(llm=alone) == {"llm": {"name": "gpt2"}}
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "config.json").write_text('{"_name_or_path": "some-org/original"}')
    assert base_models(llm=tmp_path / "copy") == {"llm": {"name": "some-org/original"}}


def test_names_cannot_break_the_card(model, tmp_path):
    model.config.base_models["llm"]["name"] = "a|b <script>*x*\n# no heading"
    model.save_pretrained(tmp_path / "m")
    text = card_of(tmp_path / "m")
    assert "\n# no heading" not in text and "<script>" not in text.replace("\\<script\\>", "")
    (row,) = (line for line in text.splitlines() if line.startswith("| LLM"))
    assert row.replace("\\|", "").count("|") == 6
