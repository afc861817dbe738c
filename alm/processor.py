"""Conversations and clips in, model inputs out: chat template, placeholder expansion, label masking, padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from alm.configuration import AUDIO_TOKEN, AudioLanguageConfig
from alm.errors import UserError
from encoders import config_from_dict
from encoders.audio import pad_batch
from projectors import projector_config

Message = dict[str, str]

# For LLMs whose tokenizer has no chat template.
PLAIN_TEMPLATE = (
    "{{ bos_token or '' }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}Assistant: {{ message['content'] }}{{ eos_token }}\n"
    "{% else %}{{ message['role'] | capitalize }}: {{ message['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class AudioLanguageProcessor(ProcessorMixin):
    """Turns conversations with ``<|audio|>`` markers and their clips into batches for the model.

    Args:
        tokenizer: The LLM's tokenizer; the placeholder is added if it lacks it.
        encoder: The encoder's config dictionary (sample rate, normalisation, time grid).
        projector: The projector's config dictionary (LLM tokens per clip).
        audio_token: The placeholder.
        chat_template: A Jinja template; None takes the tokenizer's, or a plain one where it has none.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: dict[str, Any],
        projector: dict[str, Any],
        audio_token: str = AUDIO_TOKEN,
        chat_template: str | None = None,
    ) -> None:
        if tokenizer.convert_tokens_to_ids(audio_token) in (None, tokenizer.unk_token_id):
            tokenizer.add_tokens([audio_token], special_tokens=True)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        chat_template = chat_template or tokenizer.chat_template or PLAIN_TEMPLATE
        super().__init__(tokenizer=tokenizer, chat_template=chat_template)
        self.encoder = encoder
        self.projector = projector
        self.audio_token = audio_token
        self.audio_token_id: int = tokenizer.convert_tokens_to_ids(audio_token)
        self.encoder_config = config_from_dict(encoder)
        self.projector_config = projector_config(projector)

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz that clips must have."""
        return self.encoder_config.sample_rate

    def n_audio_tokens(self, n_samples: int) -> int:
        """LLM tokens that a clip of ``n_samples`` takes in the prompt."""
        return self.projector_config.n_tokens_for(self.encoder_config.n_time_for(n_samples))

    def segments(
        self, conversation: Sequence[Message], add_generation_prompt: bool = False
    ) -> list[tuple[str, bool]]:
        """Render a conversation and split it into (text, supervised) parts; assistant turns are supervised.

        A supervised part ends with the end-of-turn token, so the model learns to stop.
        """
        messages = [dict(message) for message in conversation]
        full = self._render(messages, add_generation_prompt)
        parts: list[tuple[str, bool]] = []
        done = 0
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self._render(messages[:turn], True)
            through = self._render(messages[: turn + 1], False)
            start = len(prompt)
            end = start + len(through[start:].rstrip())
            if not through.startswith(prompt) or full[:end] != through[:end] or start < done:
                raise UserError("the chat template does not render turn by turn; give another chat_template")
            parts += [(full[done:start], False), (full[start:end], True)]
            done = end
        return [(text, supervised) for text, supervised in [*parts, (full[done:], False)] if text]

    def _render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        if not messages:
            return ""
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def encode_conversation(
        self,
        conversation: Sequence[Message],
        n_samples: Sequence[int] = (),
        add_generation_prompt: bool = False,
    ) -> tuple[list[int], list[int]]:
        """Token ids and labels of one conversation.

        Args:
            conversation: Messages with one ``<|audio|>`` per clip.
            n_samples: Length of each clip in samples, in order.
            add_generation_prompt: End with the header of an assistant turn.

        Returns:
            ids and labels (-100 outside assistant turns), equally long.

        Raises:
            UserError: The markers are not as many as the clips.
        """
        parts = self.segments(conversation, add_generation_prompt)
        markers = sum(text.count(self.audio_token) for text, _ in parts)
        if markers != len(n_samples):
            raise UserError(
                f"the conversation has {markers} {self.audio_token} markers for {len(n_samples)} clips; "
                "write one marker per clip"
            )
        counts = iter(n_samples)
        ids: list[int] = []
        labels: list[int] = []
        for text, supervised in parts:
            new: list[int] = []
            for token in self.tokenizer(text, add_special_tokens=False)["input_ids"]:
                if token == self.audio_token_id:
                    new += [token] * self.n_audio_tokens(next(counts))
                else:
                    new.append(token)
            ids += new
            labels += new if supervised else [-100] * len(new)
        return ids, labels

    def tokenize(
        self,
        conversations: Sequence[Sequence[Message]],
        n_samples: Sequence[Sequence[int]],
        *,
        add_generation_prompt: bool = False,
        with_labels: bool = False,
        padding_side: str | None = None,
        max_length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The text side of a batch, from the clips' lengths alone; arguments as in ``__call__``.

        Args:
            conversations: One list of messages per sample.
            n_samples: Per sample the lengths of its clips, in samples.
            add_generation_prompt: Prompts end where the assistant's answer begins.
            with_labels: Also return ``labels``.
            padding_side: Default: left with ``add_generation_prompt``, else right.
            max_length: Longest allowed sample in tokens.

        Raises:
            UserError: Markers and clips disagree, or a sample is longer than ``max_length``.
        """
        rows = [
            self.encode_conversation(c, lengths, add_generation_prompt)
            for c, lengths in zip(conversations, n_samples, strict=True)
        ]
        longest = max(len(ids) for ids, _ in rows)
        if max_length is not None and longest > max_length:
            raise UserError(
                f"a sample has {longest} tokens, more than max_length={max_length}; shorten it or raise the limit"
            )
        side = padding_side or ("left" if add_generation_prompt else "right")
        batch = {
            "input_ids": _pad([ids for ids, _ in rows], self.tokenizer.pad_token_id, side, longest),
            "attention_mask": _pad([[1] * len(ids) for ids, _ in rows], 0, side, longest),
        }
        if with_labels:
            batch["labels"] = _pad([labels for _, labels in rows], -100, side, longest)
        return batch

    def __call__(
        self,
        conversations: Sequence[Sequence[Message]],
        audios: Sequence[Sequence[np.ndarray]] | None = None,
        **options: Any,
    ) -> BatchFeature:
        """Build a batch.

        Args:
            conversations: One list of messages per sample.
            audios: Per sample its clips, mono float32 at ``sample_rate``; an array given several times (the same
                object) is encoded once.
            **options: See :meth:`tokenize`.

        Returns:
            ``input_ids``, ``attention_mask`` (B, L) and, where there is audio, ``waveforms`` (C, S),
            ``waveform_lengths`` (C,), ``audio_index`` (P,).

        Raises:
            UserError: Markers and clips disagree, or a sample is longer than ``max_length``.
        """
        audios = audios if audios is not None else [[]] * len(conversations)
        if len(audios) != len(conversations):
            raise UserError(f"got {len(conversations)} conversations and {len(audios)} lists of clips")
        batch = self.tokenize(conversations, [[len(w) for w in clips] for clips in audios], **options)
        row_of: dict[int, int] = {}
        unique: list[np.ndarray] = []
        index = []
        for clip in (clip for clips in audios for clip in clips):
            if id(clip) not in row_of:
                row_of[id(clip)] = len(unique)
                unique.append(clip)
            index.append(row_of[id(clip)])
        if unique:
            batch["waveforms"], batch["waveform_lengths"] = pad_batch(unique)
            batch["audio_index"] = torch.tensor(index)
        return BatchFeature(batch)


def _pad(rows: list[list[int]], value: int, side: str, width: int) -> torch.Tensor:
    """Rows of different length as one (B, width) long tensor."""
    filled = []
    for row in rows:
        fill = [value] * (width - len(row))
        filled.append(fill + row if side == "left" else row + fill)
    return torch.tensor(filled, dtype=torch.long)


def build_processor(tokenizer: Any, model: Any) -> AudioLanguageProcessor:
    """The processor of a freshly assembled model; also tells the model the placeholder's id."""
    processor = AudioLanguageProcessor(tokenizer, model.config.encoder, model.config.projector)
    model.config.audio_token_id = processor.audio_token_id
    return processor


AutoProcessor.register(AudioLanguageConfig, AudioLanguageProcessor, exist_ok=True)
