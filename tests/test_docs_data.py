"""Every form of data in docs/data.md trains a tiny model for a step, and evaluates it, from the page's own snippet."""

import json
import re
from pathlib import Path

import pytest
import yaml
from test_alm_readers import b64, hf_dataset, lines, table, tar, tone

from alm.common.settings import parse_settings
from encoders.audio import save_wav
from encoders.registry import encoder_class
from eval.runner.benchmark import run_benchmark
from train.pipeline.runner import run_stage
from train.settings import TrainSettings

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()
SNIPPETS = {
    title: yaml.safe_load(snippet)
    for title, snippet in re.findall(r"^## ([^\n]+)\n(?:(?!^## ).)*?```yaml\n(.*?)```", PAGE, re.M | re.S)
}
WORDS = ("bell", "rain")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files that the page's snippets name: two recordings in thirteen forms."""
    import datasets

    root = tmp_path_factory.mktemp("forms")
    wavs = [root / f"{word}.wav" for word in WORDS]
    for number, path in enumerate(wavs):
        save_wav(path, tone(5 + number), 8000)
    asked = "<audio>What is this?"
    turns = [[{"role": "user", "content": asked}, {"role": "assistant", "content": word}] for word in WORDS]
    named = [{"audio": f"{word}.wav", "question": "What is this?", "answer": word} for word in WORDS]
    lines(root / "manifest.jsonl", [*named, {"audio": [], "question": "Is it metal?", "answer": "yes"}])
    lines(
        root / "swift.jsonl", [{"messages": t, "audios": [w.name]} for t, w in zip(turns, wavs, strict=True)]
    )
    pairs = [[{"from": "human", "value": asked}, {"from": "gpt", "value": word}] for word in WORDS]
    share = [{"conversations": p, "audio": w.name} for p, w in zip(pairs, wavs, strict=True)]
    (root / "sharegpt.json").write_text(json.dumps(share))
    factory = [{"instruction": asked, "input": "", "output": w.stem, "audios": [w.name]} for w in wavs]
    (root / "llama_factory.json").write_text(json.dumps(factory))
    data = [{"type": "audio", "audio_url": "bell.wav"},
            {"type": "input_audio", "input_audio": {"data": b64(wavs[1]), "format": "wav"}}]  # fmt: skip
    lines(
        root / "openai.jsonl",
        [
            {"messages": [{"role": "user", "content": [part, {"type": "text", "text": "What?"}]}, turn[1]]}
            for part, turn in zip(data, turns, strict=True)
        ],
    )
    table(root / "table.csv", [{"clip": w.name, "asked": "What is this?", "said": w.stem} for w in wavs])
    for name in ("classes/bell", "classes/rain", "audiofolder", "kaldi", "tars", "parquet"):
        (root / name).mkdir(parents=True)
    for path in wavs:
        (root / "classes" / path.stem / path.name).write_bytes(path.read_bytes())
        (root / "audiofolder" / path.name).write_bytes(path.read_bytes())
    table(root / "audiofolder" / "metadata.csv", [{"file_name": w.name, "text": w.stem} for w in wavs])
    for number, path in enumerate(wavs):
        (root / f"{number}.wav").write_bytes(path.read_bytes())
    made = hf_dataset(root)
    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(str(root / "saved"))
    made.to_parquet(str(root / "parquet" / "train.parquet"))
    (root / "kaldi" / "wav.scp").write_text("".join(f"{w.stem} {w}\n" for w in wavs))
    (root / "kaldi" / "text").write_text("".join(f"{w.stem} {w.stem}\n" for w in wavs))
    tar(
        root / "tars" / "a.tar",
        {f"{w.stem}{s}": d for w in wavs for s, d in ((".wav", w.read_bytes()), (".txt", w.stem.encode()))},
    )
    return root


@pytest.fixture(scope="module")
def encoder_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    encoder_class("audiomosaic").tiny().save_pretrained(folder)
    return folder


def test_the_page_has_thirteen_forms():
    assert len(SNIPPETS) == 13


@pytest.mark.parametrize("title", SNIPPETS)
def test_a_form_trains_and_evaluates_a_tiny_model(title, folder, encoder_dir, llm_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    values = {
        "stage": "align", "out": str(tmp_path / "run"), "encoder": str(encoder_dir), "llm": str(llm_dir),
        "optim": {"steps": 1, "batch_size": 3, "warmup_steps": 0}, **SNIPPETS[title],
    }  # fmt: skip
    model = run_stage(parse_settings(TrainSettings, values))
    facts = json.loads((tmp_path / "run/finished.json").read_text())
    data = SNIPPETS[title]["data"]["train"][0]
    overrides = [f"data={json.dumps(data)}", "controls=[none]", "max_new_tokens=2"]
    scores = run_benchmark("manifest", model, tmp_path / "scores", overrides)
    answered = (tmp_path / "scores/predictions.jsonl").read_text().splitlines()
    assert facts["samples"] == len(answered) == (3 if title == "Manifest" else 2)
    assert scores["run"]["benchmark"] == "manifest"
    assert (
        {json.loads(line)["references"][0] for line in answered} >= {"yes"} if title == "Manifest" else True
    )
