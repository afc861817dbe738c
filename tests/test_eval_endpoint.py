"""An OpenAI-compatible endpoint with everything that goes wrong at one: a real server on this machine, real sockets."""

import json
import multiprocessing
import os
import random
import re
import signal
import time
from email.utils import formatdate

import numpy as np
import pytest
from chat_server import (
    ChatServer,
    as_int16,
    closed,
    completion,
    cut,
    cut_chunks,
    dripping,
    heard,
    status,
    wrong_json,
)

from alm.common.errors import ConfigError
from alm.data.manifest import read_manifest, write_manifest
from encoders.audio import save_wav
from eval.errors import EvaluationError
from eval.models import Opening, open_model
from eval.models._wav import base64_wav
from eval.models.endpoint import EndpointSettings
from eval.runner.benchmark import run_benchmark
from eval.runner.manifest import evaluate_manifest
from eval.scoring.predictions import read_predictions

N = 12


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("questions")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(N):
        save_wav(
            folder / f"{number}.wav", (0.1 * rng.standard_normal(400 + number)).astype(np.float32), 16000
        )
        lines.append(
            {
                "id": str(number),
                "audio": f"{number}.wav",
                "question": f"question {number}",
                "answer": str(number),
            }
        )
    write_manifest(folder / "test.jsonl", lines)
    return folder / "test.jsonl"


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr("eval.models._pool._FIRST_PAUSE_S", 0.01)
    for name in ("http_proxy", "HTTP_PROXY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server():
    with ChatServer() as running:
        yield running


def ask(server, manifest, out, controls=("none",), **settings):
    model = open_model(server.name, Opening(options={"endpoint": EndpointSettings(**settings)}))
    return evaluate_manifest(model, read_manifest(manifest), out, controls=controls)


def said(out):
    return {line["id"]: line["prediction"] for line in read_predictions(out / "predictions.jsonl")}


ALL = {str(number): f"{number} {400 + number}" for number in range(N)}
SOON = formatdate(time.time() - 5, usegmt=True)


@pytest.mark.parametrize(
    "fault",
    [
        status(429, Retry_After="0.05"), status(429, Retry_After=SOON), status(429, Retry_After="later"), status(500),
        status(503), cut, cut_chunks, closed, wrong_json(b"<html>busy</html>"), wrong_json({"choices": []}),
        wrong_json([1]), wrong_json({"choices": [{"message": {"content": 3}}]}), wrong_json(b"[" * 100_000),
        wrong_json(b'{"choices": [{"message": {"content": "\xff'),
    ],
)  # fmt: skip
def test_a_fault_is_asked_again_and_every_answer_comes_once(server, manifest, tmp_path, fault):
    for number in (0, 3, 4, 11):
        server.faults[f"question {number}"] = [fault, fault]
    scores = ask(server, manifest, tmp_path)
    assert said(tmp_path) == ALL and scores["arms"]["none"]["n_missing"] == 0
    assert set(server.answered.values()) == {1} and len(server.answered) == N
    assert len(server.asked) == N + 8


def test_a_body_that_never_ends_is_given_up(server, manifest, tmp_path):
    server.faults["question 5"] = [dripping]
    ask(server, manifest, tmp_path, timeout_s=0.4)
    assert said(tmp_path) == ALL and len(server.asked) >= N + 1


def test_all_controls_under_one_command_with_what_the_endpoint_gets(server, manifest, tmp_path):
    (tmp_path / "c.yaml").write_text(f"benchmark: manifest\ndata: {manifest}\nmodel: {server.name}\n")
    scores = run_benchmark(
        tmp_path / "c.yaml", "", tmp_path / "out", ["endpoint.requests=3", "max_new_tokens=9"]
    )
    assert set(scores["arms"]) == {"none", "no_audio", "other_clip"} and set(scores["gaps"]) == {
        "no_audio",
        "other_clip",
    }
    assert scores["run"]["model_id"] == server.name
    assert scores["run"]["decoding"] == {"temperature": 0, "max_tokens": 9}
    assert 2 <= server.most <= 3 and len(server.asked) == 3 * N
    body = next(body for body in server.bodies if heard(body["messages"][-1]["content"])[0] == "question 7")
    assert {**body, "messages": 0} == {"model": "fake", "messages": 0, "temperature": 0, "max_tokens": 9}
    recording = next(one for one in read_manifest(manifest) if one.id == "7").audio[0].load(16000)
    assert any(
        len(clips) == 1 and np.array_equal(clips[0], as_int16(recording))
        for text, clips in (heard(body["messages"][-1]["content"]) for body in server.bodies)
        if text == "question 7"
    )
    silent = [
        body["messages"][-1]["content"]
        for body in server.bodies
        if isinstance(body["messages"][-1]["content"], str)
    ]
    assert len(silent) == N
    lines = read_predictions(tmp_path / "out" / "predictions.jsonl")
    assert all(line["tokens"] == {"prompt": 100, "answer": 5} for line in lines)


def test_requests_grow_to_what_is_allowed_and_refusals_shrink_them(manifest, tmp_path):
    with ChatServer(pause=0.05) as server:
        ask(server, manifest, tmp_path / "a", controls=("none", "no_audio"), requests=8)
        assert 4 < server.most <= 8
    with ChatServer(pause=0.05) as server:
        for number in range(N):
            server.faults[f"question {number}"] = [status(429)]
        ask(server, manifest, tmp_path / "b", requests=2)
        assert server.most <= 2 and said(tmp_path / "b") == ALL


def test_nobody_asks_before_the_time_that_the_endpoint_gave(server, manifest, tmp_path):
    server.faults["question 11"] = [status(429, Retry_After="0.5")]
    ask(server, manifest, tmp_path, requests=1)
    times = [moment for _, moment in server.asked]
    refused = next(i for i, (text, _) in enumerate(server.asked) if text == "question 11")
    assert times[refused + 1] - times[refused] >= 0.5 and len(times) == N + 1


def test_the_rate_that_was_set_is_kept(server, manifest, tmp_path):
    ask(server, manifest, tmp_path, requests_per_minute=1200.0)
    times = sorted(moment for _, moment in server.asked)
    # Requests leave 50 ms apart; a late one may arrive near the next.
    assert times[-1] - times[0] >= (N - 1) * 0.05 - 0.045


@pytest.mark.parametrize("code", [401, 403, 404])
def test_what_no_question_will_get_past_stops_at_once(server, manifest, tmp_path, monkeypatch, code):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-1")
    for number in range(N):
        server.faults[f"question {number}"] = [status(code, "key sk-secret-1 is not known")] * 2
    with pytest.raises(
        EvaluationError, match=rf"question \d+: HTTP {code}: key \[key\] is not known"
    ) as stopped:
        ask(server, manifest, tmp_path)
    assert "sk-secret-1" not in str(stopped.value) and len(server.asked) <= 8
    assert all(headers["Authorization"] == "Bearer sk-secret-1" for headers in server.headers)


def test_the_key_is_in_no_file_and_no_message(server, manifest, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OTHER_KEY", "sk-secret-2")
    options = [f"data={manifest}", "controls=[none]", "endpoint.key_env=OTHER_KEY"]
    run_benchmark("manifest", server.name, tmp_path / "out", options)
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer sk-secret-2"}
    shown = capsys.readouterr()
    written = [path.read_text() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) >= 3 and not any("sk-secret-2" in text for text in [*written, shown.out, shown.err])


def test_questions_that_are_refused_do_not_stop_the_others(server, manifest, tmp_path):
    server.faults["question 4"] = [status(400, "the audio is too long")] * 2
    server.faults["question 9"] = [status(500)] * 6
    with pytest.raises(
        EvaluationError,
        match=r"2 of 12 questions have no answer; the first is 9: HTTP 500: no \(asked 2 times\)",
    ):
        ask(server, manifest, tmp_path, requests=1, attempts=2)
    assert said(tmp_path) == {key: value for key, value in ALL.items() if key not in ("4", "9")}
    server.asked.clear()
    scores = ask(server, manifest, tmp_path, requests=1, attempts=2, failures="wrong")
    assert [text for text, _ in server.asked] == ["question 9", "question 9", "question 4"]
    assert scores["arms"]["none"]["n_missing"] == 2
    assert any("2 questions got no answer and count as wrong: 9, 4." in note for note in scores["notes"])
    ask(server, manifest, tmp_path, requests=1, attempts=3)
    assert said(tmp_path) == ALL and set(server.answered.values()) == {1}


def test_three_failures_end_a_run_only_in_a_row(server, manifest, tmp_path):
    apart, together = ("2", "5", "9"), ("6", "7", "8")
    for number in apart:
        server.faults[f"question {number}"] = [status(400, "the audio is too long")]
    scores = ask(server, manifest, tmp_path / "apart", requests=1, failures="wrong")
    assert scores["arms"]["none"]["n_missing"] == 3
    assert said(tmp_path / "apart") == {key: value for key, value in ALL.items() if key not in apart}
    for number in together:
        server.faults[f"question {number}"] = [status(400, "the audio is too long")]
    with pytest.raises(EvaluationError, match=r"question 6: HTTP 400: the audio is too long"):
        ask(server, manifest, tmp_path / "row", requests=1, failures="wrong")
    assert set(said(tmp_path / "row")) == {str(number) for number in range(9, N)}


def test_an_endpoint_that_is_down_stops_the_run(manifest, tmp_path):
    with ChatServer() as server:
        pass
    with pytest.raises(
        EvaluationError, match=r"the connection broke \(Connection refused\) \(asked 2 times\)"
    ):
        ask(server, manifest, tmp_path, attempts=2)


def test_the_token_budget_ends_the_run_and_keeps_the_answers(server, manifest, tmp_path, capsys):
    with pytest.raises(EvaluationError, match=r"token_budget of 500 is used up"):
        ask(server, manifest, tmp_path, token_budget=500, requests=1)
    kept = len(said(tmp_path))
    assert kept in (5, 6)  # 105 tokens each; what was asked already when the fifth came is kept, too
    with pytest.raises(EvaluationError, match=rf"prompts alone, and {105 * kept} are used"):
        ask(server, manifest, tmp_path, token_budget=530, requests=1)
    capsys.readouterr()
    ask(server, manifest, tmp_path, token_budget=5000, price_in=2e5, price_out=1e6)
    assert said(tmp_path) == ALL and set(server.answered.values()) == {1}
    estimate = re.match(
        r"(\d+) questions with 0\.0 minutes of audio: about (\d+) prompt tokens and at most (\d+) answer tokens, about "
        r"([\d.]+) at most at the given prices \(estimate\)",
        capsys.readouterr().err,
    )
    left, n_in, n_out, cost = map(float, estimate.groups())
    assert (left, n_out) == (N - kept, 64 * left) and left * 4 < n_in < left * 8
    assert cost == pytest.approx(n_in * 0.2 + n_out, abs=0.01)


def test_every_16_bit_sample_is_sent_as_it_is():
    samples = np.arange(-32768, 32768)
    sent = base64_wav((samples / 32768).astype(np.float32), 16000)
    _, [found] = heard([{"type": "input_audio", "input_audio": {"data": sent, "format": "wav"}}])
    assert np.array_equal(found, samples)


def test_answers_to_other_audio_or_by_other_decoding_are_not_reused(server, manifest, tmp_path):
    ask(server, manifest, tmp_path, requests=1)
    server.rate_hz = 8000
    ask(server, manifest, tmp_path, requests=1, sample_rate=8000)
    assert len(server.asked) == 2 * N
    assert said(tmp_path) == {str(n): f"{n} {-(-(400 + n) // 2)}" for n in range(N)}
    same = {"endpoint": EndpointSettings(requests=1, sample_rate=8000)}
    warm = open_model(server.name, Opening(decoding={"temperature": 0.5}, options=same))
    evaluate_manifest(warm, read_manifest(manifest), tmp_path, controls=("none",))
    assert len(server.asked) == 3 * N


def test_answers_of_other_forms_are_read(server, manifest, tmp_path):
    parts = [{"type": "text", "text": "two "}, {"type": "text", "text": "parts"}]
    for number, message in enumerate(
        [{"content": parts}, {"content": None, "refusal": "I cannot"}, {"content": None}]
    ):
        body = {"choices": [{"message": message}]}
        server.faults[f"question {number}"] = [wrong_json(body)]
    ask(server, manifest, tmp_path)
    found = said(tmp_path)
    assert [found["0"], found["1"], found["2"]] == ["two parts", "I cannot", ""]
    lines = read_predictions(tmp_path / "predictions.jsonl")
    assert {line["id"] for line in lines if "tokens" not in line} == {"0", "1", "2"}
    assert completion("x")["usage"]["prompt_tokens"] == 100


@pytest.mark.parametrize(
    ("name", "override", "message"),
    [
        ("openai:m@ftp://host/v1", "", "expected openai:MODEL@URL"),
        ("openai:@http://host/v1", "", "expected openai:MODEL@URL"),
        ("openai:m@http://me:sk-secret@host/v1", "", "keys come from the environment"),
        ("openai:m@http://host/v1?key=sk-secret", "", "keys come from the environment"),
        (
            "openai:m@http://host/v1",
            "decoding.do_sample=true",
            "decoding.do_sample: not a setting of an endpoint",
        ),
        ("openai:m@http://host/v1", "endpoint.requests=0", "endpoint.requests: got 0, expected 1 to 1024"),
        ("openai:m@http://host/v1", "endpoint.timeout_s=0", r"endpoint.timeout_s is 0"),
        ("openai:m@http://host/v1", "endpoint.failures=ignore", "expected one of error, wrong"),
        ("openai:m@http://host/v1", "endpoint.request=3", "request"),
    ],
)
def test_names_and_settings_that_are_wrong(name, override, message, manifest, tmp_path):
    with pytest.raises(ConfigError, match=message) as found:
        run_benchmark(
            "manifest", name, tmp_path / "out", [f"data={manifest}", *([override] if override else [])]
        )
    assert "sk-secret" not in str(found.value) and not (tmp_path / "out").exists()


def test_an_endpoint_cannot_rank_and_says_so_first(server, tmp_path):
    save_wav(tmp_path / "a.wav", np.zeros(400, np.float32) + 0.1, 16000)
    line = {"id": "1", "audio": "a.wav", "question": "which", "answer": "x", "choices": ["x", "y"]}
    write_manifest(tmp_path / "t.jsonl", [line])
    with pytest.raises(EvaluationError, match="answer_by=rank: an endpoint gives no likelihoods"):
        run_benchmark("manifest", server.name, tmp_path, [f"data={tmp_path / 't.jsonl'}", "answer_by=rank"])
    assert not server.asked


def test_kill_and_resume_lose_no_answer_and_ask_none_twice(manifest, tmp_path):
    """SIGKILL at random moments: no answer in the file is asked for again, and each one is there once at the end."""
    path = tmp_path / "out" / "predictions.jsonl"
    chance = random.Random(0)
    with ChatServer(pause=0.05) as server:
        options = [f"data={manifest}", "endpoint.requests=2"]
        kept: list[int] = []
        for target in (3, 14, 25, None):
            before = read_predictions(path) if path.exists() else []
            n_asked = len(server.asked)
            process = multiprocessing.get_context("fork").Process(
                target=run_benchmark, args=("manifest", server.name, tmp_path / "out", options)
            )
            process.start()
            while target and process.is_alive():
                if path.exists() and path.read_bytes().count(b"\n") >= target:
                    time.sleep(chance.uniform(0.0, 0.05))
                    os.kill(process.pid, signal.SIGKILL)
                    break
                time.sleep(0.005)
            process.join()
            assert process.exitcode == (-signal.SIGKILL if target else 0)
            kept.append(path.read_bytes().count(b"\n"))
            # Only questions without a line are asked again: at most 3 * N questions minus the lines.
            assert len(server.asked) - n_asked <= 3 * N - len(before)
        lines = read_predictions(path)
        assert 0 < kept[0] < kept[1] < kept[2] < 3 * N == kept[3]
        assert len({line["key"] for line in lines}) == len(lines) == 3 * N
        # Requests that were under way when the process died had no answer yet: two at most each time.
        assert len(server.asked) <= 3 * N + 3 * 2
        for line in lines:
            number, samples = line["question"].split()[-1], round(line["duration_s"] * 16000)
            assert line["prediction"].split()[0] == number and (samples > 0) == (
                line["control"] != "no_audio"
            )
        assert json.loads((tmp_path / "out" / "scores.json").read_text())["arms"]["none"]["n_missing"] == 0
