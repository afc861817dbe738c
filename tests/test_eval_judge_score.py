"""AIR-Bench chat: free answers rated by a judge behind an endpoint."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import corpus_trees
import pytest

from eval.errors import MetricUnavailable
from eval.metrics import load_metric
from eval.runner.benchmark import run_benchmark

ANSWERER = """
def ANSWERER(prompts):
    return ["a {question} dog" if prompt.clips() else "nothing" for prompt in prompts]

ANSWERER.sample_rate = 16000
"""


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """Gives 9 to the reference, 7 to answers with a dog, 1 to others, and 1 more to the one shown first."""
    asked, replies = [], {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            prompt = body["messages"][0]["content"]
            asked.append((self.path, self.headers["Authorization"], prompt))
            answers = re.findall(r"^Answer [12]: (.*)$", prompt, re.M)
            rated = [9 if one == "A dog barks." else 7 if "dog" in one else 1 for one in answers]
            said = replies.get("all", f" {rated[0] + 1} {rated[1]}\n")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("ALM_JUDGE", f"http://127.0.0.1:{server.server_port}/v1#strict")
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.setenv("ALM_CACHE", str(tmp_path / "cache"))
    yield asked, replies
    server.shutdown()
    server.server_close()


def test_answers_are_rated_in_both_orders_and_replies_are_kept(judge, tmp_path, monkeypatch):
    asked, _ = judge
    for path in corpus_trees.airbench_chat(tmp_path):
        corpus_trees.wav(path)
    (tmp_path / "mine.py").write_text(ANSWERER)
    options = [f"data={tmp_path}", "controls=[none, no_audio]"]
    scores = run_benchmark("airbench_chat", tmp_path / "mine.py", tmp_path / "out", options)
    rating = scores["arms"]["none"]["scores"]["answer/judge_score"]
    assert rating["value"] == 7.5 and rating["n"] == 2  # 7 behind the reference, 8 before it
    assert scores["arms"]["no_audio"]["scores"]["answer/judge_score"]["value"] == 1.5
    assert scores["gaps"]["no_audio"]["answer/judge_score"]["value"] == 6.0
    by_task = scores["arms"]["none"]["groups"]["task_name"]
    assert {name: found["answer/judge_score"]["value"] for name, found in by_task.items()} == {
        "sound_QA": 7.5, "speech_and_music_QA": 7.5,
    }  # fmt: skip
    assert scores["backends"]["answer/judge_score"].startswith("judge_score[strict@http://127.0.0.1")
    (path, key, prompt) = asked[-1]
    assert path == "/v1/chat/completions" and key == "Bearer secret"
    assert "a dog, then rain" in prompt and "Question: What is it?" in prompt
    assert any("a {question} dog" in prompt for _, _, prompt in asked)  # braces of an answer stay
    before = len(asked)
    assert (
        run_benchmark("airbench_chat", tmp_path / "mine.py", tmp_path / "again", options)["arms"]
        == scores["arms"]
    )
    assert len(asked) == before  # replies are read from the cache
    assert "secret" not in "".join(one.read_text() for one in (tmp_path / "cache" / "judge").iterdir())
    monkeypatch.delenv("ALM_JUDGE")
    absent = run_benchmark("airbench_chat", tmp_path / "mine.py", tmp_path / "absent", options)
    assert "answer/judge_score" not in absent["arms"]["none"]["scores"]
    assert "needs a judge; set ALM_JUDGE to http://host/v1#model" in absent["absent"]["judge_score"]


@pytest.mark.parametrize("reply", ["9", "good 9 8", "9 11", "0 5", "9 8 7", ""])
def test_a_reply_that_is_no_rating_is_never_guessed_and_not_kept(judge, reply):
    asked, replies = judge
    replies["all"] = reply
    metric = load_metric("judge_score")
    with pytest.raises(MetricUnavailable, match="expected two numbers from 1 to 10"):
        metric.compute(predictions=["a dog"], references=[["A dog barks."]])
    replies.clear()
    assert metric.compute(predictions=["a dog"], references=[["A dog barks."]])["judge_score"] == 7.5
