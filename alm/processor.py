"""Conversations and clips in, model inputs out: chat template, placeholder expansion, label masking, padding."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoProcessor, BatchFeature, ProcessorMixin

from alm.common.errors import AudioError, CheckpointError, UserError
from alm.common.files import changed_file, file_entry
from alm.common.json_text import parse_json, write_json
from alm.common.pretrained import typed_errors
from alm.configuration import AUDIO_TOKEN, AudioLanguageConfig
from alm.feature_extraction import collate_waveforms
from alm.head import IGNORE
from alm.templates import chat_template as named_template
from alm.templates.render import render
from encoders import config_from_dict
from projectors import projector_config

Message = dict[str, Any]

SUPERVISED = ("assistant", "all")
PROCESSOR_CONFIG = "processor_config.json"
# Files beside the vocabulary that tokens depend on.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
# Private-use characters: they replace the answers while a rendered template is split into its parts.
_MARK, _MARKS = "\ue000{}\ue001", re.compile("\ue000\\d+\ue001")


@dataclasses.dataclass(frozen=True)
class Encoded:
    """One conversation as tokens."""

    ids: list[int]
    """Token ids, a placeholder per audio token."""
    labels: list[int]
    """The ids again, `IGNORE` where nothing is supervised."""
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
        chat_template: A Jinja template, or the name of one in `alm.templates`; None takes the tokenizer's, or `plain`
            if the tokenizer has none.
        max_audio_tokens: Most audio tokens of a conversation; None sets no limit but the LLM's context. Longer audio
            is refused, never cut: give a part of it, or train a projector with fewer tokens per second.
    """

    context_length: int | None = None
    """Most tokens that the LLM reads, prompt and answer together; None: unknown or unlimited."""
    vocab_size: int | None = None
    """Number of token embeddings of the LLM; None: unknown."""

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
        chat_template = named_template(chat_template or tokenizer.chat_template or "plain")
        super().__init__(tokenizer=tokenizer, chat_template=chat_template)  # type: ignore[no-untyped-call]
        self.encoder = encoder
        self.projector = projector
        self.audio_token = audio_token
        self.max_audio_tokens = max_audio_tokens
        self.audio_token_id: int = tokenizer.convert_tokens_to_ids(audio_token)
        self.encoder_config = config_from_dict(encoder)
        self.projector_config = projector_config(projector)

    def to_json_file(self, json_file_path: Any) -> None:
        """Write processor_config.json, the last file of a saved processor, with a hash of each tokenizer file.

        Args:
            json_file_path: Its path.
        """
        config = Path(json_file_path)
        names = sorted({*_TOKENIZER_FILES, *self.tokenizer.vocab_files_names.values()})
        beside = {name: config.with_name(name) for name in names}
        files = {name: file_entry(path) for name, path in beside.items() if path.is_file()}
        write_json(config, parse_json(self.to_json_string(), str(config), constants=True) | {"files": files})

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz that clips must have."""
        return self.encoder_config.sample_rate

    def n_audio_tokens(self, n_samples: int) -> int:
        """LLM tokens that a clip of `n_samples` takes in the prompt.

        Raises:
            AudioError: It is too short for one token, or alone takes more than `max_audio_tokens` or the LLM's context.
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
        if self.context_length is not None and n_tokens >= self.context_length:
            raise AudioError(
                f"{what} takes {n_tokens} audio tokens, the LLM's context has {self.context_length} tokens in all; "
                "give a part of it, or train a projector with fewer tokens per second"
            )

    def _check_limits(self, row: Encoded, n_new_tokens: int) -> None:
        """Refuse a sample that is longer than the LLM's context, or has tokens that the LLM does not know."""
        n_audio = sum(end - start for start, end in row.spans)
        n_text = len(row.ids) - n_audio
        if self.context_length is not None and len(row.ids) + n_new_tokens > self.context_length:
            answer = f" and an answer of up to {n_new_tokens}" if n_new_tokens else ""
            raise UserError(
                f"{n_audio} audio tokens, {n_text} text tokens{answer} are more than the LLM's context of "
                f"{self.context_length} tokens; shorten the audio, the text or the answer"
            )
        largest = max((token for token in row.ids if token != self.audio_token_id), default=0)
        if self.vocab_size is not None and largest >= self.vocab_size:
            raise UserError(
                f"token {self.tokenizer.convert_ids_to_tokens(largest)!r} has id {largest}, the LLM has "
                f"{self.vocab_size} token embeddings; use the tokenizer of this LLM"
            )

    @cached_property
    def end_of_turn(self) -> str:
        """Text that the template adds after an answer, such as `<|im_end|>`; else the end-of-text token."""
        turns = [
            {"role": role, "content": content}
            for turn in range(2)
            for role, content in (("user", "x"), ("assistant", _MARK.format(turn)))
        ]
        around = _MARKS.split(self._render(turns, False))
        middle, last = around[-2:] if len(around) == 3 else (around[-1], around[-1])
        # Phi-3 adds an end of text after the last turn: use only text that also follows an earlier answer.
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

        An answer begins where the generation prompt ends. It ends with the end-of-turn token, so that the
        model learns to stop.

        Raises:
            UserError: The template does not render the answers unchanged and in order.
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
                    f"the chat template changes or drops turn {turn}; set another chat_template, for example "
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
        return render(
            str(self.chat_template),
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            enable_thinking=False,  # Qwen3, SmolLM3: answers are not preceded by hidden reasoning
            **self.tokenizer.special_tokens_map,
        )

    def _ids(self, text: str, continued: bool) -> list[int]:
        """Token ids of a piece; one that continues a text gets no SentencePiece blank in front."""
        if continued:
            ids = self._tokenized(self.audio_token + text)
            if ids[:1] == [self.audio_token_id]:
                return ids[1:]
        return self._tokenized(text)

    def _tokenized(self, text: str) -> list[int]:
        # The tokenizer's regular expression can fail on a text; the tokenizers library then panics
        with typed_errors("the tokenizer cannot read a text of the conversation", UserError):
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

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
                out.labels.extend([token if labelled else IGNORE] * n)
        n_audio = sum(end - start for start, end in out.spans)
        self._check_budget(n_audio, f"the audio of a conversation ({len(out.spans)} clips)")
        return out

    def _tensors(self, rows: list[Encoded], side: str, with_labels: bool) -> dict[str, torch.Tensor]:
        longest = max(len(row.ids) for row in rows)
        batch = {
            "input_ids": _pad([row.ids for row in rows], self.tokenizer.pad_token_id, side, longest),
            "attention_mask": _pad([[1] * len(row.ids) for row in rows], 0, side, longest),
        }
        if with_labels:
            batch["labels"] = _pad([row.labels for row in rows], IGNORE, side, longest)
        return batch

    def __call__(
        self,
        conversations: Sequence[Sequence[Message]],
        audios: Sequence[Sequence[Any]] | None = None,
        *,
        collate: Collate | None = None,
        encoded: Sequence[Encoded | None] | None = None,
        add_generation_prompt: bool = False,
        n_new_tokens: int = 0,
        with_labels: bool = False,
        supervise: str = "assistant",
        padding_side: str | None = None,
        max_length: int | None = None,
        truncation: bool = False,
    ) -> BatchFeature:
        """Build a batch of model inputs: the only place where conversations and clips become tensors.

        Args:
            conversations: One list of messages per sample; several turns, several clips in a turn, or none.
            audios: Per sample its clips: mono float32 at `sample_rate`, or what `collate` accepts. A clip that is given
                several times (the same array, or an equal object of another type) is encoded once.
            collate: Turns B different clips into their lengths in samples, and the model's audio inputs; None pads
                waveforms (see `encoders.audio.pad_batch`).
            encoded: Per sample what `encode_conversation` has returned for it with the same arguments; None encodes it.
            add_generation_prompt: End prompts where the assistant's answer begins.
            n_new_tokens: Length limit of an answer that must still fit into the LLM's context.
            with_labels: Also return `labels`.
            supervise: What is labelled: `assistant` turns with their end-of-turn token, or `all` text.
            padding_side: Default: left with `add_generation_prompt`, else right.
            max_length: Longest allowed sample in tokens.
            truncation: Cut longer samples at their end, with a warning; a clip is kept whole or dropped.

        Returns:
            `input_ids`, `attention_mask` (B, L), `labels` (B, L) if asked for and, if there is audio,
            `input_values` (C, S) and `padding_mask` (C, S), or what `collate` returns, and `audio_index` (P,).

        Raises:
            UserError: Markers and clips disagree, a sample is longer than `max_length` or the LLM's context, or has no
                answer left.
        """
        audios = audios if audios is not None else [[]] * len(conversations)
        if len(audios) != len(conversations):
            raise UserError(f"got {len(conversations)} conversations and {len(audios)} lists of clips")
        collate = collate or collate_waveforms
        distinct = _distinct(clip for clips in audios for clip in clips)
        lengths, inputs = collate(list(distinct.values())) if distinct else ([], {})
        n_samples = dict(zip(distinct, lengths, strict=True))
        rows = [
            row
            or self.encode_conversation(
                conversation, [n_samples[_key(clip)] for clip in clips], add_generation_prompt, supervise
            )
            for row, conversation, clips in zip(
                encoded or [None] * len(conversations), conversations, audios, strict=True
            )
        ]
        rows = self._within(max_length, rows, truncation, add_generation_prompt)
        for row in rows:
            self._check_limits(row, n_new_tokens)
        batch = self._tensors(
            rows, padding_side or ("left" if add_generation_prompt else "right"), with_labels
        )
        kept = [clip for clips, row in zip(audios, rows, strict=True) for clip in clips[: len(row.spans)]]
        remaining = _distinct(kept)
        if len(remaining) < len(distinct):
            inputs = collate(list(remaining.values()))[1] if remaining else {}
        if remaining:
            place = {key: i for i, key in enumerate(remaining)}
            batch |= inputs
            batch["audio_index"] = torch.tensor([place[_key(clip)] for clip in kept])
        return BatchFeature(batch)

    def _within(
        self, max_length: int | None, rows: list[Encoded], truncation: bool, is_prompt: bool
    ) -> list[Encoded]:
        """The samples, none longer than `max_length`; truncated samples are reported."""
        longest = max(len(row.ids) for row in rows)
        if max_length is None or longest <= max_length:
            return rows
        if not truncation or is_prompt:
            raise UserError(
                f"a sample has {longest} tokens, more than max_length={max_length}; shorten it or raise the limit"
                + (" (a prompt is not cut: its end is the question)" if truncation else "")
            )
        cut = [row.cut(max_length) if len(row.ids) > max_length else row for row in rows]
        clips = sum(len(a.spans) - len(b.spans) for a, b in zip(rows, cut, strict=True))
        n_cut = sum(len(row.ids) > max_length for row in rows)
        warnings.warn(
            f"{n_cut} of {len(rows)} samples were cut to {max_length} tokens or less, {clips} clips dropped; "
            f"the longest had {longest}",
            stacklevel=3,
        )
        empty = [i for i, row in enumerate(cut) if all(label == IGNORE for label in row.labels)]
        if empty:
            raise UserError(
                f"sample {empty[0]} of the batch has no answer left in max_length={max_length} tokens; raise the limit"
            )
        return cut


Collate = Callable[[Sequence[Any]], tuple[Sequence[int], dict[str, torch.Tensor]]]


def _key(clip: Any) -> Any:
    """The key that identifies equal clips: the `id` of an array; any other object is its own key."""
    return id(clip) if isinstance(clip, np.ndarray) else clip


def _distinct(clips: Iterable[Any]) -> dict[Any, Any]:
    """The different clips by key, in order of first use."""
    return {_key(clip): clip for clip in clips}


def check_files(folder: Path, values: dict[str, Any]) -> None:
    """Refuse tokenizer files other than those saved with processor_config.json: another vocabulary makes other tokens.

    Args:
        folder: Directory written by `AudioLanguageProcessor.save_pretrained`.
        values: Its processor_config.json; one of an earlier version lists no files.

    Raises:
        CheckpointError: A file is missing or has changed.
    """
    if "files" in values and (difference := changed_file(folder, values["files"], PROCESSOR_CONFIG)):
        raise CheckpointError(
            f"{folder}: {difference} since the processor was saved; restore it, or remove its entry from 'files' in "
            f"{PROCESSOR_CONFIG} if you mean the change"
        )


def check_tokenizer(tokenizer: Any) -> None:
    """Use a tokenizer once, so that a wrong value in its files raises here and not in the middle of a run."""
    for text in ("What is this?", "<|audio|>\n é 音"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokenizer.batch_decode([ids], skip_special_tokens=True)
        if not ids or not all(isinstance(token, int) for token in ids):
            raise CheckpointError(f"the tokenizer makes no tokens of {text!r}; restore its files")


def check_template(processor: AudioLanguageProcessor, where: str) -> None:
    """Render a short question, so that a broken chat template is refused before any audio is read.

    Raises:
        CheckpointError: The template is broken, or its text alone exceeds the LLM's context.
    """
    try:
        processor([[{"role": "user", "content": "What is this?"}]], add_generation_prompt=True)
    except UserError as error:
        raise CheckpointError(f"{where}: {error}") from error


def llm_limits(config: Any) -> tuple[int | None, int | None]:
    """Context length and number of token embeddings that an LLM's config states; None where it states none."""
    text = config.get_text_config()
    context, words = getattr(text, "max_position_embeddings", None), getattr(text, "vocab_size", None)
    found = [value if isinstance(value, int) and value > 0 else None for value in (context, words)]
    return found[0], found[1]


def _pad(rows: list[list[int]], value: int, side: str, width: int) -> torch.Tensor:
    """Rows of different length as one (B, width) long tensor."""
    filled = []
    for row in rows:
        fill = [value] * (width - len(row))
        filled.append(fill + row if side == "left" else row + fill)
    return torch.tensor(filled, dtype=torch.long)


def build_processor(tokenizer: Any, model: Any, chat_template: str | None = None) -> AudioLanguageProcessor:
    """The processor of a freshly assembled model; also sets the placeholder's id in the model's config."""
    with typed_errors("llm: cannot use the tokenizer"):
        check_tokenizer(tokenizer)
        processor = AudioLanguageProcessor(
            tokenizer, model.config.encoder, model.config.projector, chat_template=chat_template
        )
    model.config.audio_token_id = processor.audio_token_id
    processor.context_length = llm_limits(model.llm.config)[0]
    processor.vocab_size = model.get_input_embeddings().weight.shape[0]
    check_template(processor, "chat_template" if chat_template else "llm")
    return processor


AutoProcessor.register(AudioLanguageConfig, AudioLanguageProcessor, exist_ok=True)
