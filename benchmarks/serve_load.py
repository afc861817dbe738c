"""Load on servers of one model: throughput against batched answers, then many clients of all manners.

    python -m benchmarks.serve_load MODEL [--servers transformers vllm transformers-serve]

`transformers` and `vllm` are the engines of `alm serve`; `transformers-serve` is the server of that name. In one run:

- throughput: the same questions to every server by many clients at once, and to `generate_answers` in batches, before
  and after each server; both give the same answers, or the run fails;
- load, on `alm serve`: clients that take whole answers or streams, read slowly, leave in the middle, or upload 10 MB;
  it counts errors, and watches the memory of the server and its children;
- the end, on `alm serve`: SIGTERM while clients read a stream (every stream finishes or says why not, exit code 0), and
  for vLLM a killed engine (every stream says so, exit code 2).

Every part has a time limit, and the run ends by itself; the exit code is 1 if any of this fails.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import openai
import psutil
import soundfile

from alm.common.processes import child_environment, tied_child_command
from alm.common.text import markdown_table
from benchmarks.measure import machine
from encoders.audio import load_audio
from encoders.audio.formats import search

RATE_HZ = 16000
QUESTION = "What is this?"
VLLM_OPTIONS = "--dtype float32 --enforce-eager --max-model-len 512"
_START_S = 300.0
_ENDING_S = 120.0
_REST_S = 15.0  # after the load, until its memory is given back
_MOST_GROWTH = 1.1  # largest memory over the median after the warm-up; large uploads come and go
_WAYS = {"whole": 60, "stream": 30, "slow": 4, "leave": 4, "large": 2}
Clips = list[np.ndarray]


@dataclass(frozen=True)
class Server:
    """A server under test, and the name by which it knows the model."""

    process: subprocess.Popen[str]
    url: str
    model: str


def clip(seconds: float, seed: int) -> np.ndarray:
    """A tone in noise, for answers that differ; as 16-bit files hold it."""
    rng = np.random.default_rng(seed)
    time_s = np.arange(round(RATE_HZ * seconds)) / RATE_HZ
    wave = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 6000) * time_s) + 0.05 * rng.standard_normal(len(time_s))
    return (np.round(wave * 32767) / 32768).astype(np.float32)


def clips_of(folder: Path | None, count: int) -> Clips:
    """Tones in noise, or recordings of a folder, spread over it."""
    if folder is None:
        return [clip(0.5 + 0.25 * (i % 8), i) for i in range(count)]
    files = search(folder).audio
    return [load_audio(file, RATE_HZ) for file in files[:: max(1, len(files) // count)][:count]]


def message(
    wave: np.ndarray, rate_hz: int = RATE_HZ, subtype: str = "PCM_16", question: str = QUESTION
) -> dict[str, object]:
    """A question about a clip."""
    file = io.BytesIO()
    soundfile.write(file, wave, rate_hz, format="WAV", subtype=subtype)
    data = base64.b64encode(file.getvalue()).decode()
    return {
        "role": "user",
        "content": [
            {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
            {"type": "text", "text": question},
        ],
    }


class Asker:
    """What answers in batches, without a server.

    Args:
        model_dir: Directory of the model.
        question: What each clip is asked.
        n_tokens: Longest answer.
    """

    def __init__(self, model_dir: str, question: str, n_tokens: int) -> None:
        from alm.checkpoint import load_model, load_processor

        self.model, self.processor = load_model(model_dir), load_processor(model_dir)
        self.question, self.n_tokens = question, n_tokens

    def answer(self, clips: Sequence[np.ndarray]) -> tuple[list[str], float]:
        """Answers to clips, and how many there were a second."""
        from alm.generation import generate_answers

        turns: list[Any] = [{"role": "user", "content": f"{self.processor.audio_token}{self.question}"}]
        start = time.monotonic()
        found = generate_answers(
            self.model, self.processor, [turns] * len(clips), [[one.copy()] for one in clips], self.n_tokens
        )
        texts = [text for _, text in sorted(found)]
        return texts, len(clips) / (time.monotonic() - start)


@contextmanager
def running(kind: str, model_dir: str, more: Sequence[str], log: Path) -> Iterator[Server]:
    """A server of a kind; ended by force where it did not end before.

    Args:
        kind: `transformers` and `vllm` are engines of `alm serve`; `transformers-serve` and `vllm-serve` are servers of
            these libraries.
        model_dir: The model's directory.
        more: Further words of `alm serve`; for `vllm-serve` its interpreter.
        log: File for what it says.
    """
    settings = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if kind == "transformers-serve":
        # As its console script, which may lie outside of PATH
        code = (
            "import sys; sys.argv[0] = 'transformers'; from transformers.cli.transformers import main; main()"
        )
        command = [sys.executable, "-c", code, "serve", "--host", "127.0.0.1", "--port", str(port), "--device", "cpu",
                   "--trust-remote-code", "--dtype", "float32"]  # fmt: skip
    elif kind == "vllm-serve":
        command = [*more, "-m", "vllm.entrypoints.openai.api_server", "--model", model_dir, *VLLM_OPTIONS.split(),
                   "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    else:
        command = tied_child_command("alm", "serve", model_dir, "--port", "0", "--engine", kind, *more)
    with open(log, "w") as errors:
        process = subprocess.Popen(
            command,
            env=child_environment(settings),
            stdout=errors if kind.endswith("-serve") else subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        if kind.endswith("-serve"):
            if not _healthy(process, port):
                raise RuntimeError(f"{kind} did not start:\n{log.read_text()[-3000:]}")
            yield Server(process, f"http://127.0.0.1:{port}/v1", model_dir)
        else:
            assert process.stdout is not None
            words = process.stdout.readline().split()  # serving NAME at URL
            if len(words) != 4:
                raise RuntimeError(f"{kind} did not start:\n{log.read_text()[-3000:]}")
            yield Server(process, words[3], words[1])
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _healthy(process: subprocess.Popen[str], port: int) -> bool:
    """Wait until a server answers; False if it ends or takes too long."""
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return True
        except OSError:
            time.sleep(0.2)
    return False


@asynccontextmanager
async def clients_of(server: Server, count: int) -> AsyncIterator[list[openai.AsyncOpenAI]]:
    """Clients with connections of their own; making them takes longer than an answer."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=600)
            )
            for _ in range(count)
        ]


async def answers_of(
    server: Server, messages: Sequence[dict[str, object]], n_clients: int, n_tokens: int
) -> tuple[list[str], float]:
    """Answers to questions by many clients at once, and how many there were a second."""
    waiting = list(enumerate(messages))[::-1]
    found: dict[int, str] = {}

    async def client(api: openai.AsyncOpenAI) -> None:
        while waiting:
            number, sent = waiting.pop()
            request: dict[str, Any] = {"model": server.model, "messages": [sent], "max_tokens": n_tokens}
            made = await api.chat.completions.create(**request, temperature=0)
            found[number] = (made.choices[0].message.content or "").strip()

    async with clients_of(server, n_clients) as clients:
        start = time.monotonic()
        await asyncio.gather(*map(client, clients))
        took = time.monotonic() - start
    return [found[i] for i in range(len(messages))], len(messages) / took


async def caller(
    number: int,
    server: Server,
    end: float,
    messages: list[dict[str, object]],
    n_tokens: int,
    counts: Counter[str],
) -> None:
    """One client: most answers whole, some streamed, read slowly, left in the middle, or to a large upload."""
    choose = random.Random(number)
    async with openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=300) as api:
        while time.monotonic() < end:
            way = choose.choices(list(_WAYS), list(_WAYS.values()))[0]
            sent = messages[-1] if way == "large" else choose.choice(messages[:-1])
            request = {"model": server.model, "messages": [sent], "max_tokens": n_tokens}
            try:
                if way in ("whole", "large"):
                    await api.chat.completions.create(**request)
                else:
                    counts["unfinished"] += not await _read(api, request, way)
                counts[way] += 1
            except openai.APIStatusError as error:
                counts[f"error {error.status_code}"] += 1
            except openai.APIError as error:
                counts[f"error {type(error).__name__}"] += 1


async def _read(api: openai.AsyncOpenAI, request: dict[str, Any], way: str) -> bool:
    """Read a stream; returns True if it ended properly, or if this client was to leave it."""
    async with await api.chat.completions.create(**request, stream=True) as stream:
        finished = False
        async for chunk in stream:
            if way == "leave":
                return True
            if way == "slow":
                await asyncio.sleep(0.3)
            finished = finished or chunk.choices[0].finish_reason is not None
    return finished


async def load(
    server: Server, n_clients: int, seconds: float, n_tokens: int
) -> tuple[Counter[str], list[float], float]:
    """Counts of what the clients did, memory of the server in MiB each second, and how long it took."""
    messages = [message(clip(0.5 + 0.25 * i, i)) for i in range(8)]
    large = np.stack([np.resize(clip(1, 99), 96000 * 10)] * 2, axis=1)
    messages.append(message(large, 96000, "FLOAT"))  # 7.7 MB, 10.2 MB as base64
    counts: Counter[str] = Counter()
    seen: list[float] = []
    start = time.monotonic()
    end = start + seconds

    async def watch() -> None:
        while time.monotonic() < end:
            seen.append(await asyncio.to_thread(memory_mib, server.process.pid))
            await asyncio.sleep(1)

    await asyncio.gather(
        watch(), *(caller(i, server, end, messages, n_tokens, counts) for i in range(n_clients))
    )
    return counts, seen, time.monotonic() - start


def memory_mib(pid: int) -> float:
    """Memory of a process and its children that belongs to them alone, in MiB."""
    process = psutil.Process(pid)
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().uss
        except psutil.Error:  # it has ended
            continue
    return total / 2**20


async def end_while_streaming(server: Server, n_clients: int, strike: Callable[[], None]) -> Counter[str]:
    """Count how streams end when `strike` hits the server while some streams are read and others wait."""
    ends: Counter[str] = Counter()
    begun = asyncio.Event()

    async def client(api: openai.AsyncOpenAI, number: int) -> None:
        request: dict[str, Any] = {"model": server.model, "messages": [message(clip(1, number))]}
        reason = None
        try:
            async with await api.chat.completions.create(**request, stream=True, max_tokens=64) as stream:
                async for chunk in stream:
                    begun.set()
                    reason = chunk.choices[0].finish_reason or reason
            ends["finished" if reason else "broken"] += 1
        except openai.APIStatusError as error:
            ends[f"refused {error.status_code}"] += 1
        except Exception as error:  # the openai client does not wrap HTTP errors during a stream
            said = any(words in str(error) for words in ("shutting down", "no answers at present"))
            ends["said why" if said else f"broken {type(error).__name__}"] += 1
        begun.set()

    async with clients_of(server, n_clients) as clients:
        asking = [asyncio.ensure_future(client(api, i)) for i, api in enumerate(clients)]
        await begun.wait()
        await asyncio.to_thread(strike)
        await asyncio.gather(*asking)
    return ends


def _kill_engine(server: Server) -> None:
    """Kill the largest process below vLLM's server: the one that holds the model."""
    below = psutil.Process(server.process.pid).children()[0].children(recursive=True)
    max(below, key=lambda one: one.memory_info().rss).kill()


def _check_end(ends: Counter[str], code: int, wanted: int) -> list[str]:
    wrong = [f"{n} streams {how}" for how, n in ends.items() if how.startswith("broken")]
    return wrong + ([] if code == wanted else [f"exit code {code} instead of {wanted}"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    kinds = ("transformers", "vllm", "transformers-serve")
    parser.add_argument("--servers", nargs="+", choices=kinds, default=["transformers"])
    parts = ("throughput", "load", "end")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--answers", type=int, default=256, help="questions of the throughput")
    parser.add_argument("--audio", type=Path, help="a folder of recordings (default: tones in noise)")
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--tokens", type=int, default=16, help="longest answer")
    parser.add_argument(
        "--seconds", type=float, default=120, help="duration of the mixed load on each engine of alm serve"
    )
    parser.add_argument("--engine-options", default=VLLM_OPTIONS)
    options = parser.parse_args()
    print("\n".join(machine()), flush=True)
    clips = clips_of(options.audio, options.answers)
    messages = [message(one, question=options.question) for one in clips]
    timed = "throughput" in options.parts
    if timed:
        asker = Asker(options.model, options.question, options.tokens)
        expected, _ = asker.answer(clips)  # warm
        before = asker.answer(clips)[1]
    rows: list[tuple[str, ...]] = []
    wrong: list[str] = []

    def run(work: Awaitable[Any]) -> Any:
        return asyncio.run(work)  # type: ignore[arg-type]

    with tempfile.TemporaryDirectory() as logs:
        for kind in options.servers:
            log = Path(logs) / f"{kind}.log"
            more = [] if kind != "vllm" else [f"--engine-options={options.engine_options}"]
            ours = kind != "transformers-serve"
            name = f"`alm serve --engine {kind}`" if ours else "`transformers serve`"
            report: dict[str, Any] = {}
            with running(kind, options.model, more, log) as server:
                run(answers_of(server, messages[: options.clients], options.clients, options.tokens))  # warm
                if timed:
                    found, rate = run(answers_of(server, messages, options.clients, options.tokens))
                    after = asker.answer(clips)[1]
                    ask, before = (before + after) / 2, after
                    equal = sum(map(str.__eq__, found, expected))
                    report |= {"answers a second": round(rate, 1), "batched ask": round(ask, 1)}
                    if equal < len(expected):
                        wrong.append(f"{kind}: {len(expected) - equal} answers differ from generate_answers")
                    rows.append(
                        (
                            name,
                            f"{rate:.1f}",
                            f"{ask:.1f}",
                            f"{rate / ask:.2f}",
                            f"{equal} of {len(expected)}",
                        )
                    )
                if ours and "load" in options.parts:
                    rest_before = memory_mib(server.process.pid)
                    counts, seen, took = run(load(server, options.clients, options.seconds, options.tokens))
                    of_load, problems = _of_load(counts, seen, took)
                    time.sleep(_REST_S)
                    rest_after = memory_mib(server.process.pid)
                    report |= of_load | {
                        "MiB at rest, before and after": [round(rest_before), round(rest_after)]
                    }
                    wrong += [f"{kind}, load: {text}" for text in problems]
                if ours and "end" in options.parts:
                    process = server.process
                    ends = run(end_while_streaming(server, options.clients, process.terminate))
                    code = process.wait(_ENDING_S)
                    report["streams at SIGTERM"] = dict(ends)
                    wrong += [f"{kind}, SIGTERM: {text}" for text in _check_end(ends, code, 0)]
            if kind == "vllm" and "end" in options.parts:
                with running(kind, options.model, more, log) as server:
                    ends = run(end_while_streaming(server, options.clients, partial(_kill_engine, server)))
                    code = server.process.wait(_ENDING_S)
                    report["streams at a killed engine"] = dict(ends)
                    wrong += [f"{kind}, killed engine: {text}" for text in _check_end(ends, code, 2)]
            print(f"{name}: {json.dumps(report)}", flush=True)
    head = (
        "server",
        f"answers a second, {options.clients} clients",
        "batched `ask`",
        "ratio",
        "equal answers",
    )
    if timed:
        print("\n".join(markdown_table(head, rows)))
        print(
            f"{len(set(expected))} different answers of up to {options.tokens} tokens to {len(clips)} clips"
        )
    for text in wrong:
        print(f"WRONG: {text}")
    return 1 if wrong else 0


def _of_load(counts: Counter[str], seen: list[float], took: float) -> tuple[dict[str, Any], list[str]]:
    """The report of the mixed load, and complaints; the first quarter of the time is the warm-up."""
    warm = seen[len(seen) // 4 :]
    third = max(1, len(warm) // 3)
    errors = {key: n for key, n in counts.items() if n and (key.startswith("error") or key == "unfinished")}
    first, last = (float(np.median(part)) for part in (warm[:third], warm[-third:]))
    wrong = [f"{n} times {what}" for what, n in errors.items()]
    if last > _MOST_GROWTH * first:
        wrong.append(f"memory grew from {first:.0f} to {last:.0f} MiB after the warm-up")
    report = {
        "requests": {way: counts[way] for way in _WAYS},
        "errors": errors,
        "requests a second": round(sum(counts[way] for way in _WAYS) / took, 1),
        "MiB in the first third after the warm-up": round(first, 1),
        "MiB in the last third": round(last, 1),
        "MiB at most": round(max(seen), 1),
        "seconds of warm-up": round(took / 4),
        "MiB every five seconds": [round(one) for one in seen[::5]],
    }
    return report, wrong


if __name__ == "__main__":
    sys.exit(main())
