"""The audio-language model: encode, project, splice into the prompt, decode with the LLM.

Axis letters: C clips, S samples, B batch, L prompt tokens, M LLM tokens of a clip, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import custom_object_save
from transformers.generation.candidate_generator import CandidateGenerator, PromptLookupCandidateGenerator
from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES

from alm.auto import AUTO_MAP, write_stub
from alm.common.errors import CheckpointError, UserError
from alm.common.files import make_folder, write_bytes_atomic
from alm.common.pretrained import from_pretrained, typed_errors
from alm.configuration import (
    ATTENTION_PARTS,
    AudioLanguageConfig,
    computing_sha256,
    read_config_values,
)
from alm.decoding import check_generation_config
from alm.head import causal_lm_loss
from alm.hub.model_card import README, Score, base_models, read_card, scores_in, write_card
from alm.hub.upload import push
from alm.llm import llm_fingerprint
from alm.loading.arguments import LoadingArguments
from alm.loading.files import WEIGHTS, check_saved_weights, check_shareable, resolve
from alm.loading.parts import (
    check_llm_size,
    referenced_llm,
    stored_llm,
    take_stored_dtypes,
    untrained_encoder,
)
from alm.loading.weight_samples import WeightSamples
from alm.policy import (
    Policy,
    adapter_keys,
    inject_lora,
    lora_targets,
    lora_targets_of_parts,
    lora_values,
    set_trainable,
    trainable_table,
)
from alm.processing.branches import branch_masks
from alm.processing.placeholders import PlaceholderAware, WordsOnly
from encoders import AudioEncoder, AudioTokens
from encoders.checkpoint import load_strict, read_weights, write_weights
from encoders.checksums import header_sha256
from projectors.base import Projector
from projectors.registry import build_projector, projector_config, projector_from_config

AUDIO_INPUTS = ("input_values", "padding_mask", "audio_index", "features", "features_mask", "audio_embeds")
"""Inputs of `AudioLanguageModel.forward` that hold audio; generation needs them in its first step only."""


class AudioLanguageModel(PreTrainedModel, GenerationMixin):
    """An audio encoder, a projector and a causal LLM in one `transformers` model.

    It is used like the audio-text models of `transformers`: `generate` returns prompts with their answers, and supports
    beams, sampling, streamers, caches and assistant models.
    """

    config_class = AudioLanguageConfig
    main_input_name = "input_ids"
    input_modalities = ("audio", "text")  # type: ignore[assignment]  # as the siblings have it
    supports_gradient_checkpointing = True
    # The LLM, and an encoder of `transformers`, check what they support themselves.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: AudioLanguageConfig,
        encoder: AudioEncoder | None = None,
        projector: Projector | None = None,
        llm: PreTrainedModel | None = None,
    ) -> None:
        """Assemble the parts; a part that is not given is built from the config, with random weights."""
        super().__init__(config)
        assert config.projector is not None
        self.encoder = encoder if encoder is not None else untrained_encoder(config)
        self.projector = projector or projector_from_config(projector_config(config.projector))
        self.llm: Any = (
            llm
            if llm is not None
            else AutoModelForCausalLM.from_config(copy.deepcopy(config.text_config), trust_remote_code=False)
        )
        for component, values in ((self.encoder, config.encoder_lora), (self.llm, config.llm_lora)):
            if values is not None:
                inject_lora(component, values)
        self._loaded_llm = None if config.llm is None else WeightSamples(self.llm)
        self.config.text_config = self.llm.config  # one object: changes of the LLM are seen in both
        self.generation_config = copy.deepcopy(self.llm.generation_config)
        taken = inspect.signature(self.llm.forward).parameters
        self._takes_positions, self._takes_kept = "position_ids" in taken, "logits_to_keep" in taken
        self.cache_name = "cache" if "cache" in taken else "past_key_values"
        """Name of the cache in the LLM's inputs and outputs; transformers 5.24 calls it `cache`."""
        for name in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # peft chooses its layers by these
            if getattr(self.llm, name, False):
                setattr(self, name, True)
        # What `transformers` asks a model about its caches, its compilation and its distribution over devices
        for name in (
            "_is_stateful",
            "_can_compile_fullgraph",
            "_no_split_modules",
            "_skip_keys_device_placement",
        ):
            setattr(self, name, getattr(self.llm, name))
        self.all_tied_weights_keys = {
            f"llm.{tied}": f"llm.{source}"
            for tied, source in getattr(self.llm, "all_tied_weights_keys", {}).items()
        }
        # Text of README.md, and hash of the weights, in the directory that the model was loaded from.
        self._card: str | None = None
        self._loaded_weights: str | None = None
        self.choices = {"encoder": "frozen", "projector": "train", "llm": "frozen"}
        self.part_choices: dict[str, str] = {}
        self.apply_choices()

    @classmethod
    def assemble(
        cls,
        encoder: AudioEncoder,
        llm: PreTrainedModel,
        projector: str = "mlp",
        options: dict[str, Any] | None = None,
        *,
        llm_source: str | None = None,
        llm_bits: int | None = None,
        encoder_source: str | None = None,
    ) -> AudioLanguageModel:
        """A new model from a loaded encoder and a loaded LLM, with a fresh projector between them.

        Args:
            encoder: The audio encoder, with its weights.
            llm: The causal LLM, with its weights.
            projector: Name of the projector.
            options: The projector's options.
            llm_source: Hub id or directory the LLM came from; saved models then refer to it instead of
                holding a copy of its weights.
            llm_bits: 4 or 8 if `llm` was loaded quantised from `llm_source`; a reload quantises it again.
            encoder_source: Hub id, directory or file that the encoder came from, for the model card.
        """
        width = cast(nn.Embedding, llm.get_input_embeddings()).embedding_dim
        fresh = build_projector(projector, encoder, width, **(options or {}))
        config = AudioLanguageConfig(
            encoder=encoder.config.to_dict(),
            projector=fresh.config.to_dict(),
            # A copy: the outer model's constructor rewrites the attention settings of its sub-configs.
            text_config=copy.deepcopy(llm.config),
            llm=llm_source,
            llm_bits=llm_bits,
            base_models=base_models(
                encoder=encoder_source, llm=llm_source or llm.config._name_or_path or None
            ),
            **llm_fingerprint(llm_source, llm),
        )
        return cls(config, encoder, fresh, llm)

    @property
    def components(self) -> dict[str, nn.Module]:
        """The three parts by name."""
        return {"encoder": self.encoder, "projector": self.projector, "llm": self.llm}

    def centre_projector(self, mean: Tensor, scale: Tensor | None = None) -> None:
        """Let the projector subtract a vector (D,) from every encoder token; see `Projector.centre_on`."""
        self.projector.centre_on(mean, scale)
        self.config.projector = self.projector.config.to_dict()

    def set_policy(self, policy: Policy) -> str:
        """Set each component to frozen, LoRA or fully trained; returns the table of trainable parameters.

        LoRA adapters are added if the policy asks for them and the model has none yet. An LLM that is trained
        in full is saved with the model from then on, not as a reference.
        """
        for name, choice, options, kept in (
            ("encoder_lora", policy.encoder, policy.encoder_lora, self.config.encoder_lora),
            ("llm_lora", policy.llm, policy.llm_lora, self.config.llm_lora),
        ):
            if (
                choice == "lora"
                and kept is not None
                and (kept["r"], kept["lora_alpha"]) != (options.r, options.alpha)
            ):
                raise UserError(
                    f"policy.{name}: the model has adapters with r={kept['r']}, alpha={kept['lora_alpha']}, the "
                    f"config asks for r={options.r}, alpha={options.alpha}; use the model's, or start from "
                    "the aligned model"
                )
        part_choices = self._part_choices(policy)
        if "lora" in (policy.encoder, *part_choices.values()) and self.config.encoder_lora is None:
            self.config.encoder_lora = lora_values(policy.encoder_lora, self.encoder.lora_targets)
            if part_choices:
                self.config.encoder_lora["target_modules"] = lora_targets_of_parts(
                    self.encoder, self.config.encoder_lora["target_modules"], part_choices
                )
            inject_lora(self.encoder, self.config.encoder_lora)
        if policy.llm == "lora" and self.config.llm_lora is None:
            self.config.llm_lora = lora_values(policy.llm_lora, "all-linear-but-head")
            self.config.llm_lora["target_modules"] = lora_targets(self.llm, self.config.llm_lora)
            inject_lora(self.llm, self.config.llm_lora)
        if policy.llm == "full":
            if self.config.llm_bits is not None:
                raise UserError(
                    f"policy.llm: full, but the LLM is in {self.config.llm_bits} bits; use lora, or load it whole"
                )
            self.config.forget_llm()
        self.choices = {"encoder": policy.encoder, "projector": policy.projector, "llm": policy.llm}
        self.part_choices = part_choices
        self.apply_choices()
        for parameter in self.parameters():
            if parameter.requires_grad:  # bfloat16 would round most small updates to nothing
                parameter.data = parameter.data.float()
        shown_choices = {**self.choices, "encoder": "+".join(part_choices.values()) or policy.encoder}
        return trainable_table(self.components, shown_choices)

    def _part_choices(self, policy: Policy) -> dict[str, str]:
        """The policy of each part of a fusion of encoders, by submodule name; empty: all have the encoder's policy."""
        if not policy.encoder_parts:
            return {}
        names = list(self.encoder.named_parts())
        if len(names) != len(policy.encoder_parts):
            raise UserError(
                f"policy.encoder_parts: got {len(policy.encoder_parts)} choices, the encoder has {len(names) or 'no'} "
                "parts; give one for each part of a fusion of encoders"
            )
        return dict(zip(names, policy.encoder_parts, strict=True))

    def apply_choices(self) -> None:
        """Set `requires_grad` and train/eval mode of every component from `self.choices`."""
        for name, component in self.components.items():
            set_trainable(component, self.choices[name])
        for name, choice in self.part_choices.items():
            set_trainable(self.encoder.get_submodule(name), choice)
        for parameter in self.encoder.readout:
            parameter.requires_grad_(self.choices["projector"] == "train")
        self.train(self.training)

    def train(self, mode: bool = True) -> AudioLanguageModel:
        """Like `nn.Module.train`, but frozen components stay in eval mode (no dropout, fixed statistics)."""
        super().train(mode)
        for name, component in self.components.items():
            if self.choices[name] == "frozen":
                component.eval()
        for name, choice in self.part_choices.items():
            if choice == "frozen":
                self.encoder.get_submodule(name).eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The LLM's token embeddings."""
        return cast(nn.Module, self.llm.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the LLM's token embeddings."""
        self.llm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The LLM's head."""
        return cast(nn.Module, self.llm.get_output_embeddings())

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        """Replace the LLM's head."""
        self.llm.set_output_embeddings(new_embeddings)

    def get_decoder(self) -> nn.Module:
        """The LLM without its head."""
        return cast(nn.Module, self.llm.get_decoder())

    def get_encoder(self, modality: str | None = None) -> nn.Module:
        """The audio encoder for `modality="audio"`, as in transformers; the model itself for None."""
        if modality not in (None, "audio"):
            raise UserError(f"get_encoder: modality is {modality!r}, expected 'audio'")
        return self.encoder if modality == "audio" else self

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Tie the LLM's head to its embeddings if its config says so."""
        self.llm.tie_weights(*args, **kwargs)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any
    ) -> nn.Embedding:
        """Change the number of the LLM's token embeddings, as in transformers.

        The audio placeholder needs no embedding. From then on, the LLM's weights are saved with the model.

        Args:
            new_num_tokens: Number of embeddings; None changes nothing.
            *args: See `transformers.PreTrainedModel.resize_token_embeddings`.
            **kwargs: Likewise.

        Raises:
            UserError: The LLM is quantised.
        """
        if new_num_tokens is None and not (args or kwargs):
            return cast(nn.Embedding, self.get_input_embeddings())
        if getattr(self.llm, "hf_quantizer", None) is not None:
            raise UserError(
                "resize_token_embeddings: the LLM is quantised; load it unquantised, and quantise afterwards"
            )
        resized: nn.Embedding = self.llm.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        self.config.forget_llm()
        return resized

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> AudioTokens:
        """Run the encoder on clips.

        Args:
            input_values: (C, S) float32 waveforms in [-1, 1] at the encoder's sample rate.
            padding_mask: (C, S), 0 after the end of a clip; None if no clip is padded.

        Raises:
            UserError: A clip is padded on the left, or in the middle.
        """
        if padding_mask is None:
            padding_mask = torch.ones_like(input_values, dtype=torch.bool)
        if bool((padding_mask[:, 1:] > padding_mask[:, :-1]).any()):
            raise UserError(
                "padding_mask: a clip has padding before its end; pad clips on the right, as the processor does"
            )
        lengths = padding_mask.sum(dim=1)  # (C,) in samples
        learns = any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return cast(AudioTokens, self.encoder(input_values, lengths))

    def get_audio_features(
        self,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        audio_index: Tensor | None = None,
        features: Tensor | None = None,
        features_mask: Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """Encode and project clips, as the audio models of transformers do.

        Args:
            input_values: (C, S) float32 waveforms in [-1, 1] at the encoder's sample rate.
            padding_mask: (C, S), 0 after the end of a clip; None if no clip is padded.
            audio_index: (P,) long, the clip behind each placeholder span in reading order; None means 0..C-1.
            features: (C, N, D) encoder tokens of the clips, in place of `input_values`.
            features_mask: (C, N) bool, their mask; None if no clip is padded.

        Returns:
            `last_hidden_state` (C, N, D), the encoder's tokens, and `pooler_output` (n, D), the embeddings for all
            placeholder spans in reading order, without padding.
        """
        if features is not None:
            n_freq = self.encoder.config.n_freq
            mask = (
                torch.ones_like(features[..., 0], dtype=torch.bool)
                if features_mask is None
                else features_mask
            )
            audio = AudioTokens(features, mask, (features.shape[1] // n_freq, n_freq))
        elif input_values is not None:
            audio = self.encode(input_values, padding_mask)
        else:
            raise UserError("get_audio_features: got no audio; give input_values or features")
        projected, valid = self.projector(audio.tokens, audio.mask, audio.grid)  # (C, M, D), (C, M)
        if audio_index is not None:
            projected, valid = projected[audio_index], valid[audio_index]
        return BaseModelOutputWithPooling(last_hidden_state=audio.tokens, pooler_output=projected[valid])

    def embed(self, input_ids: Tensor, **audio: Tensor | None) -> Tensor:
        """Prompt embeddings (B, L, D), with audio at the placeholders.

        Args:
            input_ids: (B, L) long with one placeholder per audio token.
            **audio: Audio inputs of `forward`.

        Raises:
            UserError: The number of placeholders differs from the number of projected tokens.
        """
        is_audio = input_ids == self.config.audio_token_id
        # The placeholder's id may be outside the LLM's vocabulary: mask it before the embedding lookup.
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        given = {key: value for key, value in audio.items() if value is not None}
        if given:
            return embeds.masked_scatter(is_audio[..., None], self._audio_rows(is_audio, given).to(embeds))
        if bool(is_audio.any()):
            raise UserError("the prompts hold audio placeholders but no audio was given")
        return embeds

    def _audio_rows(self, is_audio: Tensor, audio: dict[str, Tensor]) -> Tensor:
        """Embeddings for the placeholders of prompts (B, L), in reading order: (n, D)."""
        rows = audio.get("audio_embeds")
        if rows is None:
            rows = self.get_audio_features(**audio).pooler_output
        assert rows is not None
        if rows.shape[0] != int(is_audio.sum()):
            raise UserError(
                f"the prompts hold {int(is_audio.sum())} audio placeholders but the clips give {rows.shape[0]} "
                "tokens; build the inputs with this model's own processor"
            )
        return rows

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        audio_index: Tensor | None = None,
        features: Tensor | None = None,
        features_mask: Tensor | None = None,
        audio_embeds: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        branches: Tensor | None = None,
        cache: Any = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the mean cross-entropy over supervised positions.

        Args:
            input_ids: (B, L) long with one placeholder per audio token.
            attention_mask: (B, L), 0 at padding.
            labels: (B, L) long, -100 at positions without loss.
            input_values: (C, S) float32 waveforms in [-1, 1] at the encoder's sample rate.
            padding_mask: (C, S), 0 after the end of a clip; None if no clip is padded.
            audio_index: (P,) long, the clip behind each placeholder span in reading order.
            features: (C, N, D) encoder tokens of the clips, in place of `input_values`.
            features_mask: (C, N) bool, their mask.
            audio_embeds: (n, D) embeddings for the placeholders in reading order, in place of all other audio inputs.
            position_ids: (B, L) long; None counts the tokens of a row that are not padding.
            past_key_values: A cache of `transformers`; if it holds tokens, `input_ids` are the tokens after them.
            inputs_embeds: (B, L, D), in place of `input_ids` and audio.
            logits_to_keep: Number of last positions whose logits are computed, or their indices; 0 computes all.
            branches: (B, L, 2) long, for rows of several questions about one clip, with `position_ids` in place of a
                mask; see `alm.processing.branches`.
            cache: Another name of `past_key_values`, which transformers 5.24 and later use.
            **kwargs: Passed to the LLM; `num_items_in_batch` divides the summed loss (the Trainer's convention).

        Returns:
            The LLM's output: logits (B, L, V) without labels, the loss alone with them (the head runs at supervised
            positions only).
        """
        audio = dict(
            zip(
                AUDIO_INPUTS,
                (input_values, padding_mask, audio_index, features, features_mask, audio_embeds),
                strict=True,
            )
        )
        inputs = self._llm_inputs(
            audio,
            input_ids,
            attention_mask,
            position_ids,
            past_key_values if cache is None else cache,
            inputs_embeds,
            **kwargs,
        )
        if branches is not None:
            inputs["attention_mask"] = branch_masks(
                self.llm.config, branches, inputs["position_ids"], inputs["inputs_embeds"].dtype
            )
        if labels is not None:
            if bool((labels == self.config.audio_token_id).any()):
                raise UserError(
                    "forward: labels hold audio placeholders, which the LLM cannot answer; set them to -100, as the "
                    "processor's output_labels=True does"
                )
            return causal_lm_loss(self.llm, labels, chunk=self.config.loss_chunk, **inputs)
        if self._takes_kept:
            return cast(CausalLMOutputWithPast, self.llm(**inputs, logits_to_keep=logits_to_keep))
        out = self.llm(**inputs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        out.logits = out.logits[:, kept]
        return cast(CausalLMOutputWithPast, out)

    def _llm_inputs(
        self,
        audio: dict[str, Tensor | None],
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The LLM's inputs: prompts with embedded audio, mask, positions and cache."""
        inputs: dict[str, Any] = {"attention_mask": attention_mask, **kwargs}
        if inputs_embeds is not None:
            inputs["inputs_embeds"] = inputs_embeds
        elif input_ids is None:
            raise UserError("forward: got neither input_ids nor inputs_embeds")
        elif all(part is None for part in audio.values()) and _holds_tokens(cache):
            inputs["input_ids"] = input_ids  # later steps of generation: the new tokens are text
        else:
            inputs["inputs_embeds"] = self.embed(input_ids, **audio)
        if cache is not None:
            inputs[self.cache_name] = cache
        if self._takes_positions:
            if position_ids is None and isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
                length = (input_ids if inputs_embeds is None else inputs_embeds).shape[1]  # type: ignore[union-attr]
                position_ids = positions(attention_mask)[:, -length:]
            if position_ids is not None:
                inputs["position_ids"] = position_ids
        return inputs

    @property
    def base_model(self) -> nn.Module:
        """The model without the LLM's head, for trainers that compute log-probabilities from hidden states."""
        return _Body(self)

    @functools.wraps(GenerationMixin.generate)
    def generate(  # type: ignore[override]  # the same arguments, handed on
        self, inputs: Tensor | None = None, *args: Any, **kwargs: Any
    ) -> Any:
        """Continue prompts as in transformers: returns the prompts followed by the new ids.

        Prompts that are padded on the right are padded on the left first, also in what is returned.
        """
        name = "inputs" if inputs is not None else "input_ids"
        ids = inputs if inputs is not None else kwargs.get("input_ids")
        mask = kwargs.get("attention_mask")
        if mask is not None and ids is not None and mask.shape == ids.shape and not bool(mask[:, -1].all()):
            order = mask.argsort(dim=1, stable=True)  # padding to the left, the rest in its order
            moved = {name: ids, "attention_mask": mask, "position_ids": kwargs.get("position_ids")}
            kwargs |= {k: v.take_along_dim(order, dim=1) for k, v in moved.items() if v is not None}
            inputs = kwargs.pop("inputs", None)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]  # declared in a protocol only

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The inputs of one step, prepared by the LLM; audio is included while no part of the prompt is cached."""
        audio = {key: value for key in AUDIO_INPUTS if (value := kwargs.pop(key, None)) is not None}
        given = kwargs.pop("cache", None)
        cache = past_key_values if given is None else given
        step: dict[str, Any] = self.llm.prepare_inputs_for_generation(
            input_ids,
            next_sequence_length=next_sequence_length,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **{self.cache_name: cache},
            **kwargs,
        )
        ids = step.get("input_ids")
        if not audio or ids is None or (not is_first_iteration and _holds_tokens(cache)):
            return step
        if ids.shape[1] < input_ids.shape[1]:  # the cache holds the first clips of a conversation already
            is_audio = input_ids == self.config.audio_token_id
            is_new = torch.ones_like(is_audio)
            is_new[:, : -ids.shape[1]] = False
            audio = {"audio_embeds": self._audio_rows(is_audio, audio)[is_new[is_audio]]}
        return step | audio

    def _expand_inputs_for_generation(  # type: ignore[override]  # LongTensor is a Tensor
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Repeat every prompt with its clips for its beams or samples; each clip is encoded once."""
        audio = {key: value for key in AUDIO_INPUTS if (value := model_kwargs.pop(key, None)) is not None}
        if expand_size > 1 and audio and input_ids is not None:
            is_audio = input_ids == self.config.audio_token_id
            parts = self._audio_rows(is_audio, audio).split(is_audio.sum(dim=1).tolist())
            audio = {"audio_embeds": torch.cat([part for part in parts for _ in range(expand_size)])}
        ids, expanded = super()._expand_inputs_for_generation(  # type: ignore[misc]
            expand_size=expand_size,
            is_encoder_decoder=is_encoder_decoder,
            input_ids=cast(torch.LongTensor, input_ids),
            **model_kwargs,
        )
        return ids, expanded | audio

    def _get_logits_processor(self, *args: Any, **kwargs: Any) -> LogitsProcessorList:
        found = super()._get_logits_processor(*args, **kwargs)  # type: ignore[misc]
        return PlaceholderAware(self.config.audio_token_id, found) if found else found

    def _get_candidate_generator(self, *args: Any, **kwargs: Any) -> CandidateGenerator:
        found: CandidateGenerator = super()._get_candidate_generator(*args, **kwargs)  # type: ignore[misc]
        if isinstance(found, PromptLookupCandidateGenerator):
            return WordsOnly(self.config.audio_token_id, found)
        return found

    def _supports_default_dynamic_cache(self) -> bool:  # type: ignore[override]  # a class method there
        return cast(bool, self.llm._supports_default_dynamic_cache())

    def save_pretrained(  # type: ignore[override]  # arguments that concern several files are in `kwargs`
        self,
        save_directory: Any,
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        *,
        variant: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write config, weights and generation settings; each file is replaced atomically, the config last.

        An LLM that `config.llm` refers to is not stored, only its adapters. One whose weights have changed since it was
        loaded, for example because adapters of peft were merged into it, is stored from then on.

        Args:
            save_directory: Created if needed.
            is_main_process: False writes nothing: another process does.
            state_dict: Gathered weights, if a sharded trainer holds them.
            push_to_hub: Also upload the model, to `repo_id` or the directory's name, with the arguments of
                `push_to_hub`.
            variant: Refused: a directory holds one set of weights.
            **kwargs: Arguments of `push_to_hub`; others are ignored: the Trainer passes them.

        Raises:
            CheckpointError: The directory cannot be written.
            UserError: `variant` is given, or the LLM has changed in a way that cannot be saved.
        """
        if variant is not None:
            raise UserError(
                f"save_pretrained: variant={variant!r} is not supported: the weights are in one file, {WEIGHTS}"
            )
        if not is_main_process:
            return
        for name, part in (("encoder", self.encoder), ("llm", self.llm)):
            if getattr(self.config, f"{name}_lora") is None and adapter_keys(part):
                raise UserError(
                    f"{save_directory}: peft has put adapters into the {name}, which config.json does not describe; "
                    "save them with PeftModel.save_pretrained, or merge them before (merge_and_unload)"
                )
        changed = self._loaded_llm is not None and self._loaded_llm.differ(self.llm)
        if getattr(self.llm, "hf_quantizer", None) is not None and (changed or self.config.llm is None):
            why = "has changed since" if changed else "is stored with the model, and was quantised while"
            raise UserError(
                f"{save_directory}: the quantised LLM {why} it was loaded; load the model unquantised, change and save "
                "it (merge adapters there), and quantise it again when you load it"
            )
        if self.config.llm is not None and changed:
            self.config.forget_llm()
        folder = make_folder(save_directory, CheckpointError)
        state = state_dict or self.state_dict()
        skipped = self._absent_keys()
        write_weights(folder / WEIGHTS, {key: value for key, value in state.items() if key not in skipped})
        values = json.loads(json.dumps(self.config.to_dict()))
        values["architectures"] = [type(self).__name__.removeprefix("FSDP")]  # `fully_shard` adds FSDP
        for nested in (values, values["text_config"]):
            nested.pop("_name_or_path", None)  # a path of this machine; `llm` names the source
        if values.get("llm") and os.path.isdir(values["llm"]):
            values["llm"] = os.path.relpath(Path(values["llm"]).resolve(), folder.resolve())
        if self.config.llm is None:
            for own in (self.config.text_config, self.llm):
                if own._auto_class is not None:  # Python code that came with the LLM
                    custom_object_save(own, folder, config=values["text_config"])
        values["auto_map"] = AUTO_MAP
        values["config_sha256"] = computing_sha256(values)
        values["weights_header_sha256"] = header_sha256(folder / WEIGHTS)
        self.generation_config.save_pretrained(folder)
        write_stub(folder)
        scores = self._known_scores(folder, values["weights_header_sha256"])
        write_card(folder, self, before=self._card, scores=scores)
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        write_bytes_atomic(folder / "config.json", text.encode(), CheckpointError)
        if push_to_hub:
            names = inspect.signature(self.push_to_hub).parameters
            options = {key: value for key, value in kwargs.items() if key in names}
            self.push_to_hub(**{"repo_id": folder.resolve().name, **options})

    def _known_scores(self, folder: Path, weights: str) -> list[Score]:
        """Scores of exactly these weights, from the card that the model was loaded with or the card in the folder."""
        found = scores_in(self._card) if weights == self._loaded_weights else []
        with suppress(UserError):
            if not found and read_config_values(folder).get("weights_header_sha256") == weights:
                found = scores_in(read_card(folder / README))
        return found

    def _absent_keys(self) -> set[str]:
        """State-dict keys that are not stored: base weights of a referenced LLM, else a head tied to the embeddings."""
        if self.config.llm is not None:
            return self._llm_keys()
        if self.llm.config.tie_word_embeddings:  # safetensors refuses shared memory; tying restores the head
            return {f"llm.{key}" for key in (self.llm._tied_weights_keys or {})}
        return set()

    def _llm_keys(self) -> set[str]:
        """State-dict keys of the LLM without its adapters."""
        adapters = adapter_keys(self.llm)
        return {f"llm.{key}" for key in self.llm.state_dict() if key not in adapters}

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str | None = None,
        tags: list[str] | None = None,
    ) -> str:
        """Upload the model with its card to the hub, as in transformers; text added to the card on the hub is kept.

        Args:
            repo_id: `name` or `organisation/name`.
            commit_message: First line of the commit.
            commit_description: Further lines.
            private: Whether a new repository is private; None is the hub's default.
            token: Token of the hub; None takes the stored one.
            revision: Branch; it is created if it does not exist.
            create_pr: Open a pull request instead of committing to the branch.
            max_shard_size: Refused: the weights are in one file.
            tags: More tags for the card.

        Returns:
            The address of the commit.

        Raises:
            UserError: Nobody else could load the model: it refers to an LLM in a directory of this machine.
            CheckpointError: The hub cannot be reached, or refuses.
        """
        check_shareable(self.config.llm)
        if max_shard_size not in (None, "50GB"):
            raise UserError("push_to_hub: max_shard_size is not supported: the weights are in one file")

        def save(folder: Path) -> None:
            self.save_pretrained(folder)
            written = scores_in(read_card(folder / README))
            write_card(folder, self, scores=written, source=repo_id, tags=tags or ())

        return push(
            save, repo_id, what="model", commit_message=commit_message, commit_description=commit_description,
            private=private, token=token, revision=revision, create_pr=create_pr,
        )  # fmt: skip

    @classmethod
    def register_for_auto_class(cls, auto_class: Any = "AutoModel") -> None:
        """Do nothing: a saved directory names the installed toolkit, not a copy of its code."""

    def set_attn_implementation(
        self, attn_implementation: str | dict[str, Any], allow_all_kernels: bool = False
    ) -> None:
        """Choose how attention is computed, as in transformers.

        Args:
            attn_implementation: `sdpa`, `eager`, `flash_attention_2`, ... for the LLM, and for an encoder that has the
                choice; or a dictionary with the keys `text_config` and `encoder`.
            allow_all_kernels: See `transformers.PreTrainedModel.set_attn_implementation`.

        Raises:
            UserError: A named part does not support this implementation.
        """
        asked = attn_implementation if isinstance(attn_implementation, dict) else {}
        if unknown := sorted(map(str, asked.keys() - ATTENTION_PARTS)):
            raise UserError(
                f"attn_implementation: unknown part {unknown[0]!r}; expected text_config or encoder"
            )
        for name, part in (("text_config", self.llm), ("encoder", self.encoder)):
            value = attn_implementation if not isinstance(attn_implementation, dict) else asked.get(name)
            if value is None:
                continue
            dispatching = next((one for one in part.modules() if isinstance(one, PreTrainedModel)), None)
            if dispatching is None or not dispatching._can_set_attn_implementation():
                if name == "encoder" and not asked:
                    continue  # given for the model as a whole
                raise UserError(
                    f"attn_implementation: {type(dispatching or part).__name__} ({name}) has one implementation of "
                    f"attention, and takes no {value!r}"
                )
            with typed_errors(f"attn_implementation: {name}", UserError):
                dispatching.set_attn_implementation(value, allow_all_kernels)
        self.config._attn_implementation_internal = asked.get("", self.llm.config._attn_implementation)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Load a model directory strictly: every tensor must be there, with its shape, finite, and no other.

        The values must be those that were saved: checksums in the weights file's header are compared while it is read.

        Args:
            pretrained_model_name_or_path: Directory written by `save_pretrained`, or a Hub id.
            *model_args: None are accepted.
            config: An `AudioLanguageConfig`, or a directory with one, in place of the directory's own.
            **kwargs: As in transformers: `dtype` (the stored one by default), `device_map`, `quantization_config` (of
                the LLM), `attn_implementation`, `generation_config`, `revision`, `subfolder`, `cache_dir`, `token`,
                `output_loading_info`, `trust_remote_code` (runs Python code in the directory of a referenced LLM), ...,
                and values of the config that differ. What is not supported is refused by name; see
                `alm.loading.arguments`.

        Returns:
            The model in eval mode, on the CPU without a `device_map`; with `output_loading_info` also a dictionary.

        Raises:
            CheckpointError: A file is missing or broken, a tensor is missing, unexpected, mis-shaped or not finite, or
                the referenced LLM is missing or not the one the model was trained with.
            UserError: An argument that is not supported.
        """
        asked = LoadingArguments.parse(model_args, config, kwargs)
        folder = resolve(pretrained_model_name_or_path, **asked.hub)
        config, changed, stored_config = asked.read_config(folder)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise CheckpointError(f"{folder}: {WEIGHTS} is missing; the model was not saved completely")
        llm = None
        if config.llm is not None:
            llm = referenced_llm(config, folder, asked, changed)
        stored = read_weights(weights)
        if config.llm is None:
            llm_class = check_llm_size(config, stored, folder)
            if asked.llm or asked.low_memory:
                llm = stored_llm(llm_class, config, stored, asked, str(weights))
        with typed_errors(f"{folder / 'config.json'}: cannot build the model"):
            model = cls(config, llm=llm)
        take_stored_dtypes(model, stored)
        absent = model._absent_keys()
        if config.llm is None and llm is not None:
            absent |= model._llm_keys()
        if doubled := sorted(absent & stored.keys()):
            raise CheckpointError(
                f"{weights}: holds {doubled[0]}, which {folder / 'config.json'} says is stored elsewhere; restore "
                "the config of these weights"
            )
        if config.llm_lora is not None and any(parameter.is_meta for parameter in model.llm.parameters()):
            raise UserError(
                "from_pretrained: device_map: an LLM with adapters cannot be offloaded to disk; merge them with "
                "`alm export` first"
            )
        load_strict(model, stored, source=str(weights), allow_missing=tuple(absent))
        header = check_saved_weights(folder, stored_config)  # last, because the other checks name the tensor
        if config.llm is None:
            model.llm.tie_weights()
        model._take_generation_config(folder, asked.generation_config)
        model._card, model._loaded_weights = read_card(folder / README), header
        model._place(asked.devices, asked.dtype)
        if asked.attention is not None:
            model.set_attn_implementation(asked.attention)
        model.eval()  # type: ignore[no-untyped-call]
        if asked.output_loading_info:
            return model, {
                "missing_keys": set(),
                "unexpected_keys": set(),
                "mismatched_keys": set(),
                "error_msgs": [],
            }
        return model

    def _take_generation_config(self, folder: Path, given: GenerationConfig | None) -> None:
        """Generation settings: those given, else those saved with the model, else the LLM's."""
        if given is None and (folder / "generation_config.json").is_file():
            given = from_pretrained(GenerationConfig, folder, role="generation_config.json")
        if given is not None:
            check_generation_config(given, str(folder / "generation_config.json"))
            self.generation_config = given

    def _place(self, devices: dict[str, Any], dtype: torch.dtype | None) -> None:
        """Put encoder and projector on their devices, and cast all parts; a quantised LLM keeps its dtypes."""
        if devices:
            start = next(self.get_input_embeddings().parameters()).device
            for name, device in devices.items():
                nn.Module.to(self.components[name], start if device is None else device)
            inner = getattr(self.llm, "hf_device_map", {"": start})
            self.hf_device_map = {
                **{name: next(iter(self.components[name].parameters())).device for name in devices},
                **{f"llm.{name}".rstrip("."): device for name, device in inner.items()},
            }
        for part in self.components.values() if dtype is not None else ():
            offloaded = any(parameter.is_meta for parameter in part.parameters())
            # Quantised and offloaded parts were loaded in the wanted dtype.
            if getattr(part, "hf_quantizer", None) is None and not offloaded:
                nn.Module.to(part, dtype)


class _Body(nn.Module):
    """Hidden states (B, L, D) of a model's prompts; holds no parameters of its own."""

    def __init__(self, model: AudioLanguageModel) -> None:
        super().__init__()
        self._whole = (model,)  # a tuple, so that it does not become a part

    def forward(self, **inputs: Any) -> Any:
        """Run encoder, projector and the LLM's body; takes what the model's `forward` takes, without labels."""
        (model,) = self._whole
        audio = {key: inputs.pop(key, None) for key in AUDIO_INPUTS}
        return model.llm.base_model(**model._llm_inputs(audio, **inputs))


def _holds_tokens(cache: Any) -> bool:
    return cache is not None and int(cache.get_seq_length()) > 0


def positions(attention_mask: Tensor) -> Tensor:
    """Positions (B, L) that count the real tokens of a row, wherever its padding is."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM):
    auto_class.register(AudioLanguageConfig, AudioLanguageModel, exist_ok=True)
# `transformers serve` looks a model up by these names alone, not among registered classes.
MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.setdefault(AudioLanguageConfig.model_type, AudioLanguageModel.__name__)
