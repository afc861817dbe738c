"""A served model gives the answers of its directory: `transformers serve` and `alm serve` on this machine."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from foreign_models import build
from transformers import AutoTokenizer

from alm.data.manifest import write_manifest
from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class
from encoders.audio import save_wav
from eval.runner.benchmark import run_benchmark
from eval.scoring.predictions import read_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return build("qwen2_audio", tmp_path_factory.mktemp("served") / "qwen2_audio")


@pytest.fixture(scope="module")
def own(tmp_path_factory, llm_dir):
    """A model of this toolkit whose answers differ from clip to clip."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    llm = load_llm(str(llm_dir))
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(3.0)
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), llm, "mlp")
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@contextmanager
def served(command, port, log):
    """A server in a process of its own; yields its address up to `/v1`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**environment, "HF_HUB_OFFLINE": "1"},
            stdout=output,
            stderr=output,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield f"{address}/v1"
    finally:
        process.kill()
        process.wait()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """`transformers serve`, which loads the model that a request names."""
    for needed in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(
            needed, reason=f"`transformers serve` needs {needed}: pip install alm-toolkit[serve]"
        )
    port, log = free_port(), tmp_path_factory.mktemp("log") / "serve.log"
    code = "import sys; sys.argv[0] = 'transformers'; from transformers.cli.transformers import main; main()"
    options = ["--port", str(port), "--device", "cpu", "--host", "127.0.0.1", "--trust-remote-code"]
    with served(["-c", code, "serve", *options], port, log) as address:
        yield address


@pytest.fixture(scope="module")
def questions(clips, tmp_path_factory):
    """Options of an evaluation of six questions, one of them without a recording."""
    folder = tmp_path_factory.mktemp("questions")
    lines = []
    for number, clip in enumerate(clips):
        save_wav(folder / f"{number}.wav", clip, 16000)
        question = "what is this " + "sound " * number
        lines.append({"id": f"q{number}", "audio": f"{number}.wav", "question": question, "answer": "a bell"})
    lines.append({"id": "silent", "audio": [], "question": "is a bell made of metal", "answer": "yes"})
    write_manifest(folder / "test.jsonl", lines)
    return [f"data={folder / 'test.jsonl'}", "max_new_tokens=6"]


def evaluated(model, questions, out):
    """The scores of an evaluation with all controls, and what was answered by question and control."""
    scores = run_benchmark("manifest", model, out, questions)
    said = {
        (line["id"], line["control"]): line["prediction"]
        for line in read_predictions(out / "predictions.jsonl")
    }
    return scores, said


def assert_same(found, expected):
    assert found[1] == expected[1] and len(found[1]) == 15
    assert found[0]["arms"] == expected[0]["arms"] and found[0]["gaps"] == expected[0]["gaps"]


def test_a_served_model_gives_the_answers_of_its_directory(directory, url, questions, tmp_path):
    local = evaluated(directory, questions, tmp_path / "local")
    assert_same(evaluated(f"openai:{directory}@{url}", questions, tmp_path / "served"), local)
    assert len(set(local[1].values())) >= 6


PYTHON_FILE = """
import alm
from alm.generation import generate_answers

MODEL = alm.load({folder!r}, "cpu")


def answer(prompts):
    messages, clips = [prompt.messages for prompt in prompts], [prompt.clips() for prompt in prompts]
    return [text for _, text in sorted(generate_answers(*MODEL, messages, clips, max_new_tokens=6))]


ANSWERER = answer
"""


@pytest.fixture(scope="module")
def asked(own, questions, tmp_path_factory):
    """One of our models asked as a directory."""
    local = evaluated(own, questions, tmp_path_factory.mktemp("asked"))
    overall = local[0]["arms"]["none"]["scores"]["qa/overall"]
    assert set(local[0]["arms"]) == {"none", "no_audio", "other_clip"} and overall["low"] is not None
    assert len(set(local[1].values())) >= 6
    return local


def test_our_model_in_a_python_file(asked, own, questions, tmp_path):
    (tmp_path / "mine.py").write_text(PYTHON_FILE.format(folder=str(own)))
    assert_same(evaluated(str(tmp_path / "mine.py"), questions, tmp_path / "file"), asked)


def test_our_model_behind_alm_serve(asked, own, questions, tmp_path):
    port = free_port()
    command = ["-m", "alm", "serve", str(own), "--port", str(port), "--name", "own"]
    with served(command, port, tmp_path / "log") as address:
        assert_same(evaluated(f"openai:own@{address}", questions, tmp_path / "served"), asked)


def test_our_model_behind_transformers_serve(asked, own, url, questions, tmp_path):
    assert_same(evaluated(f"openai:{own}@{url}", questions, tmp_path / "served"), asked)
