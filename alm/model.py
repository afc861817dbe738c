"""The audio-language model: encode, project, splice into the prompt, decode with the LLM.

Axis letters: C clips, S samples, B batch, L prompt tokens, M LLM tokens of a clip, D width, V vocabulary.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import CausalLMOutputWithPast

from alm.common.errors import CheckpointError, UserError
from alm.common.files import sha256_of, write_bytes_atomic
from alm.common.json_text import read_json_object
from alm.common.pretrained import from_pretrained, typed_errors
from alm.configuration import AudioLanguageConfig, computing_sha256, read_model_config
from alm.decoding import check_generation_config
from alm.head import causal_lm_loss
from alm.llm import config_sha256, llm_fingerprint, load_llm, weights_sha256
from alm.policy import (
    Policy,
    adapter_keys,
    inject_lora,
    lora_values,
    set_trainable,
    trainable_table,
)
from encoders import AudioEncoder, AudioTokens, config_from_dict
from encoders.base import make_folder
from encoders.checkpoint import load_strict, read_weights, resolve_source, write_weights, wrong_dtype
from encoders.checksums import header_sha256
from encoders.registry import encoder_class
from projectors import Projector, build_projector, projector_config, projector_from_config

WEIGHTS = "model.safetensors"
# Keys of config.json that identify the weights file. `weights_sha256` is of the time before the header held checksums;
# it needs a second reading of the file.
_WEIGHTS_PINS = {"weights_header_sha256": header_sha256, "weights_sha256": sha256_of}


class AudioLanguageModel(PreTrainedModel):
    """An audio encoder, a projector and a causal LLM in one `transformers` model."""

    config_class = AudioLanguageConfig
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True

    def __init__(
        self,
        config: AudioLanguageConfig,
        encoder: AudioEncoder | None = None,
        projector: Projector | None = None,
        llm: PreTrainedModel | None = None,
    ) -> None:
        """Put the parts together; a part that is not given is built untrained from the config."""
        super().__init__(config)
        assert config.encoder is not None and config.projector is not None
        if encoder is None:
            encoder_config = config_from_dict(config.encoder)
            encoder = encoder_class(encoder_config.model_class)(encoder_config)
        self.encoder = encoder
        self.projector = projector or projector_from_config(projector_config(config.projector))
        self.llm: Any = (
            llm
            if llm is not None
            else AutoModelForCausalLM.from_config(copy.deepcopy(config.text_config), trust_remote_code=False)
        )
        for component, values in ((self.encoder, config.encoder_lora), (self.llm, config.llm_lora)):
            if values is not None:
                inject_lora(component, values)
        self.generation_config = self.llm.generation_config
        self._takes_positions = "position_ids" in inspect.signature(self.llm.forward).parameters
        self.choices = {"encoder": "frozen", "projector": "train", "llm": "frozen"}
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
            **llm_fingerprint(llm_source, llm),
        )
        return cls(config, encoder, fresh, llm)

    @property
    def components(self) -> dict[str, nn.Module]:
        """The three parts by name."""
        return {"encoder": self.encoder, "projector": self.projector, "llm": self.llm}

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
        if policy.encoder == "lora" and self.config.encoder_lora is None:
            self.config.encoder_lora = lora_values(policy.encoder_lora, self.encoder.lora_targets)
            inject_lora(self.encoder, self.config.encoder_lora)
        if policy.llm == "lora" and self.config.llm_lora is None:
            self.config.llm_lora = lora_values(policy.llm_lora, "all-linear-but-head")
            self.config.llm_lora["target_modules"] = _lora_targets(self.llm, self.config.llm_lora)
            inject_lora(self.llm, self.config.llm_lora)
        if policy.llm == "full":
            if self.config.llm_bits is not None:
                raise UserError(
                    f"policy.llm: full, but the LLM is in {self.config.llm_bits} bits; use lora, or load it whole"
                )
            self.config.forget_llm()
        self.choices = {"encoder": policy.encoder, "projector": policy.projector, "llm": policy.llm}
        self.apply_choices()
        for parameter in self.parameters():
            if parameter.requires_grad:  # bfloat16 would round most small updates to nothing
                parameter.data = parameter.data.float()
        return trainable_table(self.components, self.choices)

    def apply_choices(self) -> None:
        """Set `requires_grad` and train/eval mode of every component from `self.choices`."""
        for name, component in self.components.items():
            set_trainable(component, self.choices[name])
        for parameter in self.encoder.readout:
            parameter.requires_grad_(self.choices["projector"] == "train")
        self.train(self.training)

    def train(self, mode: bool = True) -> AudioLanguageModel:
        """Like `nn.Module.train`, but frozen components stay in eval mode (no dropout, fixed statistics)."""
        super().train(mode)
        for name, component in self.components.items():
            if self.choices[name] == "frozen":
                component.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The LLM's token embeddings."""
        return cast(nn.Module, self.llm.get_input_embeddings())

    def get_output_embeddings(self) -> nn.Module:
        """The LLM's head."""
        return cast(nn.Module, self.llm.get_output_embeddings())

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: Any = None, **kwargs: Any) -> None:
        """Recompute the LLM's activations in the backward pass."""
        self.llm.gradient_checkpointing_enable(gradient_checkpointing_kwargs, **kwargs)

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> AudioTokens:
        """Run the encoder on clips.

        Args:
            input_values: (C, S) float32 waveforms in [-1, 1] at the encoder's sample rate.
            padding_mask: (C, S), 0 after the end of a clip; None if no clip is padded.
        """
        if padding_mask is None:
            padding_mask = torch.ones_like(input_values, dtype=torch.bool)
        lengths = padding_mask.sum(dim=1)  # (C,) in samples
        learns = any(parameter.requires_grad for parameter in self.encoder.parameters())
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns):
            return cast(AudioTokens, self.encoder(input_values, lengths))

    def splice(
        self, embeds: Tensor, is_audio: Tensor, audio: AudioTokens, audio_index: Tensor | None
    ) -> Tensor:
        """Put projected audio where the placeholders stand.

        Args:
            embeds: (B, L, D) token embeddings.
            is_audio: (B, L) bool, True at placeholders.
            audio: Encoder tokens of C clips.
            audio_index: (P,) long, the clip behind each placeholder span in reading order; None means 0..C-1.

        Raises:
            UserError: The placeholders are not exactly as many as the projected tokens.
        """
        projected, valid = self.projector(audio.tokens, audio.mask, audio.grid)  # (C, M, D), (C, M)
        if audio_index is not None:
            projected, valid = projected[audio_index], valid[audio_index]
        rows = projected[valid].to(embeds.dtype)  # clips in reading order, padding dropped
        if rows.shape[0] != int(is_audio.sum()):
            raise UserError(
                f"the prompts hold {int(is_audio.sum())} audio placeholders but the clips give {rows.shape[0]} "
                "tokens; build the inputs with this model's own processor"
            )
        return embeds.masked_scatter(is_audio[..., None], rows)

    def embed(
        self,
        input_ids: Tensor,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        audio_index: Tensor | None = None,
        features: Tensor | None = None,
        features_mask: Tensor | None = None,
    ) -> Tensor:
        """Prompt embeddings (B, L, D) with audio in place; `features` skip the encoder."""
        is_audio = input_ids == self.config.audio_token_id
        # The placeholder's id may be outside the LLM's vocabulary: mask it before the embedding lookup.
        embeds: Tensor = self.get_input_embeddings()(input_ids.masked_fill(is_audio, 0))
        if features is not None:
            assert features_mask is not None
            n_freq = self.encoder.config.n_freq
            audio = AudioTokens(features, features_mask, (features.shape[1] // n_freq, n_freq))
            embeds = self.splice(embeds, is_audio, audio, audio_index)
        elif input_values is not None:
            embeds = self.splice(embeds, is_audio, self.encode(input_values, padding_mask), audio_index)
        elif bool(is_audio.any()):
            raise UserError("the prompts hold audio placeholders but no audio was given")
        return embeds

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        audio_index: Tensor | None = None,
        features: Tensor | None = None,
        features_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Logits, and the mean cross-entropy over supervised positions.

        Args:
            input_ids: (B, L) long with one placeholder per audio token.
            attention_mask: (B, L), 0 at padding.
            labels: (B, L) long, -100 where nothing is supervised.
            input_values: (C, S) float32 waveforms in [-1, 1] at the encoder's sample rate.
            padding_mask: (C, S), 0 after the end of a clip; None if no clip is padded.
            audio_index: (P,) long, the clip behind each placeholder span in reading order.
            features: (C, N, D) encoder tokens of the clips, in place of `input_values`.
            features_mask: (C, N) bool, their mask.
            **kwargs: Passed to the LLM; `num_items_in_batch` divides the summed loss (the Trainer's convention).

        Returns:
            The LLM's output: logits (B, L, V) without labels, the loss alone with them (the head runs at supervised
            positions only).
        """
        embeds = self.embed(input_ids, input_values, padding_mask, audio_index, features, features_mask)
        inputs = {"inputs_embeds": embeds, "attention_mask": attention_mask, **kwargs}
        if attention_mask is not None and self._takes_positions:
            inputs.setdefault("position_ids", positions(attention_mask)[:, -input_ids.shape[1] :])
        if labels is None:
            return cast(CausalLMOutputWithPast, self.llm(**inputs))
        return causal_lm_loss(self.llm, labels, chunk=self.config.loss_chunk, **inputs)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        input_values: Tensor | None = None,
        padding_mask: Tensor | None = None,
        audio_index: Tensor | None = None,
        features: Tensor | None = None,
        features_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Continue prompts, padded on either side; returns the new token ids only (B, n_new).

        `kwargs` are those of `transformers`' `generate`: sampling, beams, a streamer.
        """
        embeds = self.embed(input_ids, input_values, padding_mask, audio_index, features, features_mask)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        order = attention_mask.argsort(dim=1, stable=True)  # padding to the left, the rest in its order
        embeds = embeds.take_along_dim(order[..., None], dim=1)
        attention_mask = attention_mask.take_along_dim(order, dim=1)
        return cast(Tensor, self.llm.generate(inputs_embeds=embeds, attention_mask=attention_mask, **kwargs))

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """Write config, weights and generation settings; each file is replaced atomically, the config last.

        An LLM that `config.llm` refers to is not stored, only its adapters.

        Args:
            save_directory: Created if needed.
            *args: Ignored, as are other keywords; the Trainer passes them.
            **kwargs: `state_dict`: gathered weights, where a sharded trainer holds them.

        Raises:
            CheckpointError: The directory cannot be written.
        """
        folder = make_folder(save_directory)
        state = kwargs.get("state_dict") or self.state_dict()
        skipped = self._absent_keys()
        write_weights(folder / WEIGHTS, {key: value for key, value in state.items() if key not in skipped})
        values = json.loads(json.dumps(self.config.to_dict()))
        values["architectures"] = [type(self).__name__]
        for nested in (values, values["text_config"]):
            nested.pop("_name_or_path", None)  # a path of this machine, and `llm` says it already
        if values.get("llm") and Path(values["llm"]).is_dir():
            values["llm"] = os.path.relpath(Path(values["llm"]).resolve(), folder.resolve())
        if self.config.llm is None:
            for own in (self.config.text_config, self.llm):
                if own._auto_class is not None:  # Python code that came with the LLM
                    custom_object_save(own, folder, config=values["text_config"])
        values["config_sha256"] = computing_sha256(values)
        values["weights_header_sha256"] = header_sha256(folder / WEIGHTS)
        self.generation_config.save_pretrained(folder)
        text = json.dumps(values, indent=2, sort_keys=True) + "\n"
        write_bytes_atomic(folder / "config.json", text.encode(), CheckpointError)

    def _absent_keys(self) -> set[str]:
        """State-dict keys that are not stored: base weights of a referenced LLM, else a head tied to the embeddings."""
        if self.config.llm is not None:
            adapters = adapter_keys(self.llm)
            return {f"llm.{key}" for key in self.llm.state_dict() if key not in adapters}
        if self.llm.config.tie_word_embeddings:  # safetensors refuses shared memory; tying restores the head
            return {f"llm.{key}" for key in (self.llm._tied_weights_keys or {})}
        return set()

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:  # type: ignore[override]
        """Upload to the hub, as in transformers; refused where the LLM is a directory of this machine.

        Raises:
            UserError: Nobody else could load the model.
        """
        if self.config.llm is not None and Path(self.config.llm).is_dir():
            raise UserError(
                f"the model refers to its LLM in a directory of this machine ({self.config.llm}); write a "
                "self-contained copy with 'alm export' and push that"
            )
        return cast(str, super().push_to_hub(repo_id, **kwargs))  # type: ignore[arg-type]  # a decorator hides self

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> AudioLanguageModel:
        """Load a model directory strictly: every tensor must be there, with its shape, finite, and no other.

        The values must be those that were saved: checksums in the weights file's header are compared while it is read.

        Args:
            pretrained_model_name_or_path: Directory written by `save_pretrained`, or a Hub id.
            *args: None are accepted.
            **kwargs: `dtype`: dtype to cast to, the stored one by default. `trust_remote_code`: run Python code in the
                directory of a referenced LLM. What the Auto classes add on their own is ignored.

        Returns:
            The model in eval mode, on the CPU.

        Raises:
            CheckpointError: A file is missing or broken, a tensor is missing, unexpected, mis-shaped or not finite, or
                the referenced LLM is gone or not the one the model was trained with.
            UserError: An argument that is not supported.
        """
        dtype = kwargs.pop("dtype", None) or kwargs.pop("torch_dtype", None)
        own = {"config", "trust_remote_code", "adapter_kwargs", "revision", "code_revision"}
        unknown = sorted(key for key in kwargs if key not in own and not key.startswith("_"))
        if args or unknown or kwargs.get("revision", "main") not in (None, "main"):
            raise UserError(
                f"AudioLanguageModel.from_pretrained does not take {', '.join(unknown) or 'revision'}"
            )
        folder = resolve(pretrained_model_name_or_path)
        trusted = bool(kwargs.get("trust_remote_code"))
        config = read_model_config(folder, trusted)
        weights = folder / WEIGHTS
        if not weights.is_file():
            raise CheckpointError(f"{folder}: {WEIGHTS} is missing; the model was not saved completely")
        llm = None
        if config.llm is not None:
            llm = _referenced_llm(config, folder, trusted)
            config.text_config = copy.deepcopy(llm.config)
        stored = read_weights(weights)
        if llm is None:
            _check_llm_size(config, stored, folder)
        with typed_errors(f"{folder / 'config.json'}: cannot build the model"):
            model = cls(config, llm=llm)
        for key, value in model.state_dict(keep_vars=True).items():
            if key in stored and not wrong_dtype(stored[key], value):
                value.data = value.data.to(stored[key].dtype)  # float32 adapters of an LLM in bfloat16
        absent = model._absent_keys()
        if doubled := sorted(absent & stored.keys()):
            raise CheckpointError(
                f"{weights}: holds {doubled[0]}, which {folder / 'config.json'} says is stored elsewhere; restore "
                "the config of these weights"
            )
        load_strict(model, stored, source=str(weights), allow_missing=tuple(absent))
        _check_saved_weights(folder)  # last: other messages name the tensor
        if config.llm is None:
            model.llm.tie_weights()
            if (folder / "generation_config.json").is_file():  # a referenced LLM brings its own
                settings = from_pretrained(GenerationConfig, folder, role="model")
                check_generation_config(settings, str(folder / "generation_config.json"))
                model.generation_config = model.llm.generation_config = settings
        if dtype is not None and dtype != "auto":
            nn.Module.to(model, getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        model.eval()  # type: ignore[no-untyped-call]
        return model


def _check_saved_weights(folder: Path) -> None:
    """Refuse weights other than those saved with config.json, though all shapes may fit."""
    values = read_json_object(folder / "config.json", CheckpointError, constants=True)
    for key, hash_of in _WEIGHTS_PINS.items():
        pin = values.get(key)
        if pin is not None and pin != hash_of(folder / WEIGHTS):
            raise CheckpointError(
                f"{folder / WEIGHTS}: is not the file that was saved with {folder / 'config.json'} ({key}); restore "
                f"it, or remove {key} if you mean the change"
            )


def resolve(source: str | Path) -> Path:
    """The local directory of a model given as a directory or a Hub id, whose files are downloaded.

    Raises:
        CheckpointError: It does not exist, could not be downloaded, or is a file.
    """
    folder = resolve_source(
        source, patterns=["*.json", "*.safetensors", "*.bin", "*.jinja", "*.model", "*.txt"]
    )
    if not folder.is_dir():
        raise CheckpointError(f"{source}: is a file; give the directory of a trained model")
    return folder


def _referenced_llm(config: AudioLanguageConfig, folder: Path, trust_remote_code: bool) -> PreTrainedModel:
    """The LLM that a model refers to; refused if it is gone or has other weights than in training."""
    assert config.llm is not None
    local = Path(config.llm)
    if not local.is_dir() and (local.is_absolute() or config.llm.startswith(".")):
        # No Hub id: the model, or its LLM, was moved alone.
        missing = local if local.is_absolute() else Path(os.path.normpath(folder.absolute() / local))
        raise CheckpointError(
            f"{folder}: its LLM is not at {missing} ('llm' in {folder / 'config.json'} is '{config.llm}'); move it "
            "there or set 'llm' to where it is now; `alm export` writes a model that can be moved by itself"
        )
    if local.is_dir():
        found = weights_sha256(local)
        if config.llm_sha256 and found != config.llm_sha256:
            raise CheckpointError(
                f"{folder}: its LLM at {config.llm} has changed since training (weights sha256 {found[:12]}…, "
                f"expected {config.llm_sha256[:12]}…); restore that LLM or train again"
            )
        if config.llm_config_sha256 and config_sha256(local) != config.llm_config_sha256:
            raise CheckpointError(
                f"{local / 'config.json'}: was changed after {folder} was saved (llm_config_sha256); restore the file, "
                f"or remove llm_config_sha256 from {folder / 'config.json'} if you mean the change"
            )
    return load_llm(
        config.llm,
        revision=config.llm_revision,
        wanted_by=str(folder),
        bits=config.llm_bits,
        trust_remote_code=trust_remote_code,
    )


def _check_llm_size(config: AudioLanguageConfig, stored: dict[str, Tensor], folder: Path) -> None:
    """Compare the LLM that config.json describes with the weights file before memory is allocated for it."""
    path = folder / "config.json"
    with typed_errors(f"{path}: text_config: cannot build the LLM"), torch.device("meta"):
        described = AutoModelForCausalLM.from_config(
            copy.deepcopy(config.text_config), trust_remote_code=False
        )
    size = sum(parameter.numel() for parameter in described.parameters())
    found = sum(
        value.numel() for key, value in stored.items() if key.startswith("llm.") and "lora_" not in key
    )
    if (
        not found / 2 <= size <= found * 2
    ):  # a tied head makes a small difference; load_strict finds the others
        raise CheckpointError(
            f"{path}: text_config describes an LLM of {size:,} parameters, {WEIGHTS} holds {found:,}; restore the "
            "config or the weights"
        )


def positions(attention_mask: Tensor) -> Tensor:
    """Positions (B, L) that count the real tokens of a row, wherever its padding is."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _lora_targets(llm: PreTrainedModel, values: dict[str, Any]) -> list[str]:
    """Full names of the linear layers to adapt: the given suffixes, or all but the output head."""
    given = values["target_modules"]
    head = llm.get_output_embeddings()
    names = []
    for name, module in llm.named_modules():
        linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if linear and module is not head:
            if isinstance(given, str) or any(name == t or name.endswith(f".{t}") for t in given):
                names.append(name)
    if not names:
        raise UserError(f"policy.llm_lora.targets={given} matches no linear layer of {type(llm).__name__}")
    return names


AutoModelForCausalLM.register(AudioLanguageConfig, AudioLanguageModel, exist_ok=True)
