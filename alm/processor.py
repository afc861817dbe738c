"""Turns text or conversations, with their clips, into model inputs: chat template, placeholders, labels, padding.

Axis letters: B batch, L tokens, C clips, S samples, P placeholder spans.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from transformers import AutoProcessor, ProcessorMixin
from transformers.processing_utils import AudioKwargs, ProcessingKwargs
from transformers.utils.chat_template_utils import get_json_schema

from alm.auto import AUTO_MAP, write_stub
from alm.common.errors import AudioError, CheckpointError, UserError, about_sample, shown
from alm.common.fields import refuse_unknown
from alm.common.files import make_folder
from alm.common.json_text import parse_json, write_json
from alm.common.pretrained import typed_errors
from alm.configuration import AUDIO_TOKEN, AudioLanguageConfig
from alm.decoding import take_stop_tokens
from alm.head import IGNORE
from alm.hub.upload import push
from alm.processing.batch import (
    BatchOptions,
    Collate,
    Encoded,
    clip_key,
    distinct,
    first_unlabelled,
    pad_rows,
)
from alm.processing.conversation import Message, flatten, is_batch
from alm.processing.feature_extraction import (
    AudioLanguageFeatureExtractor,
    AudioLanguageInputs,
    check_return_tensors,
    clips_in,
    is_waveform,
    padded_width,
)
from alm.processing.saved import check_tokenizer, read_processor, tokenizer_files
from alm.templates import chat_template as named_template
from alm.templates.render import variables_of
from alm.templates.turns import DEFAULTS, ChatTemplate, Part
from encoders import EncoderConfig
from encoders.checkpoint import resolve_source
from projectors.base import ProjectorConfig

SUPERVISED = ("assistant", "all")

_FILES = ("*.json", "*.jinja", "*.model", "*.txt")
_SETTINGS = {"chat_template", "max_audio_tokens"}
_TEXT = {"add_special_tokens", "max_length", "pad_to_multiple_of", "padding", "padding_side", "return_attention_mask",
           "return_mm_token_type_ids", "return_tensors", "truncation", "verbose"}  # fmt: skip
"""Arguments of `TextKwargs` that have an effect here."""
_AUDIO = set(AudioKwargs.__annotations__) - {"raw_speech", "load_audio_backend"}
_NOT_PADDING = {"sampling_rate", "return_tensors", "device"}
"""Arguments of the feature extractor that `pad_clips` does not take."""
_NESTED = {"text_kwargs", "audio_kwargs", "common_kwargs"}
_OTHER_MODALITIES = {"images", "videos", "images_kwargs", "videos_kwargs"}
_CALL = {
    *_TEXT, "sampling_rate", "device", *_NESTED, *_OTHER_MODALITIES, "output_labels", "supervise", "collate", "encoded",
    "n_new_tokens",
}  # fmt: skip
"""Arguments that reach the input builder through `apply_chat_template`."""


class _Defaults(ProcessingKwargs, total=False):
    """Default arguments of a call."""

    _defaults = {  # type: ignore[misc]  # as the siblings have it
        "text_kwargs": {"padding": True, "return_tensors": "pt"},
        "audio_kwargs": {"return_tensors": "pt"},
    }


class AudioLanguageProcessor(ProcessorMixin):
    """Turns text with `<|audio|>` markers, or conversations, and their clips into batches for the model.

    Args:
        feature_extractor: Reads and pads clips; knows how many tokens a clip takes.
        tokenizer: The LLM's tokenizer; the placeholder is added if it lacks it.
        chat_template: A Jinja template, or the name of one in `alm.templates`; None takes the tokenizer's, or `plain`
            if the tokenizer has none.
        audio_token: The placeholder.
        max_audio_tokens: Maximum number of audio tokens in a sample; None sets no limit except the LLM's context.
            Longer audio is refused, never cut: pass a part of it, or train a projector with fewer tokens per second.
    """

    valid_processor_kwargs = _Defaults

    context_length: int | None = None
    """The LLM's context length in tokens, for prompt and answer together; None: unknown or unlimited."""
    vocab_size: int | None = None
    """Number of token embeddings of the LLM; None: unknown."""

    def __init__(
        self,
        feature_extractor: AudioLanguageFeatureExtractor,
        tokenizer: Any,
        chat_template: str | dict[str, str] | None = None,
        audio_token: str = AUDIO_TOKEN,
        max_audio_tokens: int | None = None,
    ) -> None:
        if tokenizer.convert_tokens_to_ids(audio_token) in (None, tokenizer.unk_token_id):
            tokenizer.add_tokens([audio_token], special_tokens=True)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        template = chat_template or tokenizer.chat_template or "plain"
        if isinstance(template, str):
            template = named_template(template)
        super().__init__(feature_extractor, tokenizer, chat_template=template)  # type: ignore[no-untyped-call]
        self.audio_token = audio_token
        self.max_audio_tokens = max_audio_tokens
        self.audio_token_id: int = tokenizer.convert_tokens_to_ids(audio_token)
        self._templates: dict[str, ChatTemplate] = {}

    def to_json_file(self, json_file_path: Any) -> None:
        """Write processor_config.json, the last file of a saved processor, with a hash of each tokenizer file.

        Args:
            json_file_path: Its path.
        """
        config = Path(json_file_path)
        listed = tokenizer_files(config.parent, self.tokenizer)
        values = parse_json(self.to_json_string(), str(config), constants=True)
        named = {"AutoProcessor": AUTO_MAP["AutoProcessor"]}
        write_json(config, values | {"files": listed, "auto_map": named})
        write_stub(config.parent)

    @property
    def sample_rate(self) -> int:
        """Sample rate in Hz that clips must have."""
        return self.encoder_config.sample_rate

    @property
    def encoder_config(self) -> EncoderConfig:
        """The encoder's config."""
        return self.feature_extractor.encoder_config  # type: ignore[no-any-return]

    @property
    def projector_config(self) -> ProjectorConfig:
        """The projector's config."""
        return self.feature_extractor.projector_config  # type: ignore[no-any-return]

    @property
    def model_input_names(self) -> list[str]:
        """Names of the tensors that the model takes."""
        return ["input_ids", "attention_mask", *self.feature_extractor.model_input_names, "audio_index"]

    def n_audio_tokens(self, n_samples: int) -> int:
        """LLM tokens that a clip of `n_samples` takes in the prompt.

        Raises:
            AudioError: It is too short for one token, or alone takes more than `max_audio_tokens` or the LLM's context.
        """
        n_tokens: int = self.feature_extractor.n_audio_tokens(n_samples)
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

    def template(self, chat_template: str | None = None) -> ChatTemplate:
        """The processor's chat template, or another one.

        Args:
            chat_template: Jinja text, or a name: of one of the processor's templates, or of one in `alm.templates`.
        """
        own = self.chat_template
        if isinstance(own, dict):
            if (chat_template or "default") in own:
                chat_template = own[chat_template or "default"]
            elif chat_template is None:
                raise UserError(
                    f"chat_template: choose one of {', '.join(sorted(own))}; none is named default"
                )
        text = named_template(chat_template or str(own))
        if text not in self._templates:
            self._templates[text] = ChatTemplate(
                text, self.tokenizer.special_tokens_map, list(self.tokenizer.get_added_vocab())
            )
        return self._templates[text]

    @property
    def stop_token_ids(self) -> list[int]:
        """Tokens that end an answer: the end-of-text token and the template's end of turn."""
        ends = self._ids(self.template().end_of_turn, continued=True)[-1:]
        return sorted({i for i in (self.tokenizer.eos_token_id, *ends) if i is not None})

    def _ids(self, text: str, continued: bool) -> list[int]:
        """Token ids of a piece of text; a piece that continues a text gets no SentencePiece space in front."""
        if continued:
            ids = self._tokenized(self.audio_token + text)
            if ids[:1] == [self.audio_token_id]:
                return ids[1:]
        return self._tokenized(text)

    def _tokenized(self, text: str, add_special_tokens: bool = False) -> list[int]:
        # The tokenizer's regular expression can fail on a text; the tokenizers library then panics
        with typed_errors("the tokenizer cannot read a text of the conversation", UserError):
            ids: list[int] = self.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
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
            conversation: Messages with one `<|audio|>`, or one audio item, per clip.
            n_samples: Length of each clip in samples, in order.
            add_generation_prompt: End with the header of an assistant turn.
            supervise: `assistant`, or `all` for every token that is not audio.

        Raises:
            UserError: The markers are not as many as the clips.
            AudioError: The clips take more than `max_audio_tokens`.
        """
        messages, _ = flatten(conversation, self.audio_token, n_samples)
        return self._encode(self.template().parts(messages, add_generation_prompt), n_samples, supervise)

    def prompt_ids(
        self,
        conversation: Sequence[Message],
        audio: Iterable[Any] = (),
        *,
        chat_template: str | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a prompt with one placeholder per clip, for engines that expand placeholders themselves.

        Args:
            conversation: As for `apply_chat_template`.
            audio: One object per `<|audio|>` marker, and one per audio item without a clip of its own.
            chat_template: Another template than the processor's: Jinja text, or a name.
            add_generation_prompt: End with the header of an assistant turn.
            continue_final_message: End inside the last answer, which the model then continues.
            **variables: Further variables of the template.

        Raises:
            UserError: The markers are not as many as the clips, or the template refuses the conversation.
        """
        messages, _ = flatten(conversation, self.audio_token, audio)
        parts = self.template(chat_template).parts(
            messages,
            add_generation_prompt and not continue_final_message,
            continue_final_message,
            **variables,
        )
        ids: list[int] = []
        for text, _ in parts:
            ids += self._ids(text, continued=bool(ids))
        return ids

    def _encode(
        self,
        parts: Sequence[Part],
        n_samples: Sequence[int],
        supervise: str = "assistant",
        add_special_tokens: bool = False,
    ) -> Encoded:
        if supervise not in SUPERVISED:
            raise UserError(f"supervise: got '{supervise}', expected one of {', '.join(SUPERVISED)}")
        markers = sum(text.count(self.audio_token) for text, _ in parts)
        if markers != len(n_samples):
            raise UserError(
                f"the conversation has {markers} {self.audio_token} markers for {len(n_samples)} clips; "
                "write one marker per clip"
            )
        counts = iter(n_samples)
        out = Encoded([], [], [])
        for text, answer in parts:
            tokens = (
                self._tokenized(text, True)
                if add_special_tokens
                else self._ids(text, continued=bool(out.ids))
            )
            for token in tokens:
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

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        audio: Any = None,
        output_labels: bool = False,
        *,
        collate: Collate | None = None,
        n_new_tokens: int = 0,
        **kwargs: Unpack[ProcessingKwargs],
    ) -> AudioLanguageInputs:
        """Build a batch of model inputs from rendered prompts; `apply_chat_template` renders conversations.

        Args:
            text: One text or a list, with one `<|audio|>` per clip. The chat template writes special tokens, so none
                are added; `add_special_tokens=True` adds those of the tokenizer.
            audio: The clips in the order of their markers: a list, or per text a list. A clip is a mono waveform in
                [-1, 1] at `sampling_rate` (array, tensor, list of numbers), a path, an `http(s):` or `data:` address,
                or the bytes of a file. The same clip given several times is read, and encoded, once.
            output_labels: Also return `labels`: the text's token ids, -100 at audio and padding.
            collate: Reads the clips instead of the feature extractor; clips may then be anything that it accepts.
            n_new_tokens: Length limit of an answer that must still fit into the LLM's context.
            **kwargs: `transformers`' processing arguments, given directly or in `text_kwargs` and `audio_kwargs`.
                `padding`, `max_length`, `truncation` and `pad_to_multiple_of`, given directly, apply to the text. An
                argument without an effect is refused. `padding_side`: left by default, right with labels.
                `max_length`: longest allowed sample in tokens. `truncation`: cut longer samples at their end, with a
                warning; a clip is kept whole or dropped. `sampling_rate`: rate of the waveforms in Hz; it must be the
                encoder's.

        Returns:
            `input_ids`, `attention_mask` (B, L), `labels` (B, L) if asked for and, if there is audio,
            `input_values` (C, S) float32 and `padding_mask` (C, S), or what `collate` returns, and `audio_index`
            (P,): the clip behind each placeholder span.

        Raises:
            UserError: Markers and clips disagree, a sample is longer than `max_length` or the LLM's context, or an
                argument is wrong.
            AudioError: A clip cannot be read, or has another sampling rate.
        """
        merged = self._merged(dict(kwargs), audio)
        if text is None:
            if audio is None:
                raise UserError("the processor needs text, audio or both")
            return self.feature_extractor(audio, **merged["audio_kwargs"])  # type: ignore[no-any-return]
        texts = [text] if isinstance(text, str) else list(text)
        if not texts or not all(isinstance(row, str) for row in texts):
            raise UserError(
                "text: expected a string or a list of strings; conversations go to apply_chat_template"
            )
        options = BatchOptions(
            supervise="all", is_prompt=not output_labels, output_labels=output_labels, collate=collate,
            n_new_tokens=n_new_tokens, text=merged["text_kwargs"], audio=merged["audio_kwargs"],
            mm_token_type_ids=bool(merged["return_mm_token_type_ids"]),
        )  # fmt: skip
        return self._build([[(row, False)] for row in texts], self._clips_of(texts, audio), options)

    def apply_chat_template(  # type: ignore[override]
        self,
        conversation: Any,
        chat_template: str | None = None,
        tools: list[Any] | None = None,
        documents: list[dict[str, str]] | None = None,
        add_generation_prompt: bool = False,
        continue_final_message: bool = False,
        return_assistant_tokens_mask: bool = False,
        tokenize: bool = False,
        return_tensors: Any = "auto",
        return_dict: bool = False,
        load_audio_from_video: bool = False,
        processor_kwargs: dict[str, Any] | None = None,
        sanitize_control_tokens: bool = False,
        *,
        audio: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Render conversations, and build model inputs from them and their clips.

        Args:
            conversation: One list of messages, or a list of them. Content is a string, or a list of
                `{"type": "text", "text": ...}` and `{"type": "audio", "path" | "audio" | "url" | "base64": ...}` in
                any order.
            chat_template: Another template than the processor's: Jinja text, or a name.
            tools: Functions or JSON schemas, for templates that use them.
            documents: Documents, for templates that use them.
            add_generation_prompt: End with the header of an assistant turn.
            continue_final_message: End inside the last answer, which the model then continues.
            return_assistant_tokens_mask: Also return `assistant_masks` (B, L), 1 at answers and their end-of-turn
                tokens. Works with every template, with or without `{% generation %}`.
            tokenize: Return model inputs; False returns the text with one `<|audio|>` per clip, and reads no audio.
            return_tensors: `pt`.
            return_dict: Return all inputs; False returns `input_ids` alone.
            load_audio_from_video: Refused: there is no video.
            processor_kwargs: Arguments of `__call__`, and those below.
            sanitize_control_tokens: Refused; check untrusted text before.
            audio: Clips for `<|audio|>` markers in string contents, and for audio items without a clip of their own:
                one list, or one list per conversation.
            **kwargs: Variables of the template, and arguments of `__call__`. `supervise`: what `labels` cover:
                `assistant` turns with their end-of-turn token, or `all` text. `encoded`: for each conversation
                the result of `encode_conversation` with the same arguments, or None. `padding_side`: left by
                default for prompts, else right.

        Returns:
            The result of `__call__`, or the text.

        Raises:
            UserError: A conversation is malformed, the template refuses it, an argument is unknown, or truncation to
                `max_length` removes every answer; also the errors of `__call__`.
            AudioError: A clip cannot be read, or has another sampling rate.
        """
        _refuse_given(
            load_audio_from_video=load_audio_from_video, sanitize_control_tokens=sanitize_control_tokens
        )
        if continue_final_message and (add_generation_prompt or return_assistant_tokens_mask):
            raise UserError(
                "continue_final_message excludes add_generation_prompt and return_assistant_tokens_mask: the answer "
                "is not finished"
            )
        template = self.template(chat_template)
        names = {"tools", "documents", *DEFAULTS, *(variables_of(template.text) if kwargs else ())}
        variables = {key: kwargs.pop(key) for key in list(kwargs) if key in names and key not in _CALL}
        variables["tools"] = (
            [get_json_schema(tool) if callable(tool) else tool for tool in tools] if tools else None
        )
        variables["documents"] = documents
        for name in ("tools", "documents"):
            if variables[name] and name not in variables_of(template.text):
                raise UserError(f"{name}: this chat template does not use them; remove them")
        settings = {**(processor_kwargs or {}), **kwargs}
        refuse_unknown("apply_chat_template", settings, _CALL)
        batched = is_batch(conversation)
        rows = conversation if batched else [conversation]
        given: Sequence[Sequence[Any] | None] = (
            [None] * len(rows) if audio is None and not tokenize else _per_row(audio, len(rows), batched)
        )
        read = [flatten(row, self.audio_token, clips) for row, clips in zip(rows, given, strict=True)]
        if not tokenize:
            texts = [
                "".join(
                    text for text, _ in template.parts(messages, continue_final_message=True, **variables)
                )
                if continue_final_message
                else template.render(messages, add_generation_prompt, **variables)
                for messages, _ in read
            ]
            return texts if batched else texts[0]
        if return_tensors != "auto":
            settings["return_tensors"] = return_tensors
        supervise = settings.pop("supervise", None) or "assistant"
        if return_assistant_tokens_mask and supervise != "assistant":
            raise UserError(f"return_assistant_tokens_mask: supervise is '{supervise}', expected 'assistant'")
        toolkit = {
            key: settings.pop(key) for key in ("collate", "encoded", "n_new_tokens") if key in settings
        }
        output_labels = bool(settings.pop("output_labels", False))
        merged = self._merged(settings)
        options = BatchOptions(
            supervise=supervise, is_prompt=add_generation_prompt or continue_final_message,
            output_labels=output_labels, assistant_masks=return_assistant_tokens_mask, text=merged["text_kwargs"],
            audio=merged["audio_kwargs"], mm_token_type_ids=bool(merged["return_mm_token_type_ids"]), **toolkit,
        )  # fmt: skip
        encoded = options.encoded or [None] * len(read)
        parts = (  # rendered once the clips are read: a clip's own error comes first
            []
            if row
            else template.parts(messages, add_generation_prompt, continue_final_message, **variables)
            for (messages, _), row in zip(read, encoded, strict=True)
        )
        batch = self._build(parts, [clips for _, clips in read], options)
        return batch if return_dict else batch["input_ids"]

    def _merged(self, kwargs: dict[str, Any], audio: Any = None) -> dict[str, Any]:
        """Arguments by modality, merged and validated by `transformers`; those without an effect are refused."""
        given = dict(kwargs)
        refuse_unknown("the processor", given, _CALL)
        _refuse_given(
            **{
                key: given.pop(key)
                for key in (*_OTHER_MODALITIES, "images_kwargs", "videos_kwargs")
                if key in given
            }
        )
        text = {**given.pop("common_kwargs", {}), **given.pop("text_kwargs", {})}
        for key in [key for key in given if key in _TEXT]:
            if key in text:
                raise UserError(f"{key}: given twice, in text_kwargs and by itself")
            text[key] = given.pop(key)
        refuse_unknown("text_kwargs", text, _TEXT)
        refuse_unknown("audio_kwargs", given.get("audio_kwargs", {}), _AUDIO)
        mm = text.pop("return_mm_token_type_ids", False)
        with typed_errors("the processor", UserError):
            merged: dict[str, Any] = self._merge_kwargs(cast(Any, _Defaults), text_kwargs=text, **given)
        merged["return_mm_token_type_ids"] = mm
        check_return_tensors(merged["text_kwargs"].pop("return_tensors"))
        self.feature_extractor.check_sampling_rate(merged["audio_kwargs"].get("sampling_rate"), audio)
        merged["audio_kwargs"]["sampling_rate"] = self.sample_rate
        return merged

    def _clips_of(self, texts: Sequence[str], audio: Any) -> list[list[Any]]:
        """The clips of every text: lists given per text, or a flat list divided by the numbers of markers."""
        per_text = [row.count(self.audio_token) for row in texts]
        nested = isinstance(audio, list | tuple) and len(audio) == len(texts)
        if nested and all(isinstance(row, list | tuple) and not is_waveform(row) for row in audio):
            return [clips_in(row) for row in audio]
        clips = clips_in(audio)
        if len(clips) != sum(per_text):
            raise UserError(
                f"the text has {sum(per_text)} {self.audio_token} markers for {len(clips)} clips; write one marker per "
                "clip"
            )
        waiting = iter(clips)
        return [[next(waiting) for _ in range(n)] for n in per_text]

    def _build(
        self, parts: Iterable[Sequence[Part]], audios: Sequence[Sequence[Any]], options: BatchOptions
    ) -> AudioLanguageInputs:
        """The only place where text and clips become tensors."""
        if not audios:
            raise UserError("got no text and no conversation")
        collate = options.collate
        if collate is None:
            audios, collate = self._read(audios, options.audio)
        different = distinct(clip for clips in audios for clip in clips)
        lengths, inputs = collate(list(different.values())) if different else ([], {})
        n_samples = dict(zip(different, lengths, strict=True))
        special = bool(options.text.get("add_special_tokens"))
        rows: list[Encoded] = []
        given = zip(options.encoded or [None] * len(audios), parts, audios, strict=True)
        for index, (row, part, clips) in enumerate(given):
            with about_sample(index):
                counts = [n_samples[clip_key(clip)] for clip in clips]
                rows.append(row or self._encode(part, counts, options.supervise, special))
        rows = self._within(rows, options)
        for index, row in enumerate(rows):
            with about_sample(index):
                self._check_limits(row, options.n_new_tokens)
        batch = self._tensors(rows, options)
        kept = [clip for clips, row in zip(audios, rows, strict=True) for clip in clips[: len(row.spans)]]
        remaining = distinct(kept)
        if len(remaining) < len(different):
            inputs = collate(list(remaining.values()))[1] if remaining else {}
        if remaining:
            place = {key: i for i, key in enumerate(remaining)}
            batch |= inputs
            batch["audio_index"] = torch.tensor([place[clip_key(clip)] for clip in kept])
        return AudioLanguageInputs(batch)

    def _read(
        self, audios: Sequence[Sequence[Any]], audio_kwargs: dict[str, Any]
    ) -> tuple[list[list[Any]], Collate]:
        """The clips as waveforms, and a function that collates them with the feature extractor."""
        flat = [clip for clips in audios for clip in clips]
        read = iter(self.feature_extractor.read(flat))

        padding = {key: value for key, value in audio_kwargs.items() if key not in _NOT_PADDING}
        device = audio_kwargs.get("device")

        def collate(clips: Sequence[Any]) -> tuple[list[int], dict[str, torch.Tensor]]:
            check_return_tensors(audio_kwargs.get("return_tensors"))
            lengths, inputs = self.feature_extractor.pad_clips(clips, **padding)
            return lengths, inputs if device is None else dict(AudioLanguageInputs(inputs).to(device=device))

        return [[next(read) for _ in clips] for clips in audios], collate

    def _tensors(self, rows: list[Encoded], options: BatchOptions) -> dict[str, torch.Tensor]:
        text = options.text
        side = text.get("padding_side") or ("left" if options.is_prompt else "right")
        lengths = [len(row.ids) for row in rows]
        width = padded_width(
            lengths, text.get("padding"), text.get("max_length"), text.get("pad_to_multiple_of"), "text"
        )
        batch = {"input_ids": pad_rows([row.ids for row in rows], self.tokenizer.pad_token_id, side, width)}
        if text.get("return_attention_mask") is not False:
            batch["attention_mask"] = pad_rows([[1] * n for n in lengths], 0, side, width)
        if options.output_labels:
            batch["labels"] = pad_rows([row.labels for row in rows], IGNORE, side, width)
        if options.assistant_masks:
            masks = [[int(label != IGNORE) for label in row.labels] for row in rows]
            batch["assistant_masks"] = pad_rows(masks, 0, side, width)
        if options.mm_token_type_ids:
            batch["mm_token_type_ids"] = 3 * (batch["input_ids"] == self.audio_token_id).long()  # 3: audio
        return batch

    def _within(self, rows: list[Encoded], options: BatchOptions) -> list[Encoded]:
        """The samples, none longer than `max_length`; truncated samples are reported."""
        longest = max(len(row.ids) for row in rows)
        max_length = options.text.get("max_length")
        truncation = options.text.get("truncation") not in (None, False, "do_not_truncate")
        if max_length is None or longest <= max_length:
            return rows
        if not truncation or (options.is_prompt and not options.output_labels):
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
            stacklevel=4,
        )
        empty = first_unlabelled(cut)
        if empty is not None:
            raise UserError(
                f"sample {empty} of the batch has no answer left in max_length={max_length} tokens; raise the limit"
            )
        return cut

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """Write the tokenizer's files, `chat_template.jinja` and `processor_config.json`.

        Args:
            save_directory: Created if needed.
            push_to_hub: Also upload the directory.
            **kwargs: Arguments of the upload, such as `repo_id`, `token` and `private`.

        Raises:
            CheckpointError: The directory cannot be written.
            UserError: Arguments of an upload without one.
        """
        if not push_to_hub:
            refuse_unknown(
                "AudioLanguageProcessor.save_pretrained", kwargs, {"save_directory", "push_to_hub"}
            )
        make_folder(save_directory, CheckpointError)
        return super().save_pretrained(os.fspath(save_directory), push_to_hub, **kwargs)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: list[str] | None = None,
    ) -> str:
        """Upload the processor to the hub, as in transformers; the model's card is not changed.

        Args:
            repo_id: `name` or `organisation/name`.
            commit_message: First line of the commit.
            commit_description: Further lines.
            private: Whether a new repository is private; None is the hub's default.
            token: Token of the hub; None takes the stored one.
            revision: Branch; it is created if it does not exist.
            create_pr: Open a pull request instead of committing to the branch.
            max_shard_size: Has no effect for a processor.
            tags: Refused: tags belong to the model's card.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: The hub cannot be reached, or refuses.
        """
        _refuse_given(tags=tags)
        return push(
            self.save_pretrained, repo_id, what="processor", commit_message=commit_message, private=private,
            commit_description=commit_description, token=token, revision=revision, create_pr=create_pr,
        )  # fmt: skip

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        cache_dir: Any = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> Any:
        """Load a processor, and compare it with the config of the model in the same directory, if there is one.

        Args:
            pretrained_model_name_or_path: Directory or Hub id; directories of earlier releases also load.
            cache_dir: Where the Hub's files are kept.
            force_download: Download the Hub's files again.
            local_files_only: Use only what was downloaded before.
            token: Token of the Hub.
            revision: Branch, tag or commit on the Hub; a local directory has none.
            **kwargs: `subfolder`; `trust_remote_code`: run Python code of the tokenizer or the referenced LLM;
                `chat_template` and `max_audio_tokens` in place of the saved ones. Others are refused.

        Raises:
            CheckpointError: A file is missing or broken (names file and key), or belongs to another model.
            UserError: An argument that is not supported.
        """
        if "_from_pipeline" not in kwargs:  # a pipeline also passes the model's arguments to the processor
            known = {*_SETTINGS, "subfolder", "trust_remote_code", "config", "code_revision"}
            refuse_unknown("AudioLanguageProcessor.from_pretrained", kwargs, known)
        folder = resolve_source(
            pretrained_model_name_or_path,
            revision,
            _FILES,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        ) / (kwargs.get("subfolder") or "")
        saved = read_processor(folder, bool(kwargs.get("trust_remote_code")))
        config = saved.config
        with typed_errors(f"{folder}: cannot use the tokenizer"):
            processor = cls(
                saved.feature_extractor,
                saved.tokenizer,
                kwargs.get("chat_template", saved.chat_template),
                saved.audio_token or AUDIO_TOKEN,
                kwargs.get("max_audio_tokens", saved.max_audio_tokens),
            )
        if config is not None:
            processor.context_length, processor.vocab_size = llm_limits(config.text_config)
        holder = saved.tokenizer.convert_ids_to_tokens(processor.audio_token_id)
        if holder != processor.audio_token:
            raise CheckpointError(
                f"{folder}: in the tokenizer, {processor.audio_token} shares its id {processor.audio_token_id} with "
                f"{shown(holder, 40)}; restore the tokenizer of this model"
            )
        if config is not None and processor.audio_token_id != config.audio_token_id:
            raise CheckpointError(
                f"{folder}: {config.audio_token} has id {processor.audio_token_id} in the tokenizer, audio_token_id in "
                f"config.json is {config.audio_token_id}; restore the tokenizer of this model"
            )
        check_template(processor, str(saved.template_source))
        return processor

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoProcessor") -> None:
        """Do nothing: a saved directory names this class in `auto_map` itself, through the installed toolkit."""


def check_template(processor: AudioLanguageProcessor, where: str) -> None:
    """Render a short question, so that a broken chat template is refused before any audio is read.

    Raises:
        CheckpointError: The template is broken, or its text alone exceeds the LLM's context.
    """
    question = [{"role": "user", "content": "What is this?"}]
    try:
        processor.apply_chat_template(question, tokenize=True, add_generation_prompt=True)
    except UserError as error:
        raise CheckpointError(f"{where}: {error}") from error


def llm_limits(config: Any) -> tuple[int | None, int | None]:
    """Context length and number of token embeddings that an LLM's config states; None where it states none."""
    text = config.get_text_config()
    context, words = getattr(text, "max_position_embeddings", None), getattr(text, "vocab_size", None)
    found = [value if isinstance(value, int) and value > 0 else None for value in (context, words)]
    return found[0], found[1]


def build_processor(tokenizer: Any, model: Any, chat_template: str | None = None) -> AudioLanguageProcessor:
    """The processor of a freshly assembled model; also tells the model the placeholder's id and the stop tokens."""
    with typed_errors("llm: cannot use the tokenizer"):
        check_tokenizer(tokenizer)
        extractor = AudioLanguageFeatureExtractor(model.config.encoder, model.config.projector)
        processor = AudioLanguageProcessor(extractor, tokenizer, chat_template)
    model.config.audio_token_id = processor.audio_token_id
    processor.context_length = llm_limits(model.llm.config)[0]
    processor.vocab_size = model.get_input_embeddings().weight.shape[0]
    check_template(processor, "chat_template" if chat_template else "llm")
    take_stop_tokens(model, processor)
    return processor


def _per_row(audio: Any, n_rows: int, batched: bool) -> list[Sequence[Any]]:
    """The clips that were passed separately from the conversations, as one list per conversation."""
    if audio is None:
        return [()] * n_rows
    if not batched:
        return [clips_in(audio)]
    rows = list(audio) if isinstance(audio, Sequence) else []
    if len(rows) != n_rows or any(is_waveform(row) or not isinstance(row, Sequence) for row in rows):
        raise UserError(
            f"got {n_rows} conversations and {len(rows)} lists of clips; give one list per conversation"
        )
    return rows


def _refuse_given(**values: Any) -> None:
    """Refuse arguments that are set but not supported by this processor, for example those of other modalities.

    Raises:
        UserError: Names the argument.
    """
    for name, value in values.items():
        nothing = (
            value is None or value is False or (isinstance(value, dict | list | tuple | str) and not value)
        )
        if not nothing:
            raise UserError(f"{name} is not supported by the audio-language processor; remove it")


AutoProcessor.register(AudioLanguageConfig, AudioLanguageProcessor, exist_ok=True)
