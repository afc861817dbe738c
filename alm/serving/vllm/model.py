"""The model in vLLM's engine: our encoder and projector, and vLLM's implementation of the LLM.

Axis letters: C clips, S samples, M LLM tokens of a clip, D width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from vllm.model_executor.model_loader import DefaultModelLoader
from vllm.model_executor.models.interfaces import SupportsLoRA, SupportsMultiModal, SupportsPP
from vllm.model_executor.models.module_mapping import MultiModelKeys
from vllm.model_executor.models.utils import StageMissingLayer, init_vllm_registered_model, maybe_prefix
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.utils.torch_utils import set_default_torch_dtype

from alm.loading.files import WEIGHTS
from alm.loading.parts import audio_parts
from alm.serving.vllm.heads import pad_heads
from alm.serving.vllm.processing import DummyInputs, MultiModalProcessor, ProcessingInfo
from alm.serving.vllm.settings import config_of, folder_of
from alm.serving.vllm.weights import WeightStream


@MULTIMODAL_REGISTRY.register_processor(MultiModalProcessor, info=ProcessingInfo, dummy_inputs=DummyInputs)
class AudioLanguageForVllm(nn.Module, SupportsMultiModal, SupportsPP, SupportsLoRA):  # type: ignore[misc]
    """An audio-language model whose LLM is computed by vLLM.

    Encoder and projector keep the dtype they were saved in, and each device has all of them; the LLM is in the
    engine's dtype and is split over devices as vLLM splits it. LoRA adapters of the saved model are merged while it is
    loaded; vLLM's own adapters apply to the LLM.
    """

    allow_patterns_overrides = [WEIGHTS]
    _mark_tower_model: Any  # of SupportsMultiModal
    _mark_language_model: Any

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        model_config = vllm_config.model_config
        self.config = config_of(model_config)
        self.folder = folder_of(model_config)
        self.llm_dtype = model_config.dtype
        self.secondary_weights = []
        if self.config.llm is not None:
            self.secondary_weights.append(
                DefaultModelLoader.Source(self.config.llm, self.config.llm_revision, prefix="llm.")
            )
        # The filters of a front end are computed here, and would be rounded to the LLM's dtype.
        with self._mark_tower_model(vllm_config, "audio"), set_default_torch_dtype(torch.float32):
            self.encoder, self.projector = audio_parts(self.config)
        with self._mark_language_model(vllm_config):
            self.llm = init_vllm_registered_model(
                vllm_config=vllm_config,
                hf_config=self.config.get_text_config(),
                prefix=maybe_prefix(prefix, "llm"),
            )
        pad_heads(self.llm)
        self.make_empty_intermediate_tensors = self.llm.make_empty_intermediate_tensors
        self.packed_modules_mapping = getattr(self.llm, "packed_modules_mapping", {})

    @classmethod
    def get_placeholder_str(cls, modality: str, i: int) -> str | None:
        """Nothing: our renderer writes the placeholders."""
        return None

    def get_mm_mapping(self) -> Any:
        """The names of the submodules that are LLM, connector and encoder."""
        return MultiModelKeys.from_string_field(
            language_model="llm.", connector="projector.", tower_model="encoder."
        )

    def embed_multimodal(self, **kwargs: Any) -> list[Tensor]:
        """Embeddings (M, D) of each clip.

        Args:
            **kwargs: `input_values`: C waveforms (S,) float32 at the encoder's rate.
        """
        clips = kwargs.get("input_values")
        if clips is None:
            return []
        rows: dict[int, Tensor] = {}
        for group in similar_lengths([clip.shape[-1] for clip in clips]):
            padded = pad_sequence([clips[i] for i in group], batch_first=True)  # (C, S)
            audio = self.encoder(padded, torch.tensor([clips[i].shape[-1] for i in group]))
            projected, valid = self.projector(audio.tokens, audio.mask, audio.grid)  # (C, M, D), (C, M)
            rows |= {
                i: row[kept].to(self.llm_dtype) for i, row, kept in zip(group, projected, valid, strict=True)
            }
        return [rows[i] for i in range(len(clips))]

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The LLM's hidden states of the scheduled tokens."""
        if intermediate_tensors is not None:
            inputs_embeds = None
        return self.llm(input_ids, positions, intermediate_tensors, inputs_embeds=inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """The LLM's logits of hidden states."""
        logits: Tensor | None = self.llm.compute_logits(hidden_states)
        return logits

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Fill all parts; every tensor of the directory must fit, with the values that were saved.

        Returns:
            Names of the parameters that were filled.

        Raises:
            CheckpointError: A tensor is missing, unexpected, mis-shaped, not finite or changed.
        """
        stream = WeightStream(self.config, self.folder)
        with_llm = not isinstance(self.llm, StageMissingLayer)
        if with_llm:
            loaded = {f"llm.{name}" for name in self.llm.load_weights(stream.of_llm(weights)) or ()}
        else:
            loaded = set()
            for _ in stream.of_llm(weights):
                pass
        stream.finish()
        for name in ("encoder", "projector"):
            part = getattr(self, name)
            if not isinstance(part, StageMissingLayer):
                stream.fill(name, part)
                loaded |= {f"{name}.{key}" for key, _ in part.named_parameters()}
        return loaded


def similar_lengths(lengths: Sequence[int]) -> list[list[int]]:
    """Clips in groups whose longest is at most twice as long as their shortest: padding costs little memory.

    Args:
        lengths: Lengths of the clips in samples.

    Returns:
        Groups of indices, in order of length.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if groups and lengths[index] <= 2 * lengths[groups[-1][0]]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
