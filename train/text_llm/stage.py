"""The small LLM of the quickstart, trained on text alone to answer questions about described scenes.

The quickstart runs offline, without a pretrained LLM. It trains a tokenizer, then a Llama that answers questions and
writes captions about scenes described in words: one word per time step, which names the sound. The description stands
where the audio tokens will stand, so that alignment can map audio tokens to words.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from alm.common.files import apply_umask, new_folder
from alm.common.processes import is_main_process
from alm.data.scenes.language import Language
from alm.head import causal_lm_loss
from train.engine.trainer import StageTrainer, fit
from train.settings import LoopSettings, RunSettings
from train.settings.optim import OptimSettings
from train.text_llm.config import TextLLMConfig
from train.text_llm.muon import MuonAdamW
from train.text_llm.reading import ReadingBatches, RowPacker, draw_reading_scene, score_reading
from train.text_llm.tokenizer import train_tokenizer

_N_TOKENIZER_SCENES = 600  # about 8,000 lines: every phrase many times, in a second


def train_text_llm(config: TextLLMConfig, language: Language, out: Path, folder: Path) -> dict[str, float]:
    """Train the tokenizer and the LLM, and save both; every process must call this.

    Args:
        config: The LLM and its training.
        language: The words of the descriptions.
        out: Where to save; an existing directory is replaced when everything is written.
        folder: The run directory, with checkpoints and `metrics.jsonl`.

    Returns:
        Share of exactly right answers on new scenes described in 16 steps: by kind of exercise, and `all` over the
        questions.

    Raises:
        Preempted: The run received SIGTERM or SIGUSR1, and saved a checkpoint.
        UserError: `out` is not writable.
    """
    tokenizer = train_tokenizer(reading_text(language, config.seed), config.vocab_size)
    llm = build_llm(config, tokenizer)
    packer = RowPacker(tokenizer)
    batches = ReadingBatches(packer, language, config.seed, config.batch_scenes, config.steps)
    fit(
        _loop(config),
        ReadingModel(llm),
        batches,
        _only,
        folder,
        "language model",
        trainer_class=ReadingTrainer,
    )
    if is_main_process():
        shutil.rmtree(out, ignore_errors=True)
        with new_folder(out) as partial:
            llm.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            apply_umask(partial)
    return score_reading(llm, packer, language, config.seed, config.n_test_scenes)


def reading_text(language: Language, seed: int) -> Iterator[str]:
    """Generate text for the tokenizer: descriptions, requests and answers like those of the exercises.

    Yields:
        One text at a time; some contain line breaks.
    """
    rng = np.random.default_rng((seed, 0))
    for _ in range(_N_TOKENIZER_SCENES):
        scene = draw_reading_scene(language, rng)
        yield scene.description
        for exercise in scene.exercises:
            yield exercise.request
            yield from exercise.answers
    # Repeat each name so often that even rare ones become single tokens.
    for kind in language.kinds:
        yield from [f"{language.phrase(kind)} {language.word(kind)}"] * 200


def build_llm(config: TextLLMConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build an untrained LLM for a tokenizer.

    Args:
        config: Its shape, and the seed of its weights.
        tokenizer: Defines the vocabulary and the end-of-turn token.

    Returns:
        The model, float32, on the CPU.
    """
    llama = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.n_layers,
        num_attention_heads=config.n_heads,
        num_key_value_heads=config.n_heads,
        max_position_embeddings=config.max_position_embeddings,
        tie_word_embeddings=True,
        initializer_range=0.5 * config.hidden_size**-0.5,  # the usual 0.02 is too small for narrow models
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        model = LlamaForCausalLM(llama)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    return model


class ReadingModel(nn.Module):
    """The LLM with the loss of a batch of exercises; logits are computed at labelled positions alone."""

    def __init__(self, llm: LlamaForCausalLM) -> None:
        super().__init__()
        self.llm = llm

    def forward(
        self, input_ids: Tensor, labels: Tensor, position_ids: Tensor, attention_mask: Tensor
    ) -> dict[str, Tensor]:
        """Compute the loss; see `RowPacker.batch`."""
        inputs = {"input_ids": input_ids, "position_ids": position_ids, "attention_mask": attention_mask}
        loss = causal_lm_loss(self.llm, labels, **inputs, chunk=0).loss
        assert loss is not None
        return {"loss": loss}


class ReadingTrainer(StageTrainer):
    """Muon for the layers' matrices, AdamW for embeddings and norms.

    With AdamW alone, the same accuracy needs two to three times the steps.
    """

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build the optimiser."""
        llm: Any = self.network.llm
        layers = [parameter for parameter in llm.model.layers.parameters() if parameter.ndim == 2]
        taken = {id(parameter) for parameter in layers}
        others = [parameter for parameter in llm.parameters() if id(parameter) not in taken]
        betas, decay = (0.9, self.args.adam_beta2), self.args.weight_decay
        self.optimizer = MuonAdamW(layers, others, self.args.learning_rate, betas=betas, weight_decay=decay)
        return self.optimizer


def _loop(config: TextLLMConfig) -> LoopSettings:
    """The settings of the training loop."""
    return LoopSettings(
        run=RunSettings(seed=config.seed, log_every=20),
        optim=OptimSettings(
            lr=config.learning_rate,
            steps=config.steps,
            batch_size=1,  # a sample is a whole batch
            warmup_steps=round(config.warmup_share * config.steps),
            min_lr_ratio=0.02,
            weight_decay=config.weight_decay,
        ),
    )


def _only(samples: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    (batch,) = samples
    return batch
