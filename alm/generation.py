"""Batched greedy answers to many conversations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

Message = dict[str, str]


def generate_answers(
    model: Any,
    processor: Any,
    conversations: Sequence[Sequence[Message]],
    audios: Sequence[Sequence[np.ndarray]],
    max_new_tokens: int = 64,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> Iterator[tuple[int, str]]:
    """Answer conversations that end with a user turn, batch by batch.

    Samples of similar length share a batch, and an array given to several samples of a batch is encoded once.

    Args:
        model: An :class:`alm.model.AudioLanguageModel`.
        processor: Its processor.
        conversations: One list of messages per sample.
        audios: Per sample its clips, mono float32 at the processor's sample rate.
        max_new_tokens: Longest answer in tokens.
        batch_size: Samples per batch.
        progress: Called with the number of samples finished since the last call.
        **options: Further ``generate`` options; the default is greedy decoding.

    Yields:
        (index of the sample, answer text without special tokens).
    """
    order = sorted(range(len(conversations)), key=lambda i: _size(conversations[i], audios[i]))
    tokenizer = processor.tokenizer
    stops = model.generation_config.eos_token_id
    stops = {
        *processor.stop_token_ids,
        *(stops if isinstance(stops, list) else [stops] if stops is not None else []),
    }
    options = {"do_sample": False, "num_beams": 1, "eos_token_id": sorted(stops), **options}
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = processor(
            [conversations[i] for i in rows], [audios[i] for i in rows], add_generation_prompt=True
        ).to(model.device)
        out = model.generate(
            **batch, max_new_tokens=max_new_tokens, pad_token_id=tokenizer.pad_token_id, **options
        )
        texts = tokenizer.batch_decode(out, skip_special_tokens=True)
        for row, text in zip(rows, texts, strict=True):
            yield row, text.strip()
        if progress is not None:
            progress(len(rows))


def _size(conversation: Sequence[Message], clips: Sequence[np.ndarray]) -> tuple[int, int]:
    return sum(len(clip) for clip in clips), sum(len(message["content"]) for message in conversation)


def pick_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
