"""WavLM (Chen et al. 2022), from any `microsoft/wavlm-*` checkpoint, through `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encoders.hf_speech import SpeechConfig, SpeechEncoder


@dataclass(frozen=True)
class WavLMEncoderConfig(SpeechConfig):
    """Defaults are the base size, which does not normalise waveforms (the large one does)."""

    model_class: str = "WavLMEncoder"
    do_normalize: bool = False

    model_types: ClassVar[tuple[str, ...]] = ("wavlm",)
    config_name: ClassVar[str] = "WavLMConfig"


class WavLMEncoder(SpeechEncoder):
    """The last hidden state of `WavLMModel`, one token every 20 ms."""

    config_class = WavLMEncoderConfig
    model_name = "WavLMModel"
    # Its attention reads the weights of its projections and never calls them, so adapters there would do nothing.
    lora_targets = ("intermediate_dense", "output_dense")
    licence = "CC-BY-SA-3.0"
    n_parameters = 94_381_168


ENCODER = WavLMEncoder
