"""Tiny LLMs and models with random weights."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class


def tiny_llm(family: str, vocab_size: int, **options):
    """A random LLM of a family, with weights large enough for answers to differ."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    tokens = {"vocab_size": vocab_size, "bos_token_id": 1, "eos_token_id": 3, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **{**sizes, **tokens, "initializer_range": 0.15, **options})
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def save_tiny_model(llm_dir: Path, folder: Path) -> Path:
    """Save a model of the tiny AudioMosaic, an MLP and the LLM, to which it refers; returns the folder."""
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir)
    )
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
