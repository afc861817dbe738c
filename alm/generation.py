"""Answers to many conversations in batches, or to one as it is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from alm.decoding import MAX_NEW_TOKENS, decoding_settings, decoding_with
from encoders.audio import pad_batch

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
        max_new_tokens: Longest answer in tokens.
        batch_size: Samples per batch.
        progress: Called with the number of samples finished since the last call.
        **options: Further `generate` options, for example `do_sample` or `num_beams`; see
            `alm.decoding.decoding_settings`. The default is greedy decoding.

    Yields:
        (index of the sample, answer text without special tokens); several per sample with `num_return_sequences`.
    """
    order = sorted(range(len(conversations)), key=lambda i: _size(conversations[i], audios[i]))
    tokenizer = processor.tokenizer
    settings = decoding_settings(model, processor, max_new_tokens, **options)
    encoded = _EncodedOnce(model, Counter(id(clip) for clips in audios for clip in clips))
    model.eval()
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        lengths = [[len(clip) for clip in audios[i]] for i in rows]
        batch = processor.tokenize([conversations[i] for i in rows], lengths, add_generation_prompt=True)
        batch |= encoded.inputs([clip for i in rows for clip in audios[i]])
        with decoding_with(model.llm, settings) as config:
            out = model.generate(
                **{key: value.to(model.device) for key, value in batch.items()}, generation_config=config
            )
        texts = tokenizer.batch_decode(out, skip_special_tokens=True)
        n_each = len(texts) // len(rows)  # num_return_sequences
        for place, row in enumerate(rows):
            for text in texts[place * n_each : (place + 1) * n_each]:
                yield row, text.strip()
        if progress is not None:
            progress(len(rows))


def stream_answer(
    model: Any,
    processor: Any,
    conversation: Sequence[Message],
    clips: Sequence[np.ndarray],
    max_new_tokens: int = MAX_NEW_TOKENS,
    **options: Any,
) -> Iterator[str]:
    """Answer one conversation piece by piece, as the model writes.

    Args:
        model: An `alm.model.AudioLanguageModel`.
        processor: Its processor.
        conversation: Messages that end with a user turn.
        clips: Its clips, mono float32 at the processor's sample rate.
        max_new_tokens: Longest answer in tokens.
        **options: Further `generate` options; beams cannot be streamed.

    Yields:
        Text to be put behind what came before.
    """
    from transformers import TextIteratorStreamer

    model.eval()
    inputs = processor([conversation], [clips], add_generation_prompt=True).to(model.device)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    failure: list[BaseException] = []
    settings = decoding_settings(model, processor, max_new_tokens, **options)

    def write() -> None:
        try:
            with decoding_with(model.llm, settings) as config:
                model.generate(**inputs, streamer=streamer, generation_config=config)
        except BaseException as error:  # raised again in the caller's thread
            failure.append(error)
            streamer.end()

    thread = Thread(target=write, daemon=True)
    thread.start()
    yield from (piece for piece in streamer if piece)
    thread.join()
    if failure:
        raise failure[0]


class _EncodedOnce:
    """Encodes clips when they are first asked for, and keeps their tokens while they are still needed.

    Args:
        model: The model whose encoder runs.
        uses: How often each clip (by identity) will be asked for.
    """

    def __init__(self, model: Any, uses: Counter[int]) -> None:
        self.model = model
        self.uses = uses
        self.kept: dict[int, Tensor] = {}

    @torch.no_grad()
    def inputs(self, clips: Sequence[np.ndarray]) -> dict[str, Tensor]:
        """The model's audio inputs for a batch's clips in reading order."""
        if not clips:
            return {}
        unique = {id(clip): clip for clip in clips}
        new = {key: clip for key, clip in unique.items() if key not in self.kept}
        if new:
            waveforms, lengths = pad_batch(list(new.values()))
            out = self.model.encode(waveforms.to(self.model.device), lengths)
            for key, tokens, mask in zip(new, out.tokens, out.mask, strict=True):
                self.kept[key] = tokens[mask]  # (n_valid, D), time-major
        rows = [self.kept[key] for key in unique]
        sizes = torch.tensor([len(row) for row in rows], device=rows[0].device)
        place = {key: i for i, key in enumerate(unique)}
        self.uses.subtract(id(clip) for clip in clips)
        for key in unique:
            if self.uses[key] <= 0:
                del self.kept[key]
        return {
            "features": pad_sequence(rows, batch_first=True),  # (C, N, D)
            "features_mask": torch.arange(int(sizes.max()), device=sizes.device)[None] < sizes[:, None],
            "audio_index": torch.tensor([place[id(clip)] for clip in clips]),
        }


def _size(conversation: Sequence[Message], clips: Sequence[np.ndarray]) -> tuple[int, int]:
    return sum(len(clip) for clip in clips), sum(len(message["content"]) for message in conversation)


def pick_device() -> torch.device:
    """The first CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
