"""HuBERT (Hsu et al. 2021), from any `facebook/hubert-*` checkpoint, through `transformers`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from encoders.hf_speech import TINY, SpeechConfig, SpeechEncoder


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

    @classmethod
    def tiny(cls, seed: int = 0) -> Self:
        """A tiny random instance in the large size's layout (layer norms), windows of half a second."""
        layout = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
        return cls._tiny(HubertEncoderConfig(transformers={**TINY, **layout}, window_s=0.5), seed)


ENCODER = HubertEncoder
