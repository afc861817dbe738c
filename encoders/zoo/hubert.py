"""HuBERT (Hsu et al. 2021), from any `facebook/hubert-*` checkpoint, through `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from encoders.hf_speech import SpeechConfig, SpeechEncoder


@dataclass(frozen=True)
class HubertEncoderConfig(SpeechConfig):
    """Defaults are the base size."""

    model_class: str = "HubertEncoder"

    model_types: ClassVar[tuple[str, ...]] = ("hubert",)
    config_name: ClassVar[str] = "HubertConfig"


class HubertEncoder(SpeechEncoder):
    """The last hidden state of `HubertModel`, one token every 20 ms."""

    config_class = HubertEncoderConfig
    model_name = "HubertModel"
    licence = "Apache-2.0"
    n_parameters = 94_370_944
    # The large size's layout.
    tiny_values = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}


ENCODER = HubertEncoder
