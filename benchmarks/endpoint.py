"""The endpoint answerer against a bare concurrent client: how much of the best throughput of a server it reaches.

`python -m benchmarks.endpoint URL MODEL` asks a running server (`transformers serve`, vLLM) the same questions in turn
by `alm eval`'s answerer and by a bare client, which holds the ready requests and asks with each number of threads of
`--threads`. The ratio is that of ours and the best bare rate.
"""

from __future__ import annotations

import argparse
import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import numpy as np

from benchmarks.measure import machine
from eval.models import Prompt
from eval.models.endpoint import Endpoint, EndpointSettings


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url", help="up to and with /v1")
    parser.add_argument("model")
    parser.add_argument("--questions", type=int, default=48)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a recording")
    parser.add_argument("--tokens", type=int, default=16, help="longest answer")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 4, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print("\n".join(machine()))
    prompts = prompts_of(options.questions, options.seconds)
    endpoint = Endpoint(options.model, options.url, options.tokens, settings=EndpointSettings())
    bodies = [endpoint.request(prompt) for prompt in prompts]
    bare(options.url, bodies[:4], 2)  # the server loads the model
    rates: dict[int, list[float]] = {threads: [] for threads in options.threads}
    mine = []
    for _ in range(options.rounds):
        mine.append(ours(endpoint, prompts))
        for threads, found in rates.items():
            found.append(bare(options.url, bodies, threads))
    best = {threads: float(np.median(found)) for threads, found in rates.items()}
    print("bare client, answers a second by threads:", {key: round(value, 2) for key, value in best.items()})
    ratio = float(np.median(mine)) / max(best.values())
    print(f"ours: {np.median(mine):.2f} answers a second, {ratio:.2f} of the best bare client (aim 0.90)")


if __name__ == "__main__":
    main()
