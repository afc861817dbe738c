"""The audio-language model's config: nested encoder, projector and text configs, and where the LLM lives."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

AUDIO_TOKEN = "<|audio|>"


class AudioLanguageConfig(PreTrainedConfig):
    """Config of `alm.model.AudioLanguageModel`.

    Args:
        encoder: The encoder's own config as a dictionary (`model_class` picks the class).
        projector: The projector's config as a dictionary (`name` picks the class).
        text_config: The causal LLM's config.
        llm: Where the LLM's base weights are: a hub id, or a directory (relative to the model's own
            directory). None when they are stored in this model's own safetensors file.
        llm_revision: Hub revision of `llm`.
        llm_sha256: Content hash of a local `llm` directory's weights, checked on load.
        llm_bits: 4 or 8 where a referenced LLM is quantised while loading (bitsandbytes); None: it is not.
        encoder_lora: peft `LoraConfig` values of the encoder's adapters, or None.
        llm_lora: peft `LoraConfig` values of the LLM's adapters, or None.
        audio_token: Placeholder in prompts; its embedding is always replaced by audio.
        audio_token_id: The placeholder's id in the tokenizer; may lie outside the LLM's vocabulary.
        loss_chunk: Supervised positions whose logits are computed at once in training; 0 for all.
    """

    model_type = "audio_language"
    sub_configs = {"text_config": AutoConfig}

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        projector: dict[str, Any] | None = None,
        text_config: PreTrainedConfig | dict[str, Any] | None = None,
        llm: str | None = None,
        llm_revision: str | None = None,
        llm_sha256: str | None = None,
        llm_bits: int | None = None,
        encoder_lora: dict[str, Any] | None = None,
        llm_lora: dict[str, Any] | None = None,
        audio_token: str = AUDIO_TOKEN,
        audio_token_id: int | None = None,
        loss_chunk: int = 1024,
        **kwargs: Any,
    ) -> None:
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**text_config)
        self.encoder = encoder
        self.projector = projector
        self.text_config = text_config
        self.llm = llm
        self.llm_revision = llm_revision
        self.llm_sha256 = llm_sha256
        self.llm_bits = llm_bits
        self.encoder_lora = encoder_lora
        self.llm_lora = llm_lora
        self.audio_token = audio_token
        self.audio_token_id = audio_token_id
        self.loss_chunk = loss_chunk
        kwargs.setdefault("tie_word_embeddings", False)  # the LLM ties its own
        super().__init__(**kwargs)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The LLM's config; generation and the trainer read vocabulary and layer counts from it."""
        return self.text_config if self.text_config is not None else self


AutoConfig.register(AudioLanguageConfig.model_type, AudioLanguageConfig, exist_ok=True)
