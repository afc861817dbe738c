"""wav2vec 2.0 (Baevski et al. 2020), from any `facebook/wav2vec2-*` checkpoint, through `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encoders.hf_speech import SpeechConfig, SpeechEncoder


@dataclass(frozen=True)
class Wav2Vec2EncoderConfig(SpeechConfig):
    """Defaults are the base size."""

    model_class: str = "Wav2Vec2Encoder"

    model_types: ClassVar[tuple[str, ...]] = ("wav2vec2",)
    config_name: ClassVar[str] = "Wav2Vec2Config"


class Wav2Vec2Encoder(SpeechEncoder):
    """The last hidden state of `Wav2Vec2Model`, one token every 20 ms."""

    config_class = Wav2Vec2EncoderConfig
    model_name = "Wav2Vec2Model"
    licence = "Apache-2.0"
    n_parameters = 94_370_944


ENCODER = Wav2Vec2Encoder
