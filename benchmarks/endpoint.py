"""`alm eval` against servers of a model: the same answers, no answer lost or asked twice, and the throughput.

    python -m benchmarks.endpoint MODEL --data TEST.jsonl [--servers transformers-serve vllm-serve]

The first questions of a manifest are asked with all controls. Parts, for each server:

- answers: answers, scores with intervals and gaps between controls equal those of MODEL's directory;
- kills: the evaluation is killed at random moments and run again, through a relay that counts its requests. What has a
  line in the predictions file is not asked again, and the result equals the undisturbed one. The directory itself is
  killed as often, in a Python file that notes what is asked of it;
- throughput: the same questions in turn by `alm eval`'s answerer and by a bare client that holds the ready requests and
  asks with each number of threads of `--threads`; the ratio is our rate divided by the best bare rate.

The exit code is 1 if any of this fails. `--vllm-python` is the interpreter of vLLM's environment (docs/serving.md).
"""

from __future__ import annotations

import argparse
import http.client
import json
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch

from benchmarks.measure import machine
from benchmarks.serve_load import running
from eval.models import Prompt
from eval.models.endpoint import Endpoint, EndpointSettings
from eval.runner.benchmark import run_benchmark
from eval.scoring.predictions import read_predictions

UNDER_WAY = 4  # requests of an evaluation that is killed
_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_AIM = 0.9
_COUNTED = """
import alm
from alm.generation import generate_answers

MODEL = alm.load({folder!r}, "cpu")


def answer(prompts, max_new_tokens):
    with open({log!r}, "a") as log:
        log.write("asked\\n" * len(prompts))
    messages, clips = [prompt.messages for prompt in prompts], [prompt.clips() for prompt in prompts]
    return [text for _, text in sorted(generate_answers(*MODEL, messages, clips, max_new_tokens))]


ANSWERER = answer
"""


def prompts_of(n: int, seconds: float) -> list[Prompt]:
    """Questions about noise, no two alike, so that no server can reuse an answer."""
    made = []
    for number in range(n):
        clip = (0.1 * np.random.default_rng(number).standard_normal(int(seconds * 16000))).astype(np.float32)
        turn = {"role": "user", "content": f"<|audio|>What is this? Number {number}."}
        made.append(Prompt([turn], lambda clip=clip: [clip], id=str(number)))  # type: ignore[misc]
    return made


def bare(url: str, bodies: Sequence[bytes], threads: int) -> float:
    """Answers a second of a client that only posts."""
    parts = urlsplit(url)

    def ask(body: bytes) -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=600)
        connection.request(
            "POST", f"{parts.path}/chat/completions", body, {"Content-Type": "application/json"}
        )
        answer = json.loads(connection.getresponse().read())
        assert isinstance(answer["choices"][0]["message"]["content"], str)
        connection.close()

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(ask, bodies))
    return len(bodies) / (time.perf_counter() - start)


def ours(endpoint: Endpoint, prompts: Sequence[Prompt]) -> float:
    """Answers a second of the answerer, encoding of recordings included."""
    start = time.perf_counter()
    assert len(dict(endpoint.generate(prompts, 1))) == len(prompts)
    return len(prompts) / (time.perf_counter() - start)


def throughput(url: str, model: str, options: Any) -> list[str]:
    """Print the rates of both clients; return a complaint if ours is too slow."""
    prompts = prompts_of(options.questions, options.seconds)
    endpoint = Endpoint(model, url, options.tokens, settings=EndpointSettings())
    bodies = [endpoint.request(prompt) for prompt in prompts]
    bare(url, bodies[:4], 2)  # the server loads the model
    rates: dict[int, list[float]] = {threads: [] for threads in options.threads}
    mine = []
    for _ in range(options.rounds):
        mine.append(ours(endpoint, prompts))
        for threads, found in rates.items():
            found.append(bare(url, bodies, threads))
    best = {threads: float(np.median(found)) for threads, found in rates.items()}
    print("bare client, answers a second by threads:", {key: round(value, 2) for key, value in best.items()})
    ratio = float(np.median(mine)) / max(best.values())
    print(
        f"alm eval: {np.median(mine):.2f} answers a second, {ratio:.2f} of the best bare client (aim {_AIM})"
    )
    return [] if ratio >= _AIM else [f"{ratio:.2f} of the bare client's rate"]


class Evaluation:
    """One evaluation, in forks of this process, which has imported everything already.

    Args:
        model: What is asked.
        out: Folder of its predictions and scores.
        options: Overrides of its settings.
    """

    def __init__(self, model: str, out: Path, options: Sequence[str]) -> None:
        self.model, self.out, self.options = model, out, list(options)
        self._process: Any = None

    def start(self) -> None:
        """Start the evaluation, or resume it."""
        self._process = multiprocessing.get_context("fork").Process(target=self._run)
        self._process.start()

    def _run(self) -> None:
        with open(os.devnull, "w") as nowhere:  # its progress, once for each control and each kill
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        run_benchmark("manifest", self.model, self.out, self.options)

    def wait(self) -> int:
        """Wait for the end; returns the exit code, negative for a signal."""
        self._process.join()
        code: int = self._process.exitcode
        return code

    def n_lines(self) -> int:
        """Answers in the predictions file."""
        path = self.out / "predictions.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def lines(self) -> dict[tuple[str, str], str]:
        """What was answered, by question and control."""
        found = read_predictions(self.out / "predictions.jsonl")
        return {(line["id"], line["control"]): line["prediction"] for line in found}

    def scores(self) -> tuple[Any, Any]:
        """Scores with their intervals, and the gaps between controls."""
        scores = json.loads((self.out / "scores.json").read_text())
        return scores["arms"], scores["gaps"]

    def kill(self, sent: signal.Signals, at: int, after_s: float) -> bool:
        """Send a signal some time after a number of answers; returns False if the evaluation ended before."""
        while self._process.is_alive() and self.n_lines() < at:
            time.sleep(0.01)
        self._process.join(after_s)
        alive: bool = self._process.is_alive()
        if alive:
            os.kill(self._process.pid, sent)
        return alive


def differences(found: Evaluation, expected: Evaluation) -> list[str]:
    """What two finished evaluations of the same questions do not share."""
    mine, theirs = found.lines(), expected.lines()
    unequal = sum(mine.get(key) != text for key, text in theirs.items())
    print(f"answers: {len(theirs) - unequal} of {len(theirs)} equal to the directory's")
    wrong = [f"{unequal} answers differ"] if unequal else []
    wrong += [] if set(mine) == set(theirs) else ["other questions were asked"]
    for name, one, other in zip(("scores", "gaps"), found.scores(), expected.scores(), strict=True):
        wrong += [] if one == other else [f"{name} differ"]
    return wrong


class Relay:
    """Hands requests on to a server, and counts them."""

    def __init__(self, url: str) -> None:
        self.to, self.n_asked = urlsplit(url), 0
        self._lock = threading.Lock()

    def count(self) -> int:
        """Requests so far."""
        return self.n_asked

    @contextmanager
    def open(self) -> Iterator[str]:
        """Its own address."""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with outer._lock:
                    outer.n_asked += 1
                status, content = outer._ask(self.path, body)
                try:
                    self.send_response(status)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content)
                except ConnectionError:  # the caller was killed
                    self.close_connection = True

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # the caller was killed

        server = Server(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}{self.to.path}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    def _ask(self, path: str, body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.to.hostname or "", self.to.port, timeout=600)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


def kills(
    evaluation: Evaluation, n_asked: Callable[[], int], lost_at_most: int, n_kills: int, total: int, seed: int
) -> list[str]:
    """Kill an evaluation at random moments, and run it to its end.

    Args:
        evaluation: One that has not begun.
        n_asked: Tells how many questions the model was asked so far.
        lost_at_most: Questions that may be under way when it is killed.
        n_kills: How often it is killed.
        total: Number of answers of the whole evaluation.
        seed: Seed of the moments.
    """
    chance = random.Random(seed)
    moments = sorted(chance.sample(range(total - 2), n_kills))
    wrong, done, asked_again = [], [], 0
    for at in [*moments, None]:
        before, asked = evaluation.n_lines(), n_asked()
        kept = evaluation.lines() if before else {}
        evaluation.start()
        if at is not None:
            sent = chance.choice(_SIGNALS)
            done += [sent.name] * evaluation.kill(sent, at, chance.uniform(0, 0.3))
        code = evaluation.wait()
        if at is None and code != 0:
            wrong.append(f"exit code {code}")
        lines, new_asked = evaluation.n_lines(), n_asked() - asked
        now = evaluation.lines() if lines else {}
        if any(now.get(key) != text for key, text in kept.items()):
            wrong.append("an answer was lost")
        if len(now) != lines:
            wrong.append("a question has two answers")
        again = new_asked - (lines - before)
        asked_again += again
        if again > (lost_at_most if at is not None else 0):
            wrong.append(f"{again} questions asked that got no line")
    counts = {name: done.count(name) for name in sorted(set(done))}
    print(
        f"kills: {len(done)} {counts}, {evaluation.n_lines()} of {total} answers, {n_asked()} questions asked, of them "
        f"{asked_again} that were under way at a kill"
    )
    return wrong + ([] if len(done) == n_kills else [f"only {len(done)} of {n_kills} kills came in time"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a model's directory")
    parser.add_argument("--data", required=True, help="a manifest of questions")
    kinds = ("transformers-serve", "vllm-serve")
    parser.add_argument("--servers", nargs="+", choices=kinds, default=["transformers-serve"])
    parts = ("answers", "kills", "throughput")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--vllm-python", default=sys.executable)
    parser.add_argument("--limit", type=int, default=40, help="records of the manifest")
    parser.add_argument("--kills", type=int, default=10, help="number of kills of each evaluation")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments of the kills")
    parser.add_argument(
        "--questions", type=int, default=48, help="number of questions that measure the throughput"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="length of their recordings")
    parser.add_argument("--tokens", type=int, default=16, help="longest answer")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)  # threads do not survive a fork
    print("\n".join(machine()), flush=True)
    settings = [f"data={options.data}", f"limit={options.limit}", f"max_new_tokens={options.tokens}"]
    careful = [*settings, f"endpoint.requests={UNDER_WAY}"]
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        local = Evaluation(options.model, here / "local", settings)
        if {"answers", "kills"} & set(options.parts):
            local.start()
            if local.wait():
                raise RuntimeError("the evaluation of the directory failed")
            total = local.n_lines()
            arms, gaps = local.scores()
            print(
                f"directory: {total} answers, {len(set(local.lines().values()))} different; {len(gaps)} gaps"
            )
            print({name: arm["scores"]["qa/overall"] for name, arm in arms.items()}, flush=True)
        if "kills" in options.parts:
            log = here / "asked"
            log.touch()
            file = here / "counted.py"
            file.write_text(_COUNTED.format(folder=str(Path(options.model).resolve()), log=str(log)))
            print("\n== local", flush=True)
            counted = Evaluation(str(file), here / "counted", [*settings, "batch_size=4"])
            found = kills(
                counted, lambda: log.read_bytes().count(b"\n"), 4, options.kills, total, options.seed
            )
            wrong += [f"local: {text}" for text in (*found, *differences(counted, local))]
        for kind in options.servers:
            print(f"\n== {kind}", flush=True)
            more = [] if kind != "vllm-serve" else [options.vllm_python]
            with running(kind, options.model, more, here / f"{kind}.log") as server:
                said = []
                if "answers" in options.parts:
                    served = Evaluation(f"openai:{server.model}@{server.url}", here / kind, settings)
                    served.start()
                    said += [f"exit code {code}"] if (code := served.wait()) else differences(served, local)
                if "kills" in options.parts:
                    relay = Relay(server.url)
                    with relay.open() as url:
                        killed = Evaluation(f"openai:{server.model}@{url}", here / f"{kind}-killed", careful)
                        said += kills(killed, relay.count, 2 * UNDER_WAY, options.kills, total, options.seed)
                        said += differences(killed, local)
                if "throughput" in options.parts:
                    said += throughput(server.url, server.model, options)
                wrong += [f"{kind}: {text}" for text in said]
    print("\n" + "\n".join(wrong or ["everything as it must be"]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
