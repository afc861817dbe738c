"""Answering: batches against one clip at a time, many questions about one clip, memory for long audio.

python benchmarks/generation.py
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alm.generation import generate_answers
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders.zoo.audiomosaic.config import AudioMosaicConfig
from encoders.zoo.audiomosaic.model import AudioMosaicEncoder


def small_model() -> tuple[Any, Any]:
    """A random model of the quickstart's size: encoder of 2 layers, LLM of 4, both 96 wide."""
    torch.manual_seed(0)
    words = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    bpe = Tokenizer(models.BPE(vocab={**words, "<pad>": 256, "</s>": 257}, merges=[]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="</s>")
    encoder = AudioMosaicEncoder(AudioMosaicConfig(embed_dim=96, depth=2, num_heads=4, spec_size=(512, 128)))
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=600,
            hidden_size=96,
            intermediate_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            max_position_embeddings=8192,
            pad_token_id=256,
            eos_token_id=None,
        )  # fmt: skip
    )
    model = AudioLanguageModel.assemble(encoder, llm, "pool").eval()
    return model, build_processor(tokenizer, model)


def noise(seconds: float, seed: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(16000 * seconds))).astype(np.float32)


def alternate(ours: Callable[[], object], other: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median seconds of both sides, run in turn."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for side, work in enumerate((ours, other)):
            start = time.process_time()
            work()
            times[side].append(time.process_time() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def peak_mib(seconds: float) -> float:
    """Peak resident memory of a process that answers a question about a clip, in MiB above loading the model."""
    model, processor = small_model()
    answer(model, processor, [noise(2, 0)], 1)  # everything imported and warm
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer(model, processor, [noise(seconds, 0)], 1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{before / 1024:.0f} {after / 1024:.0f}")
    return after / 1024


def answer(
    model: Any, processor: Any, clips: list[np.ndarray], batch_size: int, question: str = "what"
) -> dict:
    turns = [[{"role": "user", "content": f"{processor.audio_token}{question}"}]] * len(clips)
    return dict(
        generate_answers(model, processor, turns, [[c] for c in clips], 16, batch_size, eos_token_id=None)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak-of", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak_of:
        peak_mib(options.peak_of)
        return
    model, processor = small_model()
    lengths = np.random.default_rng(0).uniform(1, 10, options.clips)
    clips = [noise(s, i) for i, s in enumerate(lengths)]
    assert answer(model, processor, clips[:20], 16) == answer(model, processor, clips[:20], 1)
    batched, single = alternate(
        lambda: answer(model, processor, clips, 16),
        lambda: answer(model, processor, clips, 1),
        options.rounds,
    )
    print(f"{options.clips} clips of 1 to 10 s: batches of 16 {batched:.2f} s, one by one {single:.2f} s: "
          f"{single / batched:.2f}x (aim 4x)")  # fmt: skip
    clip, questions = noise(10, 0), [f"question {i}" for i in range(10)]
    turns = [[{"role": "user", "content": f"{processor.audio_token}{q}"}] for q in questions]

    def together() -> None:
        dict(generate_answers(model, processor, turns, [[clip]] * 10, 16, eos_token_id=None))

    def apart() -> None:
        for question in questions:
            answer(model, processor, [clip], 1, question)

    once, ten = alternate(together, apart, options.rounds)
    print(f"ten questions about a clip: {once:.2f} s, ten calls {ten:.2f} s: {ten / once:.2f}x (aim 3x)")
    peaks = {}
    for seconds in (60, 600):
        command = [sys.executable, "-m", "benchmarks.generation", "--peak-of", str(seconds)]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[seconds] = [float(x) for x in out.split()[-2:]]
    print(f"peak memory of the process: {peaks[60][1]:.0f} MiB for 1 min, {peaks[600][1]:.0f} MiB for 10 min: "
          f"{peaks[600][1] / peaks[60][1]:.2f}x (aim 1.5x at most)")  # fmt: skip


if __name__ == "__main__":
    main()
