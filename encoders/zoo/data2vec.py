"""data2vec for audio (Baevski et al. 2022), from any `facebook/data2vec-audio-*` checkpoint, through `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encoders.hf_speech import SpeechConfig, SpeechEncoder


@dataclass(frozen=True)
class Data2VecAudioEncoderConfig(SpeechConfig):
    """Defaults are the base size."""

    model_class: str = "Data2VecAudioEncoder"

    model_types: ClassVar[tuple[str, ...]] = ("data2vec-audio",)
    config_name: ClassVar[str] = "Data2VecAudioConfig"


class Data2VecAudioEncoder(SpeechEncoder):
    """The last hidden state of `Data2VecAudioModel`, one token every 20 ms."""

    config_class = Data2VecAudioEncoderConfig
    model_name = "Data2VecAudioModel"
    # Past the first of its position convolutions the padding is no longer zero and leaks into the clip.
    pads = False
    licence = "Apache-2.0"
    n_parameters = 93_163_520
    tiny_values = {"num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 5}


ENCODER = Data2VecAudioEncoder
