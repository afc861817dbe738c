"""Prompts with clips as vLLM's engine takes them: waveforms, exact token counts, and clips for its memory profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature
from vllm.exceptions import VLLMValidationError
from vllm.multimodal.audio import AudioSpec, normalize_audio
from vllm.multimodal.inputs import MultiModalFieldConfig
from vllm.multimodal.parse import AudioProcessorItems, MultiModalDataParser
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    PromptReplacement,
)

from alm.common.errors import AudioError, UserError
from alm.processing.feature_extraction import as_waveform
from alm.processor import AudioLanguageProcessor
from alm.serving.vllm.settings import config_of, processor_of
from encoders.audio import resample

LONGEST_PROFILED_S = 600
"""Seconds of the clip by which memory is measured, where a projector gives every clip the same number of tokens."""


@contextmanager
def request_errors(parameter: str) -> Iterator[None]:
    """Raise our errors as those that vLLM answers with status 400 and their message.

    Args:
        parameter: The part of the request that is wrong.
    """
    try:
        yield
    except UserError as error:
        raise VLLMValidationError(str(error), parameter=parameter) from error


def check_markers(prompt: Sequence[int], n_clips: int, processor: AudioLanguageProcessor) -> None:
    """Refuse prompts whose placeholders are not as many as their clips.

    A placeholder's id may be outside the LLM's vocabulary; without a clip it would reach the embeddings.

    Args:
        prompt: Token ids, one placeholder per clip.
        n_clips: The clips of the request.
        processor: The model's processor.

    Raises:
        VLLMValidationError: They differ.
    """
    n_markers = sum(token == processor.audio_token_id for token in prompt)
    if n_markers != n_clips:
        raise VLLMValidationError(
            f"the prompt has {n_markers} {processor.audio_token} markers for {n_clips} clips; write one marker per "
            "clip",
            parameter="messages",
        )


class _Parser(MultiModalDataParser):  # type: ignore[misc]
    """Clips of a request, mixed to mono and resampled as `alm ask` does it."""

    def __init__(self, sample_rate: int, **options: Any) -> None:
        super().__init__(target_sr=sample_rate, target_channels=1, **options)
        self.audio_resampler = self
        self.sample_rate = sample_rate

    def resample(self, audio: Any, *, orig_sr: float) -> np.ndarray:
        """One clip (S,) or (channels, S) at the encoder's rate, mono."""
        mono = np.asarray(normalize_audio(np.asarray(audio), AudioSpec(target_channels=1)), dtype=np.float32)
        return resample(mono, round(orig_sr), self.sample_rate)


class ProcessingInfo(BaseProcessingInfo):  # type: ignore[misc]
    """What vLLM asks about a model's inputs."""

    def get_hf_processor(self, **kwargs: Any) -> AudioLanguageProcessor:
        """The model's processor, with `mm_processor_kwargs` of the engine or a request."""
        with request_errors("mm_processor_kwargs"):
            return processor_of(self.ctx.model_config, **self.ctx.get_merged_mm_kwargs(kwargs))

    def get_supported_mm_processor_kwargs(self) -> dict[str, set[str]]:
        """No arguments are given by modality."""
        return {}

    def get_default_tok_params(self) -> Any:
        """No special tokens are added: the chat template writes them."""
        return super().get_default_tok_params().with_kwargs(add_special_tokens=False)

    def get_data_parser(self) -> _Parser:
        """The parser that reads clips."""
        return _Parser(
            self.get_hf_processor().sample_rate,
            expected_hidden_size=self._get_expected_hidden_size(),
            allow_missing_mm_embeddings=self.allow_missing_mm_embeddings,
        )

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """A request may have any number of clips."""
        return {"audio": None}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int] | None = None
    ) -> Mapping[str, int]:
        """Tokens of the longest clip that fits into a prompt."""
        return {"audio": self.get_hf_processor().n_audio_tokens(self.longest_clip())}

    def longest_clip(self) -> int:
        """Samples of the clip with most tokens that fits into a prompt: less than `max_model_len`.

        Raises:
            UserError: None fits.
        """
        processor = self.get_hf_processor()
        most = self.ctx.model_config.max_model_len - 1
        if processor.max_audio_tokens is not None:
            most = min(most, processor.max_audio_tokens)
        if processor.projector_config.tokens_per_second is None:
            return LONGEST_PROFILED_S * processor.sample_rate
        fits, too_long = 0, processor.sample_rate
        while _n_tokens(processor, too_long) <= most:
            fits, too_long = too_long, 2 * too_long
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            fits, too_long = (middle, too_long) if _n_tokens(processor, middle) <= most else (fits, middle)
        if not _n_tokens(processor, fits):
            raise UserError(f"max_model_len={most + 1} is too short for any clip; raise it")
        return fits


def _n_tokens(processor: AudioLanguageProcessor, n_samples: int) -> int:
    """Tokens of a clip, whatever the limits; 0 where it is too short for one."""
    try:
        tokens: int = processor.feature_extractor.n_audio_tokens(n_samples)
    except AudioError:
        return 0
    return tokens


class DummyInputs(BaseDummyInputsBuilder[ProcessingInfo]):  # type: ignore[misc]
    """The largest inputs, by which vLLM measures memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """A prompt with one marker per clip."""
        marker: str = self.info.get_hf_processor().audio_token
        return marker * mm_counts.get("audio", 0)

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, list[np.ndarray]]:
        """Silence of the greatest length."""
        length = self.info.longest_clip()
        return {"audio": [np.zeros(length, dtype=np.float32)] * mm_counts.get("audio", 0)}


class MultiModalProcessor(BaseMultiModalProcessor[ProcessingInfo]):  # type: ignore[misc]
    """Turns requests into engine inputs. vLLM's caches identify a clip by a hash of its samples."""

    def apply(self, inputs: Any, timing_ctx: Any) -> Any:
        """Expand the prompt's markers, and hand its clips on."""
        n_clips = sum(inputs.mm_data_items.get_all_counts().values())
        check_markers(inputs.prompt, n_clips, self.info.get_hf_processor(**inputs.hf_processor_mm_kwargs))
        return super().apply(inputs, timing_ctx)

    def _call_hf_processor(self, hf_data: Mapping[str, Any], hf_kwargs: Mapping[str, object]) -> BatchFeature:
        # Not through vLLM, which would cast the waveforms to the LLM's dtype: in bfloat16 they are noisy.
        with request_errors("audio"):
            clips = [torch.from_numpy(as_waveform(clip)) for clip in hf_data["audio"]]
        return BatchFeature({"input_values": clips})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Any
    ) -> Mapping[str, Any]:
        return {"input_values": MultiModalFieldConfig.batched("audio")}

    def _get_prompt_updates(
        self, mm_items: Any, hf_processor_mm_kwargs: Mapping[str, Any], out_mm_kwargs: Any
    ) -> Sequence[Any]:
        processor = self.info.get_hf_processor(**hf_processor_mm_kwargs)
        shown = self._shown_token(processor)

        def expanded(item: int) -> list[int]:
            n_samples = mm_items.get_items("audio", AudioProcessorItems).get_audio_length(item)
            with request_errors("audio"):
                return [shown] * processor.n_audio_tokens(n_samples)

        return [PromptReplacement(modality="audio", target=[processor.audio_token_id], replacement=expanded)]

    def _shown_token(self, processor: AudioLanguageProcessor) -> int:
        """The id at the positions of audio: the placeholder's if the vocabulary has it, else that of a special token.

        vLLM looks up every id of a prompt for log-probabilities and penalties, so the id must be in the vocabulary.
        Answers contain no special token but the stop tokens, so a penalty on another one changes no answer.
        """
        vocabulary = config_of(self.info.ctx.model_config).get_text_config().vocab_size
        if processor.audio_token_id < vocabulary:
            return processor.audio_token_id
        special = [token for token in processor.tokenizer.all_special_ids if token < vocabulary]
        stops = processor.stop_token_ids
        return next((token for token in special if token not in stops), 0)
