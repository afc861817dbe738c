"""A tiny model with random weights around an LLM directory, saved with its processor."""

from pathlib import Path

from transformers import AutoTokenizer

from alm.llm import load_llm
from alm.model import AudioLanguageModel
from alm.processor import build_processor
from encoders import encoder_class


def save_tiny_model(llm_dir: Path, folder: Path) -> Path:
    """Save a model of the tiny AudioMosaic, an MLP and the LLM, to which it refers; returns the folder."""
    model = AudioLanguageModel.assemble(
        encoder_class("audiomosaic").tiny(), load_llm(str(llm_dir)), "mlp", llm_source=str(llm_dir)
    )
    processor = build_processor(AutoTokenizer.from_pretrained(llm_dir), model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
