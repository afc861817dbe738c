"""A saved model's tensors, one by one as vLLM reads them: each is checked, and adapters are merged into the LLM."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from alm.common.errors import CheckpointError
from alm.common.json_text import parse_json
from alm.configuration import AudioLanguageConfig
from alm.loading.files import WEIGHTS
from alm.loading.parts import take_stored_dtypes
from alm.policy import adapter_keys, inject_lora
from encoders.checkpoint import is_finite, load_strict, require_fit
from encoders.checksums import ENTRY, checksum

_ADAPTERS = (".lora_A.", ".lora_B.")


class WeightStream:
    """One pass over a model's tensors.

    The LLM's tensors are passed on to vLLM one by one, so that this process never holds the whole LLM. The tensors of
    encoder, projector and adapters are few and are kept.

    Args:
        config: The model's config.
        folder: The model's directory.

    Raises:
        CheckpointError: A tensor of the LLM or its adapters is missing, unexpected or has the wrong shape.
    """

    def __init__(self, config: AudioLanguageConfig, folder: Path) -> None:
        self.config = config
        self.file = folder / WEIGHTS
        self.parts: dict[str, dict[str, Tensor]] = {"encoder": {}, "projector": {}}
        with safe_open(self.file, "pt") as stored:
            self.shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
            self.checksums = parse_json(
                (stored.metadata() or {}).get(ENTRY, "{}"), str(self.file), CheckpointError
            )
            self.adapters = {
                key.removeprefix("llm."): stored.get_tensor(key)
                for key in self.shapes
                if key.startswith("llm.") and any(mark in key for mark in _ADAPTERS)
            }
        self.left = set(self.shapes)
        llm = self._described_llm()
        self.transposed = {name for name, module in llm.named_modules() if isinstance(module, Conv1D)}
        if config.llm_lora is not None:
            with torch.device("meta"):
                inject_lora(llm, config.llm_lora)
        self._check_names(llm)
        self.merged: set[str] = set()

    def _described_llm(self) -> Any:
        """The LLM that the config describes, without memory."""
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(
                copy.deepcopy(self.config.get_text_config()), trust_remote_code=False
            )

    def _check_names(self, llm: Any) -> None:
        """Compare the file's header with the LLM's tensors; vLLM leaves out what it does not know."""
        wanted = {key: tuple(value.shape) for key, value in llm.state_dict().items()}
        if self.config.llm is not None:
            kept = adapter_keys(llm)
            wanted = {key: shape for key, shape in wanted.items() if key in kept}
        elif llm.config.tie_word_embeddings:
            for key in llm._tied_weights_keys or {}:
                wanted.pop(key, None)
        found = {
            key.removeprefix("llm."): shape for key, shape in self.shapes.items() if key.startswith("llm.")
        }
        other = [key for key in self.shapes if key.partition(".")[0] not in ("llm", *self.parts)]
        both = wanted.keys() & found.keys()
        require_fit(
            self.file,
            "AudioLanguageModel",
            [f"llm.{key} {shape}" for key, shape in wanted.items() if key not in found],
            [f"llm.{key} {shape}" for key, shape in found.items() if key not in wanted] + other,
            [
                f"llm.{key}: {found[key]} for {wanted[key]}"
                for key in sorted(both)
                if found[key] != wanted[key]
            ],
        )

    def of_llm(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The LLM's tensors by their names in a checkpoint of its own, adapters merged; the others are kept.

        Args:
            weights: All tensors of the model's file, then those of the LLM it refers to, with the prefix `llm.`.

        Raises:
            CheckpointError: Values other than those that were saved, or NaN.
        """
        for name, tensor in weights:
            self._check_values(name, tensor)
            part, _, key = name.partition(".")
            if part in self.parts:
                self.parts[part][key] = tensor
            elif key not in self.adapters:
                key = key.replace(".base_layer.", ".")
                yield key, self._with_adapter(key, tensor)

    def _check_values(self, name: str, tensor: Tensor) -> None:
        self.left.discard(name)
        if name in self.checksums and self.checksums[name] != f"{checksum(tensor):08x}":
            raise CheckpointError(
                f"{self.file}: the values of {name} are not those that were saved (checksum); restore the file"
            )
        if tensor.is_floating_point() and not is_finite(tensor):
            raise CheckpointError(f"{self.file}: {name} holds NaN or Infinity; restore the weights")

    def _with_adapter(self, key: str, tensor: Tensor) -> Tensor:
        """A base weight merged with its adapter's matrices in float32; without an adapter, the weight as it is."""
        module = key.removesuffix(".weight")
        down = self.adapters.get(f"{module}.lora_A.default.weight")
        if key == module or down is None:
            return tensor
        up = self.adapters[f"{module}.lora_B.default.weight"]
        assert self.config.llm_lora is not None
        scale = self.config.llm_lora["lora_alpha"] / self.config.llm_lora["r"]
        change: Tensor = scale * (up.float() @ down.float())
        self.merged |= {f"{module}.lora_A.default.weight", f"{module}.lora_B.default.weight"}
        merged: Tensor = tensor.float() + (change.T if module in self.transposed else change)
        return merged

    def finish(self) -> None:
        """Check that everything was there.

        Raises:
            CheckpointError: A tensor was not read, or an adapter has no weight to be merged into.
        """
        if self.left:
            raise CheckpointError(f"{self.file}: {sorted(self.left)[0]} was not read; restore the file")
        if apart := sorted(self.adapters.keys() - self.merged):
            raise CheckpointError(
                f"{self.file}: llm.{apart[0]} has no weight to be merged into; write the model with 'alm export'"
            )

    def fill(self, name: str, part: nn.Module) -> None:
        """Copy the tensors of encoder or projector into it, in the dtypes they were saved in.

        Args:
            name: `encoder` or `projector`.
            part: The module.

        Raises:
            CheckpointError: They do not fit.
        """
        stored = self.parts[name]
        take_stored_dtypes(part, stored)
        load_strict(part, stored, source=f"{self.file}: {name}")
        part.eval()
