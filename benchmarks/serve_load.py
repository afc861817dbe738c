"""Load on `alm serve`: many clients for some seconds, with slow readers, callers who leave and large uploads.

Counts errors, watches the server's memory, and compares its throughput with `generate_answers` in batches. It ends by
itself. `python -m benchmarks.serve_load MODEL --clients 64 --seconds 120`
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import subprocess
import sys
import time
from collections import Counter

import numpy as np
import openai
import psutil
import soundfile

from alm.common.processes import child_environment, tied_child_command

RATE_HZ = 16000
N_TOKENS = 16


def clip(seconds: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (0.1 * rng.standard_normal(round(RATE_HZ * seconds))).astype(np.float32)


def message(wave: np.ndarray, kind: str = "FLAC") -> dict[str, object]:
    file = io.BytesIO()
    soundfile.write(file, wave, RATE_HZ, format=kind)
    data = base64.b64encode(file.getvalue()).decode()
    return {
        "role": "user",
        "content": [
            {"type": "input_audio", "input_audio": {"data": data, "format": kind.lower()}},
            {"type": "text", "text": "What is this?"},
        ],
    }


async def client(
    number: int, url: str, model: str, end: float, messages: list[dict[str, object]], counts: Counter[str]
) -> None:
    """One caller: most answers whole, some streamed, read slowly, left in the middle, or to a large upload."""
    choose = random.Random(number)
    async with openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0, timeout=300) as api:
        while time.monotonic() < end:
            way = choose.choices(("whole", "stream", "slow", "leave", "large"), (60, 30, 4, 4, 2))[0]
            sent = messages[-1] if way == "large" else choose.choice(messages[:-1])
            try:
                made = await api.chat.completions.create(
                    model=model,
                    messages=[sent],
                    max_tokens=N_TOKENS,
                    stream=way in ("stream", "slow", "leave"),
                )
                if way in ("whole", "large"):
                    counts["tokens"] += made.usage.completion_tokens
                else:
                    finished = False
                    async for chunk in made:
                        if way == "leave":
                            await made.close()
                            break
                        if way == "slow":
                            await asyncio.sleep(0.3)
                        finished = finished or chunk.choices[0].finish_reason is not None
                    if way != "leave" and not finished:
                        counts["unfinished"] += 1
                counts[way] += 1
            except openai.APIStatusError as error:
                counts[f"error {error.status_code}"] += 1
            except openai.APIError as error:
                counts[f"error {type(error).__name__}"] += 1


async def watch(process: psutil.Process, end: float, seen: list[tuple[float, float]], start: float) -> None:
    """Memory of the server in MiB, each second."""
    while time.monotonic() < end:
        seen.append((time.monotonic() - start, process.memory_info().rss / 2**20))
        await asyncio.sleep(1)


async def load(
    url: str, name: str, pid: int, n_clients: int, seconds: float
) -> tuple[Counter[str], list[tuple[float, float]], float]:
    messages = [message(clip(0.5 + 0.25 * i, i)) for i in range(8)]
    messages.append(message(clip(230, 99), "WAV"))  # 7.4 MB, 9.8 MB as base64
    counts: Counter[str] = Counter()
    seen: list[tuple[float, float]] = []
    start = time.monotonic()
    end = start + seconds
    await asyncio.gather(
        watch(psutil.Process(pid), end, seen, start),
        *(client(i, url, name, end, messages, counts) for i in range(n_clients)),
    )
    return counts, seen, time.monotonic() - start


def batched(model_dir: str, n: int) -> float:
    """Answers a second of `generate_answers` over the same clips, in batches of 16."""
    from alm.checkpoint import load_model, load_processor
    from alm.generation import generate_answers

    model, processor = load_model(model_dir), load_processor(model_dir)
    clips = [[clip(0.5 + 0.25 * (i % 8), i % 8)] for i in range(n)]
    turns = [{"role": "user", "content": f"{processor.audio_token}What is this?"}]
    list(generate_answers(model, processor, [turns] * 16, clips[:16], N_TOKENS))
    start = time.monotonic()
    list(generate_answers(model, processor, [turns] * n, clips, N_TOKENS))
    return n / (time.monotonic() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--engine", default="transformers")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=120)
    arguments = parser.parse_args()
    ask_rate = batched(arguments.model, 256)
    server = subprocess.Popen(
        tied_child_command("alm", "serve", arguments.model, "--port", "0", "--engine", arguments.engine),
        env=child_environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = server.stdout.readline().split()  # serving NAME at URL
        counts, seen, took = asyncio.run(
            load(line[3], line[1], server.pid, arguments.clients, arguments.seconds)
        )
    finally:
        server.terminate()
        code = server.wait()
    warm = [mib for at, mib in seen if at >= took / 4]
    third = max(1, len(warm) // 3)
    errors = {key: n for key, n in counts.items() if key.startswith("error") or key == "unfinished"}
    answered = sum(counts[way] for way in ("whole", "stream", "slow", "large"))
    report = {
        "requests": {way: counts[way] for way in ("whole", "stream", "slow", "leave", "large")},
        "errors": errors,
        "answers_per_s": round(answered / took, 1),
        "batched_ask_per_s": round(ask_rate, 1),
        "memory_mib_first_third": round(float(np.median(warm[:third])), 1),
        "memory_mib_last_third": round(float(np.median(warm[-third:])), 1),
        "memory_mib_most": round(max(mib for _, mib in seen), 1),
        "exit_code": code,
    }
    print(json.dumps(report, indent=2))
    return 1 if errors or code else 0


if __name__ == "__main__":
    sys.exit(main())
