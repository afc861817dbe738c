"""Runs that are killed, run out of memory, or have several processes: every question is answered exactly once."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from answerers import Rule

from alm.data.manifest import read_manifest, write_manifest
from encoders.audio import save_wav
from eval.runner.batching import with_smaller_batches
from eval.runner.manifest import evaluate_manifest
from eval.scoring.predictions import read_predictions


def generate(conversations, audios, max_new_tokens=64, batch_size=16, pause=0.0):
    """Answers that depend on what is asked and heard alone."""
    for index, (turns, clips) in enumerate(zip(conversations, audios, strict=True)):
        time.sleep(pause)
        yield index, f"{turns[-1]['content']} {sum(float(clip.sum()) for clip in clips):.3f}"


def evaluate(manifest, out, pause=0.0):
    return evaluate_manifest(
        Rule(partial(generate, pause=pause)), read_manifest(manifest), out, batch_size=3
    )  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("manifest")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(10):
        samples = int(rng.integers(800, 4000))
        save_wav(folder / f"{number}.wav", (0.1 * rng.standard_normal(samples)).astype(np.float32), 16000)
        lines += [
            {"id": f"{number}-{i}", "audio": f"{number}.wav", "question": f"what {i}", "answer": "x"}
            for i in range(2)
        ]
    write_manifest(folder / "m.jsonl", lines)
    return folder / "m.jsonl"


def sorted_lines(out):
    return sorted((out / "predictions.jsonl").read_bytes().splitlines())


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    evaluate(manifest, out)
    assert len(sorted_lines(out)) == 60
    return out


def test_kill_9_loses_nothing_and_doubles_nothing(manifest, whole, tmp_path):
    counts = []
    path = tmp_path / "predictions.jsonl"
    for enough in (1, 20):
        process = multiprocessing.get_context("fork").Process(
            target=evaluate, args=(manifest, tmp_path, 0.02)
        )
        process.start()
        while process.is_alive() and not (path.exists() and path.read_bytes().count(b"\n") >= enough):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        counts.append(path.read_bytes().count(b"\n"))
        with open(path, "ab") as file:
            file.write(b'{"id": "torn')  # as a kill in the middle of a write leaves it
    assert 0 < counts[0] < counts[1] < 60
    evaluate(manifest, tmp_path)
    assert sorted_lines(tmp_path) == sorted_lines(whole)
    assert (tmp_path / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


@pytest.mark.slow
def test_two_processes_are_one(manifest, whole, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    # What one killed process of another run left behind is used, too.
    kept = sorted_lines(whole)[:7]
    (tmp_path / "predictions.rank5.jsonl").write_bytes(b"\n".join(kept) + b"\n")
    folder = Path(__file__).parent
    code = "import sys; from test_eval_processes import evaluate; print(bool(evaluate(*sys.argv[1:])))"
    environment = {
        **os.environ, "PYTHONPATH": f"{folder.parent}{os.pathsep}{folder}", "OMP_NUM_THREADS": "1", "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(manifest), str(tmp_path)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    told = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told[0][1][-1500:] + told[1][1][-1500:]
    assert [out.split()[-1] for out, _ in told] == ["True", "False"]  # the first one scores
    assert sorted_lines(tmp_path) == sorted_lines(whole)
    assert not list(tmp_path.glob("predictions.rank*"))
    assert (tmp_path / "scores.json").read_bytes() == (whole / "scores.json").read_bytes()


def test_out_of_memory_halves_the_batch_and_goes_on(manifest, tmp_path):
    sizes = []

    def hungry(conversations, audios, max_new_tokens=64, batch_size=16):
        for start in range(0, len(conversations), batch_size):
            sizes.append(batch_size)
            if batch_size > 3 and start > 0:
                raise torch.OutOfMemoryError("CUDA out of memory")
            for index in range(start, min(start + batch_size, len(conversations))):
                yield index, "x"

    scores = evaluate_manifest(
        Rule(hungry), read_manifest(manifest), tmp_path, batch_size=8, controls=["none"]
    )  # fmt: skip
    lines = read_predictions(tmp_path / "predictions.jsonl")
    assert len(lines) == 20 and len({line["id"] for line in lines}) == 20
    assert sizes == [8, 8, 4, 4, 2, 2, 2, 2] and scores["arms"]["none"]["n_missing"] == 0


def test_what_cannot_be_halved_is_an_error():
    def broke(at, size):
        raise torch.OutOfMemoryError("CUDA out of memory")
        yield

    with pytest.raises(torch.OutOfMemoryError):
        list(with_smaller_batches(broke, 4, 4))

    def wrong(at, size):
        raise RuntimeError("shapes differ")
        yield

    with pytest.raises(RuntimeError, match="shapes differ"):
        list(with_smaller_batches(wrong, 4, 4))


def test_longest_clips_come_first(manifest, tmp_path):
    lengths = []

    def listen(conversations, audios, max_new_tokens=64, batch_size=16):
        lengths.extend(len(clips[0]) for clips in audios)
        yield from ((index, "x") for index in range(len(conversations)))

    evaluate_manifest(
        Rule(listen), read_manifest(manifest), tmp_path, controls=["none"]
    )  # fmt: skip
    assert lengths == sorted(lengths, reverse=True) and len(lengths) == 20
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert "groups" not in scores["arms"]["none"]  # all are of one class of length: nothing to break down by
