"""Which parts are trainable: frozen, LoRA (through peft) or full per component, and the table of parameters."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn

from alm.common.errors import ConfigError, UserError
from alm.common.peft_import import adapters_without_bitsandbytes
from alm.common.settings import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODER_CHOICES = ("frozen", "lora", "full")
PROJECTOR_CHOICES = ("frozen", "train")


@dataclasses.dataclass(frozen=True)
class LoraOptions:
    """LoRA adapters (Hu et al. 2021) on one component.

    Attributes:
        r: Rank.
        alpha: Scale numerator; the update is scaled by alpha / r.
        dropout: Dropout before the adapter's first matrix.
        targets: Suffixes of the linear layers to adapt; empty takes the component's default (all linear
            layers of the LLM except its head; the encoder's own `lora_targets`).
    """

    r: int = 8
    alpha: int = 16
    dropout: float = 0.0
    targets: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Policy:
    """Which components are frozen, adapted with LoRA or trained in full in a stage.

    Attributes:
        encoder: frozen, lora or full.
        projector: train or frozen.
        llm: frozen, lora or full.
        encoder_lora: Adapter options when `encoder` is lora.
        llm_lora: Adapter options when `llm` is lora.
        encoder_parts: frozen, lora or full for each part of a fusion of encoders, in their order; `encoder` must be the
            strongest of them (full, lora, frozen). Empty: `encoder` applies to all parts.
    """

    encoder: str = "frozen"
    projector: str = "train"
    llm: str = "frozen"
    encoder_lora: LoraOptions = LoraOptions()
    llm_lora: LoraOptions = LoraOptions()
    encoder_parts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key, choices in (
            ("encoder", ENCODER_CHOICES),
            ("projector", PROJECTOR_CHOICES),
            ("llm", ENCODER_CHOICES),
        ):
            check_choice(f"policy.{key}", getattr(self, key), choices)
        for choice in self.encoder_parts:
            if choice not in ENCODER_CHOICES:
                raise ConfigError(
                    f"policy.encoder_parts: got '{choice}', expected one of {', '.join(ENCODER_CHOICES)}"
                )
        strongest = max(self.encoder_parts, key=ENCODER_CHOICES.index, default=self.encoder)
        if self.encoder != strongest:
            raise ConfigError(
                f"policy.encoder: got '{self.encoder}' with encoder_parts {', '.join(self.encoder_parts)}; expected "
                f"'{strongest}', the strongest of them"
            )


def lora_values(options: LoraOptions, default_targets: tuple[str, ...] | str) -> dict[str, Any]:
    """The peft `LoraConfig` values that a policy stands for, as plain data to be saved."""
    targets = list(options.targets) or default_targets
    return {
        "r": options.r,
        "lora_alpha": options.alpha,
        "lora_dropout": options.dropout,
        "target_modules": list(targets) if not isinstance(targets, str) else targets,
    }


def check_lora(values: Any, where: str) -> None:
    """Validate adapter settings that were read from a file.

    Only the keys that `lora_values` writes are accepted: `peft` would import modules that other keys name, and treat a
    string as a regular expression that may take hours.

    Raises:
        ConfigError: Names the key.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: got {values!r}, expected r, lora_alpha, lora_dropout and target_modules")
    for key, (expected, is_valid) in _LORA_SCHEMA.items():
        if not is_valid(values.get(key)):
            raise ConfigError(f"{where}.{key}: got {str(values.get(key))[:80]!r}, expected {expected}")
    if unknown := sorted(map(str, values.keys() - _LORA_SCHEMA.keys())):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}; valid keys: {', '.join(_LORA_SCHEMA)}")


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


_LORA_SCHEMA: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "r": (
        "a whole number from 1 to 65536",
        lambda value: isinstance(value, int) and _is_number(value, 1, 65536),
    ),
    "lora_alpha": ("a number above 0", lambda value: _is_number(value, 1e-9, 1e9)),
    "lora_dropout": ("a number from 0 to 1", lambda value: _is_number(value, 0, 1)),
    "target_modules": ("a list of module names", _are_names),
}


def inject_lora(component: nn.Module, values: dict[str, Any]) -> None:
    """Add LoRA adapters to a component in place, without changing its class or its other key names."""
    from peft import LoraConfig, inject_adapter_in_model

    with adapters_without_bitsandbytes():
        inject_adapter_in_model(LoraConfig(task_type=None, **values), component, adapter_name="default")


def adapter_keys(component: nn.Module) -> set[str]:
    """State-dict keys of a component that belong to LoRA adapters (by module type, not by name)."""
    if "peft" not in sys.modules:
        return set()  # there can be no adapters; the import takes a second
    from peft.tuners.tuners_utils import BaseTunerLayer

    keys = set()
    for name, module in component.named_modules():
        if isinstance(module, BaseTunerLayer):
            for layer in module.adapter_layer_names:
                part = getattr(module, layer, None)
                if isinstance(part, nn.Module):
                    keys |= {f"{name}.{layer}.{key}" for key in part.state_dict()}
    return keys


def set_trainable(component: nn.Module, choice: str) -> None:
    """Freeze or unfreeze a component's parameters: frozen, lora (adapters only), or full/train."""
    adapters = adapter_keys(component)
    for name, parameter in component.named_parameters():
        is_adapter = name in adapters
        parameter.requires_grad_(choice in ("full", "train") or (choice == "lora" and is_adapter))


def trainable_table(components: dict[str, nn.Module], choices: dict[str, str]) -> str:
    """A text table: component, policy, parameters, trainable parameters, dtype."""
    rows = [("component", "policy", "parameters", "trainable", "dtype")]
    for name, module in components.items():
        parameters = list(module.parameters())
        dtypes = sorted({str(p.dtype).removeprefix("torch.") for p in parameters})
        rows.append(
            (
                name,
                choices[name],
                f"{sum(p.numel() for p in parameters):,}",
                f"{sum(p.numel() for p in parameters if p.requires_grad):,}",
                "/".join(dtypes) or "-",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return "\n".join(
        "  ".join(
            c.rjust(w) if i in (2, 3) else c.ljust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))
        )
        for r in rows
    )


def lora_targets_of_parts(encoder: nn.Module, targets: list[str], choices: dict[str, str]) -> list[str]:
    """Full names of the linear layers to adapt: those of the targets that lie in parts which get adapters."""
    adapted = tuple(f"{name}." for name, choice in choices.items() if choice == "lora")
    names = [
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear)
        and name.startswith(adapted)
        and any(name == target or name.endswith(f".{target}") for target in targets)
    ]
    if not names:
        raise UserError(f"policy.encoder_lora.targets={targets} matches no linear layer of a part with lora")
    return names


def lora_targets(llm: PreTrainedModel, values: dict[str, Any]) -> list[str]:
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
