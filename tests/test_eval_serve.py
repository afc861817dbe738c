"""The endpoint answerer against a real server: `transformers serve` on this machine, with a model's directory."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from foreign_models import build

from alm.data.manifest import write_manifest
from encoders.audio import save_wav
from eval.runner.benchmark import run_benchmark
from eval.scoring.predictions import read_predictions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return build("qwen2_audio", tmp_path_factory.mktemp("served") / "qwen2_audio")


@pytest.fixture(scope="module")
def url(directory, tmp_path_factory):
    for needed in ("fastapi", "uvicorn", "openai"):
        pytest.importorskip(
            needed, reason=f"`transformers serve` needs {needed}: pip install alm-toolkit[serve]"
        )
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "serve.log"
    code = "import sys; sys.argv[0] = 'transformers'; from transformers.cli.transformers import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "serve", str(directory), "--port", str(port), "--device", "cpu",
             "--host", "127.0.0.1"],
            env={**environment, "HF_HUB_OFFLINE": "1"}, stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
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


def test_a_served_model_gives_the_answers_of_its_directory(directory, url, clips, tmp_path):
    lines = []
    for number, clip in enumerate(clips):
        save_wav(tmp_path / f"{number}.wav", clip, 16000)
        question = "what is this " + "sound " * number
        lines.append({"id": f"q{number}", "audio": f"{number}.wav", "question": question, "answer": "a bell"})
    lines.append({"id": "silent", "audio": [], "question": "is a bell made of metal", "answer": "yes"})
    write_manifest(tmp_path / "test.jsonl", lines)
    options = [f"data={tmp_path / 'test.jsonl'}", "max_new_tokens=6"]
    local = run_benchmark("manifest", directory, tmp_path / "local", options)
    served = run_benchmark("manifest", f"openai:{directory}@{url}", tmp_path / "served", options)
    said = [
        {
            (line["id"], line["control"]): line["prediction"]
            for line in read_predictions(tmp_path / name / "predictions.jsonl")
        }
        for name in ("local", "served")
    ]
    assert said[0] == said[1] and len(said[0]) == 15
    assert local["arms"] == served["arms"] and local["gaps"] == served["gaps"]
    assert len(set(said[0].values())) >= 6
