"""How much faster choices are ranked with a shared prompt than with one whole pass per choice.

`python benchmarks/ranking.py` runs both sides in turn in one process, on a random model, and prints the ratio of the
medians. Both sides take batches of the same number of rows.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class
from eval.models.likelihood import rank_choices


def naive(model, processor, conversations, audios, choices, batch_size):
    """Every choice with its whole prompt and audio, as scorers without a shared prefix do."""
    rows = [(i, text) for i, given in enumerate(choices) for text in given]
    found = [[] for _ in choices]
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        turns = [[*conversations[i], {"role": "assistant", "content": text}] for i, text in part]
        # Copies: the processor would notice that rows share a clip.
        clips = [[clip.copy() for clip in audios[i]] for i, _ in part]
        batch = processor.apply_chat_template(
            turns, audio=clips, tokenize=True, return_dict=True, output_labels=True
        )
        labels = batch.pop("labels")[:, 1:]
        with torch.inference_mode():
            logits = model(**batch).logits[:, :-1].float().log_softmax(-1)
        said = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        sums = (said * (labels != -100)).sum(-1) / (labels != -100).sum(-1)
        for (i, _), total in zip(part, sums.tolist(), strict=True):
            found[i].append(total)
    return found


def build(folder):
    """A random model with a byte tokenizer, and its processor."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>"]
    tokenizer.train_from_iterator(
        ["the sound of a dog"],
        trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    config = LlamaConfig(
        vocab_size=1000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=2048,
    )  # fmt: skip
    torch.manual_seed(0)
    llm_dir = Path(folder) / "llm"
    LlamaForCausalLM(config).save_pretrained(llm_dir)
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(),
        LlamaForCausalLM.from_pretrained(llm_dir, trust_remote_code=False),
        "mlp",
        llm_source=str(llm_dir),
    )
    return model.eval(), build_processor(fast, model)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--choices", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        model, processor = build(folder)
        n_samples = int(arguments.seconds * processor.sample_rate)
        audios = [
            [rng.standard_normal(n_samples).astype(np.float32) * 0.1] for _ in range(arguments.questions)
        ]
        conversations = [
            [{"role": "user", "content": "<|audio|>which of these sounds is it"}]
        ] * arguments.questions
        choices = [[f"the sound of thing {i}" for i in range(arguments.choices)]] * arguments.questions
        times = {"shared": [], "naive": []}
        for _ in range(arguments.repeats):
            start = time.perf_counter()
            shared = {
                i: s
                for i, _, s in rank_choices(model, processor, conversations, audios, choices, batch_size=8)
            }
            times["shared"].append(time.perf_counter() - start)
            start = time.perf_counter()
            whole = naive(model, processor, conversations, audios, choices, 8)
            times["naive"].append(time.perf_counter() - start)
        worst = max(abs(a - b) for i in shared for a, b in zip(shared[i], whole[i], strict=True))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"{arguments.questions} questions with {arguments.choices} choices, {arguments.seconds:g} s of audio"
    )
    print(f"shared prompt {medians['shared']:.3f} s, one pass per choice {medians['naive']:.3f} s")
    print(f"ratio {medians['naive'] / medians['shared']:.2f}, scores differ by at most {worst:.1e}")


if __name__ == "__main__":
    main()
