"""Fuzz the files of a model directory: every key of every JSON file, the chat template, the bytes of each file.

A damaged directory must be refused in one line, or load as a model that gives the same logits and answers.
"""

import json
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calls import model_inputs
from fuzzing import Case, corrupted, damaged, fuzz, hostile_value, report
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import alm
from alm.checkpoint import load_llm
from alm.generation import generate_answers
from alm.model import AudioLanguageModel
from alm.policy import LoraOptions, Policy
from alm.processor import build_processor
from encoders import encoder_class

TURNS = [{"role": "user", "content": "<|audio|>what is this"}]
CLIP = (0.3 * np.sin(np.arange(9000) / 20)).astype(np.float32)

# Keys of a model directory that users may edit: another value is accepted and used.
FREE = ("generation_config.json",)
FREE_KEYS = ("max_audio_tokens", "loss_chunk", "llm_bits", "processor_class")
# Keys of the LLM that a model refers to whose values are compared with those at training.
COMPARED = ("config.json", "model.safetensors")


def make_llm(folder: Path) -> None:
    """A tiny LLM with a byte-level tokenizer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(["what is this"], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def make_models(root: Path) -> dict[str, Path]:
    """A model that refers to its LLM, and one that holds it, both with adapters; the second as earlier versions
    saved it, without hashes; the LLM itself.
    """
    make_llm(root / "llm")
    for name, source in (("referring", str(root / "llm")), ("whole", None)):
        torch.manual_seed(0)
        model = AudioLanguageModel.assemble(
            encoder_class("audiomosaic").tiny(), load_llm(str(root / "llm")), "mlp", llm_source=source
        )
        processor = build_processor(AutoTokenizer.from_pretrained(root / "llm"), model)
        model.set_policy(Policy(llm="lora", llm_lora=LoraOptions(r=2)))
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    shutil.copytree(root / "whole", root / "unhashed")
    forget_hashes(root / "unhashed")
    return {name: root / name for name in ("referring", "whole", "unhashed", "llm")}


def forget_hashes(folder: Path) -> None:
    """Rewrite a model directory as earlier versions wrote it: whatever is valid in its files is accepted."""
    for file, keys in (
        ("config.json", ("config_sha256", "weights_header_sha256")),
        ("processor_config.json", ("files",)),
    ):
        values = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({k: v for k, v in values.items() if k not in keys}))
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors", {"format": "pt"})


def answers(folder: Path) -> tuple[torch.Tensor, str]:
    """Logits of a prompt, and the greedy answer."""
    model, processor = alm.load(folder, device="cpu")
    batch = model_inputs(processor, [TURNS], [[CLIP]], add_generation_prompt=True)
    with torch.no_grad():
        logits = model(**batch).logits
    return logits, next(generate_answers(model, processor, [TURNS], [[CLIP]], 4))[1]


def damage(rng: random.Random, file: Path) -> str:
    """Damage a file in place; says how."""
    if file.suffix == ".json" and rng.random() < 0.85:
        how, values = corrupted(rng, json.loads(file.read_text()))
        file.write_text(json.dumps(values))
        return how
    if file.suffix == ".jinja" and rng.random() < 0.5:
        file.write_text(str(hostile_value(rng, file.read_text())), errors="replace")
        return "another template"
    how, data = damaged(rng, file.read_bytes())
    file.write_bytes(data)
    return how


def case_for(root: Path) -> Case:
    """Return the fuzzing case that damages a copy of one of the models in `root`."""
    models = make_models(root)
    expected = answers(models["whole"])
    work = root / "work"

    def case(rng: random.Random) -> tuple[str, Callable[[], Any]]:
        name = rng.choice(["referring", "whole", "whole", "unhashed", "unhashed", "llm"])
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        for part in ("llm", "referring" if name == "llm" else name):
            shutil.copytree(models[part], work / part)
        file = rng.choice(sorted(work.joinpath(name).iterdir()))
        how = damage(rng, file)
        what = f"{name}/{file.name}: {how}"
        free = file.name in FREE or any(how.startswith(f".{key} ") for key in FREE_KEYS) or name == "unhashed"
        free = file.name not in COMPARED if name == "llm" else free
        checked = work / ("referring" if name == "llm" else name)

        def load() -> None:
            logits, answer = answers(checked)
            if not free:
                assert torch.isfinite(logits).all(), "logits are not finite"
                torch.testing.assert_close(logits, expected[0], atol=1e-5, rtol=0)
                assert answer == expected[1], "another answer"

        return what, load

    return case


def main(seconds: float) -> int:
    """Fuzz for some seconds; returns the number of findings."""
    with tempfile.TemporaryDirectory() as root:
        return report(fuzz("model directories", case_for(Path(root)), seconds))


if __name__ == "__main__":
    import sys

    sys.exit(main(float(sys.argv[1])))
