"""What changes from release to release of vLLM: where its names are, and where a model, a renderer and settings go.

Written for vLLM 0.32. The modules beside this one take vLLM's names from here; those that need a loaded model import
them late, because vLLM reads this module in each process before it is set up.
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
from vllm.model_executor.models.registry import ModelRegistry
from vllm.renderers.registry import RENDERER_REGISTRY
from vllm.tokenizers.registry import TokenizerRegistry

ARCHITECTURE = "AudioLanguageModel"
"""What `architectures` in config.json says."""
MODE = "alm"
"""vLLM's `tokenizer_mode` that selects our renderer; models of ours get it unless another one is asked for."""


class _ModelConfigHook(VerifyAndUpdateConfig):  # type: ignore[misc]
    """Called once, where vLLM reads the config of a model, before any process is started."""

    @staticmethod
    def verify_and_update_model_config(model_config: Any) -> None:
        from alm.serving.vllm.settings import prepare

        prepare(model_config)


def register_with_vllm() -> None:
    """Register model, renderer and settings; a second call changes nothing."""
    if MODELS_CONFIG_MAP.get(ARCHITECTURE) is _ModelConfigHook:
        return
    ModelRegistry.register_model(ARCHITECTURE, "alm.serving.vllm.model:AudioLanguageForVllm")
    MODELS_CONFIG_MAP[ARCHITECTURE] = _ModelConfigHook
    TokenizerRegistry.register(MODE, "vllm.tokenizers.hf", "CachedHfTokenizer")
    RENDERER_REGISTRY.register(MODE, "alm.serving.vllm.chat", "ConversationRenderer")
