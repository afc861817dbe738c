"""Loss over 150,000 words: the LLM's head at supervised positions, in chunks, against its logits everywhere.

python benchmarks/lm_head.py
"""

from __future__ import annotations

import argparse
import statistics
import time
import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, Qwen2Config

from alm.head import causal_lm_loss


class LogitsMemory(TorchDispatchMode):
    """Peak bytes alive at once in tensors that have the vocabulary as an axis, the head's own weight excepted."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        self.alive: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor.ndim >= 2 and tensor.shape[-1] == self.vocab_size:
                self._watch(tensor)
        return out

    def _watch(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self.alive:
            self.alive[key] = storage.nbytes()
            weakref.finalize(storage, self.alive.pop, key, None)
            self.peak = max(self.peak, sum(self.alive.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocabulary", type=int, default=150_000)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=160, help="prompt with audio and answer, in tokens")
    parser.add_argument("--answer", type=int, default=24, help="supervised tokens per sample")
    parser.add_argument("--chunk", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    llm = AutoModelForCausalLM.from_config(
        Qwen2Config(
            vocab_size=options.vocabulary,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        ),  # fmt: skip
        trust_remote_code=False,
    )
    llm.get_input_embeddings().weight.requires_grad_(
        False
    )  # so that only logits have the vocabulary as an axis
    ids = torch.randint(0, options.vocabulary, (options.batch, options.length))
    labels = ids.clone()
    labels[:, : -options.answer] = -100

    def everywhere() -> torch.Tensor:
        return llm(input_ids=ids, labels=labels).loss

    def supervised() -> torch.Tensor:
        return causal_lm_loss(llm, labels, chunk=0, input_ids=ids).loss

    def chunked() -> torch.Tensor:
        return causal_lm_loss(llm, labels, chunk=options.chunk, input_ids=ids).loss

    sides = {"everywhere": everywhere, "supervised": supervised, f"chunks of {options.chunk}": chunked}
    peaks, times, losses, gradients = {}, {name: [] for name in sides}, {}, {}
    for name, side in sides.items():
        llm.zero_grad()
        with LogitsMemory(options.vocabulary) as memory:
            loss = side()
            loss.backward()
        peaks[name], losses[name] = memory.peak, loss.item()
        gradients[name] = torch.cat([p.grad.flatten() for p in llm.parameters() if p.grad is not None])
        del loss
    for _ in range(options.rounds):
        for name, side in sides.items():
            start = time.process_time()
            side().backward()
            times[name].append(time.process_time() - start)
    whole, usual = peaks["everywhere"], statistics.median(times["everywhere"])
    for name in sides:
        taken = statistics.median(times[name])
        gap = (gradients[name] - gradients["everywhere"]).abs().max()
        print(
            f"{name:14s} peak logits {peaks[name] / 2**20:7.0f} MiB ({peaks[name] / whole:.2f}x)  "
            f"{taken:.2f} s ({taken / usual:.2f}x)  loss {losses[name]:.6f}, its difference "
            f"{abs(losses[name] - losses['everywhere']):.1e}; gradients' {gap:.1e} of {gradients[name].abs().max():.1e}"
        )


if __name__ == "__main__":
    main()
