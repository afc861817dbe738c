"""Answers of one model by vLLM and by our batched `generate_answers`: whether they are equal, and how many a second.

    python -m benchmarks.serving MODEL [--audio FOLDER]

Needs vLLM (docs/serving.md). Both sides answer the same questions in one process, in turn, with the same threads and
the same number of prompts under way, in float32; every round encodes all clips anew. Equality is of whole answers; the
speed is that of answers with a fixed number of tokens, which no side may end early.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import alm
from alm.generation import generate_answers
from benchmarks.measure import alternate, arguments, machine, spread
from encoders.audio import load_audio
from encoders.audio.formats import search

QUESTION = "What do you hear?"
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}


def noises(count: int, rate: int) -> list[np.ndarray]:
    """Tones in noise from 0.3 to 12 s, in mixed order."""
    rng = np.random.default_rng(0)
    found = []
    for seconds in rng.permutation(np.geomspace(0.3, 12, count)):
        time = np.arange(round(rate * seconds)) / rate
        tone = np.sin(2 * np.pi * rng.uniform(100, 6000) * time)
        found.append((0.3 * tone + 0.03 * rng.standard_normal(len(time))).astype(np.float32))
    return found


class Served:
    """A model in vLLM's engine.

    Args:
        model: Its directory.
        under_way: Most prompts under way.
        max_model_len: Most tokens of a prompt and its answer.
    """

    def __init__(self, model: Path, under_way: int, max_model_len: int) -> None:
        for key, value in _SETTINGS.items():
            os.environ.setdefault(key, value)
        from vllm import LLM

        from alm.serving.vllm import register

        register()
        self.llm = LLM(
            str(model),
            dtype="float32",
            enforce_eager=True,
            max_model_len=max_model_len,
            max_num_seqs=under_way,
        )

    def answer(
        self, prompts: Sequence[list[int]], clips: Sequence[np.ndarray], n_tokens: int, *, fixed: bool
    ) -> list[str]:
        """Greedy answers to prompts with one clip each; nothing is left from the last call."""
        from vllm import SamplingParams

        self.llm.reset_prefix_cache()
        self.llm.llm_engine.reset_mm_cache()
        self.llm.llm_engine.reset_encoder_cache()
        requests = [
            {"prompt_token_ids": ids, "multi_modal_data": {"audio": [clip]}}
            for ids, clip in zip(prompts, clips, strict=True)
        ]
        settings = SamplingParams(temperature=0, max_tokens=n_tokens, ignore_eos=fixed)
        return [out.outputs[0].text.strip() for out in self.llm.generate(requests, settings, use_tqdm=False)]


def main(argv: Sequence[str] | None = None) -> int:
    """Compare the answers, time both sides, print what came out; 1 where an answer differs."""
    parser = arguments(__doc__)
    parser.set_defaults(threads=2)
    parser.add_argument("model", type=Path)
    parser.add_argument("--audio", type=Path, help="a folder of recordings (default: tones in noise)")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--question", default=QUESTION)
    parser.add_argument("--under-way", type=int, default=16, help="prompts of a batch, and under way in vLLM")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a timed answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-model-len", type=int, default=512)
    options = parser.parse_args(argv)
    count, rounds = (4, 1) if options.quick else (options.clips, options.rounds)
    about = machine()
    served = Served(options.model, options.under_way, options.max_model_len)
    model, processor = alm.load(options.model, device="cpu")
    model.float()
    rate = processor.sample_rate
    if options.audio is None:
        clips = noises(count, rate)
    else:
        files = search(options.audio).audio
        picked = files[:: max(1, len(files) // count)][:count]
        clips = [load_audio(file, rate) for file in picked]
    turns: list[Any] = [{"role": "user", "content": f"{processor.audio_token}{options.question}"}]
    prompts = [processor.prompt_ids(turns, [clip]) for clip in clips]

    def ours(n_tokens: int, **settings: Any) -> list[str]:
        torch.set_num_threads(options.threads)
        rows = [turns] * len(clips)
        answers = generate_answers(
            model, processor, rows, [[clip] for clip in clips], n_tokens, options.under_way, **settings
        )
        return [text for _, text in sorted(answers)]

    def theirs(n_tokens: int, fixed: bool) -> list[str]:
        torch.set_num_threads(options.threads)
        return served.answer(prompts, clips, n_tokens, fixed=fixed)

    expected = ours(options.tokens)
    together = theirs(options.tokens, False)
    alone = [
        served.answer([ids], [clip], options.tokens, fixed=False)[0]
        for ids, clip in zip(prompts, clips, strict=True)
    ]
    equal = [sum(map(str.__eq__, expected, found)) for found in (together, alone)]
    timed = alternate(
        lambda: theirs(options.tokens, True),
        lambda: ours(options.tokens, eos_token_id=None),
        rounds,
        warm_up=False,
    )
    seconds = [len(clip) / rate for clip in clips]
    print("\n".join(about))
    print(
        f"{count} clips of {min(seconds):.1f} to {max(seconds):.1f} s, {len(set(expected))} different answers; "
        f"equal to ours: {equal[0]} with {options.under_way} under way, {equal[1]} alone"
    )
    print(
        f"{options.tokens} tokens to each clip, {options.under_way} under way: vLLM {spread(timed.ours, 1, 's')}, "
        f"batched generate_answers {spread(timed.reference, 1, 's')}"
    )
    print(
        f"answers a second: vLLM {count / sorted(timed.ours)[len(timed.ours) // 2]:.2f}, ours "
        f"{count / sorted(timed.reference)[len(timed.reference) // 2]:.2f}; vLLM is {timed} as fast"
    )
    return 0 if equal == [count, count] else 1


if __name__ == "__main__":
    sys.exit(main())
