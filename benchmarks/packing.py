"""Supervised tokens per second on samples of mixed length: padded, grouped by length, packed.

    python benchmarks/packing.py [--rounds 5]

Forward and backward passes of an audio-language model (Llama, 4 layers, 256 wide, random weights) over the same
samples in batches of 16, rounds of the three ways alternating in one process; medians are compared. Clips of 1 to 30
seconds and answers of 2 to 250 words, both log-uniform: one-word answers about short clips beside long descriptions.
"""

import argparse
import statistics
import sys
import time

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alm.model import AudioLanguageModel
from encoders import encoder_class
from train.data.order import SampleOrder
from train.tune.packing import pack

N_SAMPLES, BATCH, VOCABULARY, AUDIO_HZ = 96, 16, 4000, 6.25
PROMPT_TOKENS = 20


def samples() -> list[tuple[list[int], list[int]]]:
    """Token ids and labels. Token ids also stand in for audio, because padding costs time in the LLM alone."""
    rng = np.random.default_rng(0)
    out = []
    for _ in range(N_SAMPLES):
        audio = int(AUDIO_HZ * np.exp(rng.uniform(np.log(1), np.log(30))))
        answer = int(1.3 * np.exp(rng.uniform(np.log(2), np.log(250))))
        ids = rng.integers(5, VOCABULARY, audio + PROMPT_TOKENS + answer).tolist()
        out.append((ids, [-100] * (audio + PROMPT_TOKENS) + ids[-answer:]))
    return out


def padded(rows: list[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
    width = max(len(ids) for ids, _ in rows)

    def column(values: list[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([value + [fill] * (width - len(value)) for value in values])

    return {
        "input_ids": column([ids for ids, _ in rows], 0),
        "attention_mask": column([[1] * len(ids) for ids, _ in rows], 0),
        "labels": column([labels for _, labels in rows], -100),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=704, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
    )  # fmt: skip
    model = AudioLanguageModel.assemble(encoder_class("audiomosaic").tiny(), LlamaForCausalLM(config), "mlp")
    model.config.audio_token_id = VOCABULARY  # no placeholder in these prompts
    model.llm.requires_grad_(True)
    rows = samples()
    lengths = np.array([len(ids) for ids, _ in rows])
    orders = {"padded": SampleOrder([N_SAMPLES]), "packed": SampleOrder([N_SAMPLES])}
    orders["grouped"] = SampleOrder([N_SAMPLES], None, lambda _: lengths, BATCH)
    batches = {
        name: [padded([rows[i] for i in part]) for part in order(0, 0).reshape(-1, BATCH)]
        for name, order in orders.items()
    }
    batches["packed"] = [pack(batch, 0)[0] for batch in batches["packed"]]
    supervised = sum(sum(label != -100 for label in labels) for _, labels in rows)
    times: dict[str, list[float]] = {name: [] for name in batches}
    losses = {}
    for _ in range(arguments.rounds):
        for name, parts in batches.items():
            started, total = time.perf_counter(), 0.0
            for batch in parts:
                model.zero_grad()
                loss = model(**batch).loss
                loss.backward()
                total += float(loss.detach()) * int((batch["labels"] != -100).sum()) / supervised
            times[name].append(time.perf_counter() - started)
            losses[name] = total
    base = statistics.median(times["padded"])
    for name, seconds in times.items():
        median = statistics.median(seconds)
        computed = sum(batch["input_ids"].numel() for batch in batches[name])
        print(
            f"{name:<8}{supervised / median:8.0f} supervised tokens/s   ratio {base / median:.2f}   "
            f"{computed} positions for {lengths.sum()} tokens   loss {losses[name]:.6f}"
        )
    ratio = base / statistics.median(times["packed"])
    print(f"packed / padded: {ratio:.2f} (at least 1.5: {'ok' if ratio >= 1.5 else 'MISSED'})")
    return int(ratio < 1.5 or abs(losses["packed"] - losses["padded"]) > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
