"""The arguments of `AudioLanguageModel.from_pretrained`; an argument without an effect is refused, with the reason."""

from __future__ import annotations

import copy
import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from alm.common.errors import UserError
from alm.common.pretrained import typed_errors
from alm.configuration import (
    OWN_KEYS,
    AudioLanguageConfig,
    check_values,
    read_config_values,
    read_model_config,
)

_HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")
_PLACEMENT = ("max_memory", "offload_folder", "offload_buffers")
_STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
# What the Auto classes and pipelines add about themselves
_INTERNAL = ("_from_auto", "_from_pipeline", "_commit_hash")
_STRICT = "loading is strict: every tensor must be there, with the name and the shape it was saved with"
_FILE = "the weights are in one file, model.safetensors"
_GONE = "it does nothing in transformers 5; remove it"
_KERNELS = "kernels of the Hub are code of others, which is not run"
_ADAPTERS = "load adapters with peft.PeftModel.from_pretrained(model, directory)"
_PLACED = ("encoder", "projector")
_SHARDED = "place the parts with device_map, or train on several devices with `alm train`"
_REFUSED = {
    "adapter_name": _ADAPTERS,
    "allow_all_kernels": _KERNELS,
    "code_revision": "the code is that of the installed toolkit",
    "device_mesh": _SHARDED,
    "disable_mmap": "the weights are read once and copied, and the file is closed then",
    "distributed_config": _SHARDED,
    "experts_implementation": "set it on the LLM: model.llm.set_experts_implementation(...)",
    "from_flax": _GONE,
    "from_tf": _GONE,
    "_fast_init": _GONE,
    "fusion_config": "fused layers change the outputs",
    "gguf_file": _FILE,
    "ignore_mismatched_sizes": _STRICT,
    "kernel_config": _KERNELS,
    "key_mapping": _STRICT,
    "mirror": _GONE,
    "offload_state_dict": _GONE,
    "proxies": "the Hub client takes them from the environment: set HTTPS_PROXY",
    "state_dict": "the weights are those of the directory; for others call load_state_dict",
    "tp_plan": _SHARDED,
    "tp_size": _SHARDED,
    "tqdm_class": "no progress bars are drawn",
    "use_kernels": _KERNELS,
    "use_safetensors": _FILE,
    "variant": _FILE,
    "weights_only": "pickled code is never run",
}
# Arguments that may be given with this value, because it is what happens without them (as are None, False and empty).
_AS_ALWAYS = {"use_safetensors": True, "weights_only": True, "code_revision": "main"}


# Keys of a text_config that are ignored. They do not change what the LLM computes; `quantization_config` would, but
# `llm_bits` already asks for it, and with both the loader would treat the stored weights as quantised.
_NOT_COMPUTING = frozenset(
    {"architectures", "dtype", "quantization_config", "transformers_version", "_name_or_path"}
)


@dataclasses.dataclass
class LoadingArguments:
    """The arguments of one call of `from_pretrained`, sorted by the part that uses them."""

    config: AudioLanguageConfig | str | os.PathLike[str] | None
    overrides: dict[str, Any]
    """Values of the model's or the LLM's config that differ from config.json."""
    hub: dict[str, Any]
    """Where files come from: `cache_dir`, `revision`, `subfolder`, `token`, ..."""
    llm: dict[str, Any]
    """For the LLM's own `from_pretrained`: `quantization_config`, its part of `device_map`, ..."""
    devices: dict[str, Any]
    """Devices of encoder and projector; None is the device of the LLM's embeddings. Empty: the CPU."""
    dtype: torch.dtype | None
    attention: str | dict[str, Any] | None
    generation_config: Any
    trust_remote_code: bool
    output_loading_info: bool
    low_memory: bool

    @classmethod
    def parse(cls, positional: tuple[Any, ...], config: Any, given: dict[str, Any]) -> LoadingArguments:
        """Sort the arguments of a call.

        Args:
            positional: Positional arguments after the directory; any is refused.
            config: The argument `config`.
            given: All keyword arguments.

        Raises:
            UserError: An argument is refused; names it and says why.
        """
        if positional:
            raise UserError("from_pretrained: takes one positional argument, the directory; name the others")
        if isinstance(config, PreTrainedConfig) and not isinstance(config, AudioLanguageConfig):
            raise UserError(
                f"from_pretrained: config is a {type(config).__name__}, expected an AudioLanguageConfig"
            )
        left = {key: value for key, value in given.items() if key not in _INTERNAL}
        for key, reason in _REFUSED.items():
            value = left.pop(key, None)
            if value not in (None, {}, _AS_ALWAYS.get(key, False)):
                raise UserError(f"from_pretrained: {key} is not supported: {reason}")
        adapter = left.pop("adapter_kwargs", None) or {}
        if more := sorted(adapter.keys() - {"revision", "token"}):  # those two come from the Auto classes
            raise UserError(f"from_pretrained: adapter_kwargs ({more[0]}) is not supported: {_ADAPTERS}")
        dtypes = [left.pop(key, None) for key in ("dtype", "torch_dtype")]
        llm, devices = _placement(
            left.pop("device_map", None), {key: left.pop(key, None) for key in _PLACEMENT}
        )
        if (quantisation := left.pop("quantization_config", None)) is not None:
            llm["quantization_config"] = quantisation
        dtype = _dtype(dtypes[0] if dtypes[0] is not None else dtypes[1])
        if llm and dtype is not None:
            llm["dtype"] = dtype  # what is offloaded or quantised cannot be cast afterwards
        hub = {key: left.pop(key, None) for key in _HUB}
        return cls(
            config=config,
            hub={key: value for key, value in hub.items() if value not in (None, "")},
            llm=llm,
            devices=devices,
            dtype=dtype,
            attention=left.pop("attn_implementation", None),
            generation_config=left.pop("generation_config", None),
            trust_remote_code=bool(left.pop("trust_remote_code", False)),
            output_loading_info=bool(left.pop("output_loading_info", False)),
            low_memory=bool(left.pop("low_cpu_mem_usage", False)),
            overrides=left,
        )

    def read_config(self, folder: Path) -> tuple[AudioLanguageConfig, dict[str, Any], dict[str, Any]]:
        """The config to build from: that of the directory or the given one, with the overrides of the call.

        Args:
            folder: The model's directory; its own config.json is validated in any case.

        Returns:
            The config; the values of its text_config that differ from the directory's; and the values of the
            directory's config.json.

        Raises:
            CheckpointError: A config.json is broken.
            UserError: An override has no such key or a wrong value.
        """
        stored = read_config_values(folder)
        own = read_model_config(folder, self.trust_remote_code, stored)
        config = copy.deepcopy(own)
        if isinstance(self.config, AudioLanguageConfig):
            config = copy.deepcopy(self.config)
            check_values({key: getattr(config, key) for key in OWN_KEYS}, "config")
            if (
                config.llm is not None
                and not Path(config.llm).is_absolute()
                and os.path.isdir(folder / config.llm)
            ):
                config.llm = str((folder / config.llm).resolve())
            self.attention = self.attention or _asked_attention(config)
            config._attn_implementation = None  # the loaded parts check this themselves
        elif self.config is not None:
            config = read_model_config(Path(self.config), self.trust_remote_code)
        for key, value in self.overrides.items():
            if key in OWN_KEYS:
                check_values({key: value}, "from_pretrained")
                setattr(config, key, value)
            elif hasattr(config.text_config, key):
                with typed_errors(f"from_pretrained: {key}={value!r}", UserError):
                    setattr(config.text_config, key, value)
            else:
                raise UserError(
                    f"from_pretrained: unknown argument '{key}'; the configs of the model and its LLM lack it"
                )
        before, after = own.get_text_config().to_dict(), config.get_text_config().to_dict()
        changed = {
            key: value
            for key, value in after.items()
            if key not in _NOT_COMPUTING and (key not in before or value != before[key])
        }
        return config, changed, stored


def _asked_attention(config: AudioLanguageConfig) -> str | dict[str, Any] | None:
    """The `attn_implementation` given to an Auto class, which puts it into the config."""
    asked: dict[str, Any] = {
        "": config._attn_implementation,
        "text_config": config.get_text_config()._attn_implementation,
        "encoder": config._attn_encoder,
    }
    if len(set(asked.values())) == 1:
        return config._attn_implementation
    return {key: value for key, value in asked.items() if value is not None}


def _dtype(value: Any) -> torch.dtype | None:
    """A dtype given as such or by name; None for `auto`, the stored one."""
    if value is None or value == "auto":
        return None
    found = getattr(torch, value, None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UserError(
            f"from_pretrained: dtype is {value!r}, expected 'auto' or a floating-point dtype of torch"
        )
    return found


def _placement(device_map: Any, more: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The LLM's own arguments of placement, and the devices of encoder and projector."""
    given = {key: value for key, value in more.items() if value not in (None, False)}
    if device_map is None:
        if given:
            raise UserError(f"from_pretrained: {next(iter(given))} needs a device_map, for example 'auto'")
        return {}, {}
    if device_map in _STRATEGIES:
        return {"device_map": device_map, **given}, dict.fromkeys(_PLACED)
    if not isinstance(device_map, dict):
        device_map = {"": device_map}
    whole = device_map.get("")
    devices, llm = dict.fromkeys(_PLACED, whole), {} if whole is None else {"": whole}
    for name, device in device_map.items():
        part, _, inside = name.partition(".")
        if part == "llm":
            llm[inside] = device
        elif name in _PLACED:
            devices[name] = device
        elif name:
            raise UserError(
                f"from_pretrained: device_map: unknown part '{name}'; expected encoder, projector, llm, or "
                "llm.* for parts of the LLM"
            )
    if None in devices.values() or not llm:
        raise UserError("from_pretrained: device_map: encoder, projector and llm each need a device")
    for name, device in devices.items():
        if device in ("disk", "meta"):
            raise UserError(f"from_pretrained: device_map: {name} cannot be on '{device}'; only the LLM can")
    return {"device_map": llm, **given}, devices
