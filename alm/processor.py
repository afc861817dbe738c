"""Conversations and clips in, model inputs out: chat template, placeholder expansion, label masking, padding."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from alm.common.errors import AudioError, UserError
from alm.configuration import AUDIO_TOKEN, AudioLanguageConfig
from alm.templates import TEMPLATES
from encoders import config_from_dict
from encoders.audio import pad_batch
from projectors import projector_config

Message = dict[str, Any]

SUPERVISED = ("assistant", "all")
# Characters of private use: they stand where answers will stand while a template is taken apart.
_MARK, _MARKS = "\ue000{}\ue001", re.compile("\ue000\\d+\ue001")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One conversation as tokens."""

    ids: list[int]
    """Token ids, a placeholder per audio token."""
    labels: list[int]
    """The ids again, -100 where nothing is supervised."""
    spans: list[tuple[int, int]]
    """Start and end of every clip's placeholders."""

    def cut(self, limit: int) -> Encoded:
        """The first `limit` tokens, fewer where that would cut a clip in two; such a clip is left out whole."""
        for start, end in self.spans:
            if start < limit < end:
                limit = start
        return Encoded(
            self.ids[:limit], self.labels[:limit], [span for span in self.spans if span[1] <= limit]
        )


class AudioLanguageProcessor(ProcessorMixin):
    """Turns conversations with `<|audio|>` markers and their clips into batches for the model.

    Args:
        tokenizer: The LLM's tokenizer; the placeholder is added if it lacks it.
        encoder: The encoder's config dictionary (sample rate, normalisation, time grid).
        projector: The projector's config dictionary (LLM tokens per clip).
        audio_token: The placeholder.
        chat_template: A Jinja template, or `plain` or `alpaca-short`; None takes the tokenizer's, or the plain
            one where it has none.
        max_audio_tokens: Most audio tokens of a conversation; None sets no limit but the LLM's. Longer audio is
            refused, never cut: give a part of it, or a projector with fewer tokens per second.
    """

    def __init__(
        self,
        tokenizer: Any,
        encoder: dict[str, Any],
        projector: dict[str, Any],
        audio_token: str = AUDIO_TOKEN,
        chat_template: str | None = None,
        max_audio_tokens: int | None = None,
    ) -> None:
        if tokenizer.convert_tokens_to_ids(audio_token) in (None, tokenizer.unk_token_id):
            tokenizer.add_tokens([audio_token], special_tokens=True)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        chat_template = chat_template or tokenizer.chat_template or "plain"
        chat_template = TEMPLATES.get(chat_template, chat_template)
        super().__init__(tokenizer=tokenizer, chat_template=chat_template)
        self.encoder = encoder
        self.projector = projector
        self.audio_token = audio_token
        self.max_audio_tokens = max_audio_tokens
        self.audio_token_id: int = tokenizer.convert_tokens_to_ids(audio_token)
        self.encoder_config = config_from_dict(encoder)
        self.projector_config = projector_config(projector)

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz that clips must have."""
        return self.encoder_config.sample_rate

    def n_audio_tokens(self, n_samples: int) -> int:
        """LLM tokens that a clip of `n_samples` takes in the prompt.

        Raises:
            AudioError: It is too short for one, or alone takes more than `max_audio_tokens`.
        """
        n_tokens = self.projector_config.n_tokens_for(self.encoder_config.n_time_for(n_samples))
        self._check_budget(n_tokens, f"a clip of {n_samples / self.sample_rate:.1f} s")
        return n_tokens

    def _check_budget(self, n_tokens: int, what: str) -> None:
        if self.max_audio_tokens is not None and n_tokens > self.max_audio_tokens:
            raise AudioError(
                f"{what} takes {n_tokens} audio tokens, more than max_audio_tokens={self.max_audio_tokens}; give a "
                "part of it, raise the limit, or train a projector with fewer tokens per second"
            )

    @cached_property
    def end_of_turn(self) -> str:
        """What the template puts behind every answer, such as `<|im_end|>`; the end-of-text token if nothing."""
        turns = [
            {"role": role, "content": content}
            for turn in range(2)
            for role, content in (("user", "x"), ("assistant", _MARK.format(turn)))
        ]
        around = _MARKS.split(self._render(turns, False))
        middle, last = around[-2:] if len(around) == 3 else (around[-1], around[-1])
        # Phi-3 ends the conversation after the turn: only what stands behind an answer in the middle, too, counts.
        added = "|".join(map(re.escape, sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)))
        end = ""
        for piece in re.split(f"({added})", last) if added else [last]:
            if not middle.startswith(end + piece):
                break
            end += piece
        return end.rstrip() or self.tokenizer.eos_token or ""

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer: the end-of-text token and the template's end of turn."""
        ends = self._ids(self.end_of_turn, continued=True)[-1:]
        return sorted({i for i in (self.tokenizer.eos_token_id, *ends) if i is not None})

    def segments(
        self, conversation: Sequence[Message], add_generation_prompt: bool = False
    ) -> list[tuple[str, bool]]:
        """Render a conversation and split it into (text, is an answer) parts.

        An answer ends with the end-of-turn token, so that the model learns to stop, and begins where a prompt that
        asks for it ends.

        Raises:
            UserError: The template does not show the answers, one after the other.
        """
        messages = [{**message, "content": self._text(message["content"])} for message in conversation]
        full = self._render(messages, add_generation_prompt)
        turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        marked = [dict(message) for message in messages]
        for turn in turns:
            marked[turn]["content"] = _MARK.format(turn)
        around = _MARKS.split(self._render(marked, add_generation_prompt))
        parts: list[tuple[str, bool]] = []
        done = place = 0
        for turn, before, after in zip(turns, around, around[1:], strict=False):
            content = messages[turn]["content"]
            start = place + len(before)
            shown = [text for text in (content, content.strip()) if full.startswith(text + after, start)]
            if len(around) != len(turns) + 1 or not shown or not full.startswith(before, place):
                raise UserError(
                    f"the chat template does not show turn {turn} as it is; give another chat_template, for example "
                    "'plain'"
                )
            place = start + len(shown[0])
            end = self.end_of_turn if after.startswith(self.end_of_turn) else ""
            prompt = self._render(messages[:turn], True)
            if done <= len(prompt) <= start and full.startswith(prompt):
                start = len(prompt)  # the blank in "Assistant: yes" is for the model to write
            parts += [
                (full[done:start], False),
                (full[start:place] + (end or self._missing_end(after)), True),
            ]
            done = place + len(end)
        return [(text, answer) for text, answer in [*parts, (full[done:], False)] if text]

    def _missing_end(self, after: str) -> str:
        """The end-of-text token behind a last answer that the template leaves open."""
        return "" if after.strip() else self.end_of_turn

    def _text(self, content: Any) -> str:
        """Content as one string; a list of audio and text items, as in transformers, is joined."""
        if isinstance(content, str):
            return content
        return "".join(self.audio_token if item["type"] == "audio" else item["text"] for item in content)

    def _render(self, messages: list[Message], add_generation_prompt: bool) -> str:
        if not messages:
            return ""
        return self.tokenizer.apply_chat_template(
            messages,
            chat_template=self.chat_template,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,  # Qwen3, SmolLM3: answers are not preceded by hidden reasoning
        )

    def _ids(self, text: str, continued: bool) -> list[int]:
        """Token ids of a piece; one that continues a text gets no SentencePiece blank in front."""
        if continued:
            ids = self.tokenizer(self.audio_token + text, add_special_tokens=False)["input_ids"]
            if ids[:1] == [self.audio_token_id]:
                return ids[1:]
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def encode_conversation(
        self,
        conversation: Sequence[Message],
        n_samples: Sequence[int] = (),
        add_generation_prompt: bool = False,
        supervise: str = "assistant",
    ) -> Encoded:
        """Token ids and labels of one conversation.

        Args:
            conversation: Messages with one `<|audio|>` per clip.
            n_samples: Length of each clip in samples, in order.
            add_generation_prompt: End with the header of an assistant turn.
            supervise: `assistant`, or `all` for every token that is not audio.

        Raises:
            UserError: The markers are not as many as the clips.
            AudioError: The clips take more than `max_audio_tokens`.
        """
        if supervise not in SUPERVISED:
            raise UserError(f"supervise: got '{supervise}', expected one of {', '.join(SUPERVISED)}")
        parts = self.segments(conversation, add_generation_prompt)
        markers = sum(text.count(self.audio_token) for text, _ in parts)
        if markers != len(n_samples):
            raise UserError(
                f"the conversation has {markers} {self.audio_token} markers for {len(n_samples)} clips; "
                "write one marker per clip"
            )
        counts = iter(n_samples)
        out = Encoded([], [], [])
        for text, answer in parts:
            for token in self._ids(text, continued=bool(out.ids)):
                is_audio = token == self.audio_token_id
                n = self.n_audio_tokens(next(counts)) if is_audio else 1
                if is_audio:
                    out.spans.append((len(out.ids), len(out.ids) + n))
                labelled = not is_audio and (answer or supervise == "all")
                out.ids.extend([token] * n)
                out.labels.extend([token if labelled else -100] * n)
        n_audio = sum(end - start for start, end in out.spans)
        self._check_budget(n_audio, f"the audio of a conversation ({len(out.spans)} clips)")
        return out

    def _encode_all(
        self,
        conversations: Sequence[Sequence[Message]],
        n_samples: Sequence[Sequence[int]],
        max_length: int | None,
        truncation: bool,
        add_generation_prompt: bool,
        supervise: str,
    ) -> list[Encoded]:
        """The samples, none longer than `max_length`; what had to be cut is reported."""
        rows = [
            self.encode_conversation(c, lengths, add_generation_prompt, supervise)
            for c, lengths in zip(conversations, n_samples, strict=True)
        ]
        longest = max(len(row.ids) for row in rows)
        if max_length is None or longest <= max_length:
            return rows
        if not truncation or add_generation_prompt:
            raise UserError(
                f"a sample has {longest} tokens, more than max_length={max_length}; shorten it or raise the limit"
                + (" (a prompt is not cut: its end is the question)" if truncation else "")
            )
        cut = [row.cut(max_length) if len(row.ids) > max_length else row for row in rows]
        clips = sum(len(a.spans) - len(b.spans) for a, b in zip(rows, cut, strict=True))
        n_cut = sum(len(row.ids) > max_length for row in rows)
        warnings.warn(
            f"{n_cut} of {len(rows)} samples were cut to {max_length} tokens or less, {clips} clips left out; "
            f"the longest had {longest}",
            stacklevel=3,
        )
        empty = [i for i, row in enumerate(cut) if all(label == -100 for label in row.labels)]
        if empty:
            raise UserError(
                f"sample {empty[0]} of the batch has no answer left in max_length={max_length} tokens; raise the limit"
            )
        return cut

    def tokenize(
        self,
        conversations: Sequence[Sequence[Message]],
        n_samples: Sequence[Sequence[int]],
        *,
        add_generation_prompt: bool = False,
        with_labels: bool = False,
        supervise: str = "assistant",
        padding_side: str | None = None,
        max_length: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """The text side of a batch, from the clips' lengths alone.

        Args:
            conversations: One list of messages per sample.
            n_samples: Per sample the lengths of its clips, in samples.
            add_generation_prompt: Prompts end where the assistant's answer begins.
            with_labels: Also return `labels`.
            supervise: What is labelled: `assistant` turns with their end-of-turn token, or `all` text.
            padding_side: Default: left with `add_generation_prompt`, else right.
            max_length: Longest allowed sample in tokens.

        Raises:
            UserError: Markers and clips disagree, or a sample is longer than `max_length`.
        """
        rows = self._encode_all(conversations, n_samples, max_length, False, add_generation_prompt, supervise)
        return self._tensors(
            rows, padding_side or ("left" if add_generation_prompt else "right"), with_labels
        )

    def _tensors(self, rows: list[Encoded], side: str, with_labels: bool) -> dict[str, torch.Tensor]:
        longest = max(len(row.ids) for row in rows)
        batch = {
            "input_ids": _pad([row.ids for row in rows], self.tokenizer.pad_token_id, side, longest),
            "attention_mask": _pad([[1] * len(row.ids) for row in rows], 0, side, longest),
        }
        if with_labels:
            batch["labels"] = _pad([row.labels for row in rows], -100, side, longest)
        return batch

    def __call__(
        self,
        conversations: Sequence[Sequence[Message]],
        audios: Sequence[Sequence[np.ndarray]] | None = None,
        *,
        add_generation_prompt: bool = False,
        with_labels: bool = False,
        supervise: str = "assistant",
        padding_side: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
    ) -> BatchFeature:
        """Build a batch.

        Args:
            conversations: One list of messages per sample; several turns, several clips in a turn, or none.
            audios: Per sample its clips, mono float32 at `sample_rate`; an array given several times (the same
                object) is encoded once.
            add_generation_prompt: See `tokenize`, as for the next four.
            with_labels: See there.
            supervise: See there.
            padding_side: See there.
            max_length: See there.
            truncation: Cut longer samples at their end, with a warning; a clip is kept whole or left out.

        Returns:
            `input_ids`, `attention_mask` (B, L) and, where there is audio, `waveforms` (C, S),
            `waveform_lengths` (C,), `audio_index` (P,).

        Raises:
            UserError: Markers and clips disagree, a sample is longer than `max_length`, or has no answer left.
        """
        audios = audios if audios is not None else [[]] * len(conversations)
        if len(audios) != len(conversations):
            raise UserError(f"got {len(conversations)} conversations and {len(audios)} lists of clips")
        n_samples = [[len(clip) for clip in clips] for clips in audios]
        rows = self._encode_all(
            conversations, n_samples, max_length, truncation, add_generation_prompt, supervise
        )
        side = padding_side or ("left" if add_generation_prompt else "right")
        batch = self._tensors(rows, side, with_labels)
        row_of: dict[int, int] = {}
        unique: list[np.ndarray] = []
        index = []
        for clip in (
            clip for clips, row in zip(audios, rows, strict=True) for clip in clips[: len(row.spans)]
        ):
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


def build_processor(tokenizer: Any, model: Any, chat_template: str | None = None) -> AudioLanguageProcessor:
    """The processor of a freshly assembled model; also tells the model the placeholder's id."""
    processor = AudioLanguageProcessor(
        tokenizer, model.config.encoder, model.config.projector, chat_template=chat_template
    )
    model.config.audio_token_id = processor.audio_token_id
    return processor


AutoProcessor.register(AudioLanguageConfig, AudioLanguageProcessor, exist_ok=True)
