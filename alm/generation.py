"""Generates answers to conversations, in batches of similar length."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alm.common.errors import in_samples
from alm.decoding import MAX_NEW_TOKENS, decoding_settings, decoding_with
from alm.processing.feature_extraction import collate_waveforms

Message = dict[str, Any]


def generate_answers(
    model: Any,
    processor: Any,
    conversations: Sequence[Sequence[Message]],
    audios: Sequence[Sequence[np.ndarray]],
    max_new_tokens: int = MAX_NEW_TOKENS,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Iterator[tuple[int, str]]:
    """Answer conversations that end with a user turn, batch by batch.

    Samples of similar length share a batch, and an array given to several samples is encoded once.

    Args:
        model: An `alm.model.AudioLanguageModel`.
        processor: Its processor.
        conversations: One list of messages per sample.
        audios: Per sample its clips, mono float32 at the processor's sample rate.
        max_new_tokens: Length limit of an answer in tokens.
        batch_size: Samples per batch.
        progress: Called with the number of samples finished since the last call.
        **options: Further `generate` options, for example `do_sample` or `num_beams`; see
            `alm.decoding.decoding_settings`. The default is greedy decoding.

    Yields:
        (index of the sample, answer text without special tokens); several per sample with `num_return_sequences`.

    Raises:
        UserError: A prompt does not fit into the LLM's context; the error's `sample` is its index.
    """
    order = sorted(range(len(conversations)), key=lambda i: _size(conversations[i], audios[i]))
    tokenizer = processor.tokenizer
    settings = decoding_settings(model, processor, max_new_tokens, **options)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    encoded = _EncodedOnce(model, [[id(clip) for row in rows for clip in audios[row]] for rows in batches])
    model.eval()
    for rows in batches:
        with in_samples(rows):
            batch = processor.apply_chat_template(
                [conversations[i] for i in rows],
                audio=[audios[i] for i in rows],
                tokenize=True,
                return_dict=True,
                add_generation_prompt=True,
                collate=encoded,
                n_new_tokens=settings["max_new_tokens"],
            )
        with decoding_with(model, settings) as config:
            out = model.generate(
                **{key: value.to(model.device) for key, value in batch.items()}, generation_config=config
            )
        answers = out[:, batch["input_ids"].shape[1] :]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        n_each = len(texts) // len(rows)  # num_return_sequences
        for place, row in enumerate(rows):
            for text in texts[place * n_each : (place + 1) * n_each]:
                yield row, text.strip()
        if progress is not None:
            progress(len(rows))


class _EncodedOnce:
    """Encodes each clip once, and keeps its tokens until the last batch that uses them.

    Args:
        model: The model whose encoder runs.
        batches: The clips (by identity) of every batch, in the order in which the batches will come.
    """

    def __init__(self, model: Any, batches: Sequence[Sequence[int]]) -> None:
        self.model = model
        self.uses = Counter(clip for batch in batches for clip in set(batch))
        self.kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def __call__(self, clips: Sequence[np.ndarray]) -> tuple[list[int], dict[str, Tensor]]:
        """Lengths in samples, and encoder tokens as the model's audio inputs, of a batch's different clips."""
        new = [clip for clip in clips if id(clip) not in self.kept]
        if new:
            _, inputs = collate_waveforms(new)
            out = self.model.encode(**{key: value.to(self.model.device) for key, value in inputs.items()})
            for clip, tokens, mask in zip(new, out.tokens, out.mask, strict=True):
                self.kept[id(clip)] = tokens[mask]  # (n_valid, D), time-major
        rows = [self.kept[id(clip)] for clip in clips]
        sizes = torch.tensor([len(row) for row in rows], device=rows[0].device)
        self.uses.subtract(id(clip) for clip in clips)
        for clip in clips:
            if self.uses[id(clip)] <= 0:
                del self.kept[id(clip)]
        inputs = {
            "features": pad_sequence(rows, batch_first=True),  # (C, N, D)
            "features_mask": torch.arange(int(sizes.max()), device=sizes.device)[None] < sizes[:, None],
        }
        return [len(clip) for clip in clips], inputs


def _size(conversation: Sequence[Message], clips: Sequence[np.ndarray]) -> tuple[int, int]:
    return sum(len(clip) for clip in clips), sum(len(message["content"]) for message in conversation)
