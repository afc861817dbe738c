"""Turns clips into the model's audio inputs: reads, checks and pads them to one length.

Axis letters: C clips, S samples.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from transformers import AutoFeatureExtractor, BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from alm.auto import AUTO_MAP
from alm.common.errors import AudioError, CheckpointError, UserError, shown
from alm.common.fields import refuse_unknown
from alm.common.text import decode_base64
from alm.configuration import AudioLanguageConfig
from encoders import EncoderConfig, config_from_dict
from encoders.audio import LARGEST_SANE_PEAK, AudioOptions, is_url, load_audio, pad_batch
from projectors.base import ProjectorConfig
from projectors.registry import projector_config

logger = logging.get_logger(__name__)

# Fields that transformers' base classes write: they do not concern this encoder, so they are accepted and ignored.
_INHERITED = {"feature_size", "padding_value", "padding_side", "return_attention_mask", "feature_extractor_type",
              "processor_class", "auto_map"}  # fmt: skip


class AudioLanguageInputs(BatchFeature):
    """A batch of model inputs that keeps its waveforms in float32."""

    def to(self, *args: Any, **kwargs: Any) -> AudioLanguageInputs:
        """Move all tensors to a device, and cast the floating-point ones except `input_values`.

        The encoder computes its front end from the waveforms. In bfloat16 a waveform has 8 significant bits, which is
        audible noise, so a dtype never applies to it. The arguments are those of `torch.Tensor.to`.
        """
        waveforms = self.data.pop("input_values", None)
        super().to(*args, **kwargs)
        if waveforms is not None:
            device = kwargs.get("device", args[0] if args and not isinstance(args[0], torch.dtype) else None)
            moved = waveforms.to(device=device, non_blocking=kwargs.get("non_blocking", False))
            self.data = {"input_values": moved, **self.data}
        return self


class AudioLanguageFeatureExtractor(SequenceFeatureExtractor):
    """Reads clips and pads them; the encoder itself computes its spectrogram from the waveforms.

    Args:
        encoder: The encoder's config dictionary (sample rate, time grid).
        projector: The projector's config dictionary (LLM tokens per clip).
        sampling_rate: The encoder's, in Hz; None takes it. Another one is refused.
        **kwargs: Fields that `transformers` writes for every feature extractor; any other is refused.

    Raises:
        CheckpointError: `sampling_rate` is not the encoder's.
        UserError: An unknown field.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        encoder: dict[str, Any],
        projector: dict[str, Any],
        sampling_rate: int | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unknown("AudioLanguageFeatureExtractor", kwargs, {*_INHERITED, "encoder", "projector"})
        self.encoder, self.projector = encoder, projector
        if sampling_rate not in (None, self.encoder_config.sample_rate):
            raise CheckpointError(
                f"feature_extractor: sampling_rate is {sampling_rate}, the encoder takes "
                f"{self.encoder_config.sample_rate} Hz; restore the processor of this model"
            )
        super().__init__(feature_size=1, sampling_rate=self.encoder_config.sample_rate, padding_value=0.0)

    @cached_property
    def encoder_config(self) -> EncoderConfig:
        """The encoder's config."""
        return config_from_dict(self.encoder)

    @cached_property
    def projector_config(self) -> ProjectorConfig:
        """The projector's config."""
        return projector_config(self.projector)

    def n_audio_tokens(self, n_samples: int) -> int:
        """LLM tokens that a clip of `n_samples` takes in the prompt.

        Raises:
            AudioError: It is too short for one token.
        """
        return self.projector_config.n_tokens_for(self.encoder_config.n_time_for(n_samples))

    def __call__(
        self,
        raw_speech: Any,
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = "pt",
        return_attention_mask: bool | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
        sampling_rate: int | None = None,
        device: str | torch.device | None = None,
    ) -> AudioLanguageInputs:
        """Pad clips to one length.

        Args:
            raw_speech: A clip or a list of clips: mono float waveforms in [-1, 1] as arrays, tensors or lists of
                numbers; or what `fetch_audio` reads.
            truncation: Cut clips at `max_length`.
            pad_to_multiple_of: Pad to a multiple of this many samples.
            return_tensors: Only `pt`.
            return_attention_mask: False omits `padding_mask`, if no clip is padded.
            padding: True or `longest`; `max_length` pads to `max_length`; False refuses clips of different length.
            max_length: Samples to cut or pad to.
            sampling_rate: Rate of the waveforms in Hz. None assumes the encoder's; any other is refused.
            device: Where the tensors are put.

        Returns:
            `input_values` (C, S) float32, and `padding_mask` (C, S) bool, False after the end of a clip.

        Raises:
            AudioError: A clip is not a mono waveform, is empty, or has another rate.
        """
        check_return_tensors(return_tensors)
        self.check_sampling_rate(sampling_rate, raw_speech)
        _, inputs = self.pad_clips(
            self.read(raw_speech), truncation, pad_to_multiple_of, return_attention_mask, padding, max_length
        )
        batch = AudioLanguageInputs(inputs)
        return batch if device is None else batch.to(device=device)

    def pad_clips(
        self,
        clips: Sequence[np.ndarray],
        truncation: bool = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        padding: bool | str = True,
        max_length: int | None = None,
    ) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Lengths in samples, and model inputs, of clips that `read` has returned; arguments as for `__call__`."""
        if truncation and max_length is not None:
            clips = [clip[:max_length] for clip in clips]
        lengths, batch = collate_waveforms(clips)
        longest = max(lengths, default=0)
        extra = padded_width(lengths, padding, max_length, pad_to_multiple_of, "audio") - longest
        if extra:
            batch = {key: torch.nn.functional.pad(value, (0, extra)) for key, value in batch.items()}
        if return_attention_mask is False:
            if extra or min(lengths, default=0) < longest:
                raise UserError(
                    "return_attention_mask=False: the clips are padded, so the model needs their mask"
                )
            del batch["padding_mask"]
        return lengths, batch

    def check_sampling_rate(self, sampling_rate: int | None, audio: Any = None) -> None:
        """Refuse a rate other than the encoder's; warn if waveforms have no rate, as `transformers` does."""
        if sampling_rate is None and any(not is_source(clip) for clip in clips_in(audio)):
            logger.warning_once(
                f"It is strongly recommended to pass `sampling_rate`: waveforms are taken to be at "
                f"{self.sampling_rate} Hz. Failing to do so can result in silent errors."
            )
        elif sampling_rate not in (None, self.sampling_rate):
            raise AudioError(
                f"sampling_rate is {sampling_rate}, this model's encoder takes {self.sampling_rate} Hz; give the file "
                "itself, which is resampled while it is read, or resample the waveform (encoders.audio.resample)"
            )

    def read(self, audio: Any) -> list[np.ndarray]:
        """The clips of a call as a flat list of waveforms; a clip given several times is read once, to one array.

        Raises:
            AudioError: A clip cannot be read, or is no mono waveform.
        """
        found: dict[Any, np.ndarray] = {}
        clips = []
        for clip in clips_in(audio):
            key = clip if is_source(clip) else id(clip)
            if key not in found:
                found[key] = load_audio(clip, self.sampling_rate) if is_source(clip) else as_waveform(clip)
            clips.append(found[key])
        return clips

    def fetch_audio(self, audio_url_or_urls: Any, sampling_rate: int | None = None) -> Any:
        """Read files and addresses with this toolkit's reader, which resamples; waveforms pass as they are.

        Args:
            audio_url_or_urls: A path, an `http(s):` or `data:` address, the bytes of a file, a waveform; or lists of
                these.
            sampling_rate: The encoder's, or None.

        Returns:
            The same structure, every entry a waveform.

        Raises:
            AudioError: A file or an address cannot be read, or another rate is asked for.
        """
        if sampling_rate is not None:
            self.check_sampling_rate(sampling_rate)
        if is_source(audio_url_or_urls):
            return load_audio(audio_url_or_urls, self.sampling_rate)
        if isinstance(audio_url_or_urls, list | tuple) and not is_waveform(audio_url_or_urls):
            return [self.fetch_audio(item) for item in audio_url_or_urls]
        return audio_url_or_urls

    def to_dict(self) -> dict[str, Any]:
        """The values to save: the configs from which token counts and sample rate are computed."""
        return {
            "feature_extractor_type": type(self).__name__,
            "auto_map": {"AutoFeatureExtractor": AUTO_MAP["AutoFeatureExtractor"]},
            "encoder": self.encoder,
            "projector": self.projector,
            "sampling_rate": self.sampling_rate,
            "feature_size": self.feature_size,
            "padding_value": self.padding_value,
        }

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoFeatureExtractor") -> None:
        """Do nothing: a saved directory names the installed toolkit, not a copy of its code."""

    @classmethod
    def from_dict(cls, feature_extractor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build it from a saved dictionary; overrides that it does not know are refused by name."""
        if not kwargs.get("return_unused_kwargs"):
            known = {*feature_extractor_dict, "return_unused_kwargs", "trust_remote_code"}
            refuse_unknown("AudioLanguageFeatureExtractor.from_pretrained", kwargs, known)
        return super().from_dict(feature_extractor_dict, **kwargs)


def collate_waveforms(clips: Sequence[np.ndarray]) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Pad clips to one length.

    Args:
        clips: C arrays (S_i,), mono float32.

    Returns:
        The lengths in samples, and the model's audio inputs: `input_values` (C, S) float32, and `padding_mask` (C, S)
        bool, False after the end of a clip.
    """
    padded, lengths = pad_batch(clips)
    mask = torch.arange(padded.shape[1])[None] < lengths[:, None]
    return lengths.tolist(), {"input_values": padded, "padding_mask": mask}


def is_source(clip: Any) -> bool:
    """Whether a clip is something to read (a path, an address, a file's bytes) and no waveform."""
    return isinstance(clip, str | bytes | os.PathLike)


def is_waveform(clip: Any) -> bool:
    """Whether this is one waveform: an array, a tensor, or a list of numbers."""
    if isinstance(clip, list | tuple):
        return bool(clip) and isinstance(clip[0], int | float | np.number)
    return isinstance(clip, np.ndarray | torch.Tensor)


def clips_in(audio: Any) -> list[Any]:
    """One clip, a list of clips, or lists of lists of clips, as a flat list.

    Raises:
        AudioError: A number stands beside a clip, as in `(waveform, rate)`.
    """
    if audio is None:
        return []
    if isinstance(audio, list | tuple) and not is_waveform(audio):
        return [clip for item in audio for clip in clips_in(item)]
    if isinstance(audio, int | float):
        raise AudioError(f"audio: {audio} stands beside a clip; give a rate as sampling_rate={audio}")
    return [audio]


def audio_of_base64(text: Any) -> Any:
    """The bytes behind a `base64` item; a `data:` address stays what it is.

    Raises:
        AudioError: It is not base64.
    """
    if is_url(text):
        return text
    try:
        return decode_base64(str(text))
    except ValueError as error:
        raise AudioError(f"audio: is not valid base64 ({error}); encode the file's bytes again") from error


def as_waveform(clip: Any) -> np.ndarray:
    """One clip as a mono waveform (S,) float32.

    Raises:
        AudioError: It has several channels, is empty, is not of floating-point numbers, not finite, or far above full
            scale, unless `audio.peak` is `normalise`.
    """
    if isinstance(clip, torch.Tensor):
        clip = clip.detach().cpu()
        clip = (clip.float() if clip.is_floating_point() else clip).numpy()
    if isinstance(clip, dict) and "array" in clip:  # a row of a `datasets` data set
        raise AudioError("audio: got a dictionary; give its 'array', and its rate as sampling_rate")
    if not is_waveform(clip):
        raise AudioError(
            f"audio: {shown(clip, 60)} is not a waveform; give an array, tensor, list of numbers, path or address"
        )
    array = np.asarray(clip)
    if array.ndim == 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 1 or not array.size:
        raise AudioError(
            f"audio: a waveform has shape {array.shape}, expected (S,), mono; average its channels, or give a list of "
            "clips"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise AudioError(
            f"audio: a waveform has dtype {array.dtype}, expected floating-point numbers in [-1, 1]; divide 16-bit "
            "integers by 32768"
        )
    if not np.isfinite(array).all():
        raise AudioError("audio: a waveform holds NaN or infinite samples; record or export it again")
    peak = float(np.abs(array).max())
    if peak > LARGEST_SANE_PEAK:
        if AudioOptions.current().peak == "refuse":
            raise AudioError(
                f"audio: the peak of a waveform is {peak:.4g}, full scale is 1; divide 16-bit samples by 32768"
            )
        array = array / peak
    return np.asarray(array, dtype=np.float32)


def padded_width(
    lengths: Sequence[int], padding: Any, max_length: int | None, multiple_of: int | None, what: str
) -> int:
    """The length that rows are padded to, by `transformers`' padding rules.

    Args:
        lengths: Lengths of the rows.
        padding: True or `longest`, `max_length`, False or `do_not_pad`.
        max_length: The length for `max_length`.
        multiple_of: Round up to a multiple of this.
        what: The rows, for messages.

    Raises:
        UserError: `max_length` is not given, rows are longer, or rows that are not to be padded differ in length.
    """
    rule = str(getattr(padding, "value", padding))
    longest = max(lengths, default=0)
    if rule in ("False", "None", "do_not_pad"):
        if len(set(lengths)) > 1:
            raise UserError(
                f"padding={padding}: the {what} rows have lengths from {min(lengths)} to {longest}; use padding=True"
            )
        return longest
    if rule == "max_length":
        if max_length is None or longest > max_length:
            raise UserError(
                f"padding='max_length': max_length is {max_length}, the longest {what} row is {longest}; raise it"
            )
        longest = max_length
    elif rule not in ("True", "longest"):
        raise UserError(f"padding: got {padding!r}, expected True, False, 'longest' or 'max_length'")
    return longest if not multiple_of else -(-longest // multiple_of) * multiple_of


def check_return_tensors(return_tensors: Any) -> None:
    """Refuse anything but PyTorch tensors.

    Raises:
        UserError: Another format is asked for.
    """
    if getattr(return_tensors, "value", return_tensors) not in ("pt", "auto"):
        raise UserError(
            f"return_tensors: got {return_tensors!r}, only 'pt' is supported: the model takes tensors"
        )


AutoFeatureExtractor.register(AudioLanguageConfig, AudioLanguageFeatureExtractor, exist_ok=True)
