"""wav2vec 2.0 (Baevski et al. 2020), from any `facebook/wav2vec2-*` checkpoint, through `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from encoders.hf_speech import TINY, SpeechConfig, SpeechEncoder


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

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance with the base size's group norm and windows of half a second."""
        return cls._tiny(Wav2Vec2EncoderConfig(transformers=TINY, window_s=0.5), seed)


ENCODER = Wav2Vec2Encoder
