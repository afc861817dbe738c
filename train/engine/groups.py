"""Parameter groups: which component a parameter belongs to, its learning rate, weight decay and layer-wise factor."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import nn

from alm.common.errors import ConfigError
from alm.policy import adapter_keys
from train.settings.optim import ComponentOptim, OptimSettings


@runtime_checkable
class HasComponents(Protocol):
    """A model made of an encoder, a projector and an LLM."""

    @property
    def components(self) -> dict[str, nn.Module]:
        """The parts by the names of their submodules."""
        ...


def component_names(model: nn.Module) -> dict[str, str]:
    """The component of every parameter: encoder, encoder_lora, projector, llm or llm_lora; `""` for any other.

    Parameters of the encoder that train with the projector (`AudioEncoder.readout`) belong to the projector.
    """
    parts = model.components if isinstance(model, HasComponents) else {}
    readout = {id(parameter) for parameter in getattr(parts.get("encoder"), "readout", [])}
    adapters = {f"{part}.{key}" for part, module in parts.items() for key in adapter_keys(module)}
    found = {}
    for name, parameter in model.named_parameters():
        part = name.partition(".")[0]
        part = part if part in parts else ""
        if id(parameter) in readout:
            part = "projector"
        found[name] = f"{part}_lora" if name in adapters else part
    return found


def layer_scales(encoder: nn.Module, decay: float, where: str = "finetune.layer_decay") -> dict[str, float]:
    """Compute the factor of each encoder parameter's learning rate (Clark et al. 2020; BEiT, MAE).

    Block i of L (from 0) has the factor `decay ** (L - i)`, parameters before the blocks `decay ** (L + 1)`, parameters
    after them 1. The blocks are the encoder's longest `ModuleList`; in a fusion of encoders each has its own.

    Args:
        encoder: Any encoder built of a list of blocks.
        decay: In (0, 1].
        where: The config key, for messages.

    Returns:
        Parameter name to factor.

    Raises:
        ConfigError: The encoder has no list of blocks.
    """
    parts: dict[str, nn.Module] = getattr(encoder, "named_parts", dict)()
    if parts:
        return {
            f"{part}.{name}": scale
            for part, module in parts.items()
            for name, scale in layer_scales(module, decay, where).items()
        }
    prefix, blocks = repeated_blocks(encoder)
    if not blocks:
        raise ConfigError(f"{where}={decay}: {type(encoder).__name__} has no list of blocks; set it to 1")
    n_blocks, seen_blocks = len(blocks), False
    scales = {}
    for name, _ in encoder.named_parameters():
        if name.startswith(f"{prefix}."):
            seen_blocks = True
            depth = int(name[len(prefix) + 1 :].split(".")[0]) + 1
        else:
            depth = n_blocks + 1 if seen_blocks else 0
        scales[name] = decay ** (n_blocks + 1 - depth)
    return scales


def repeated_blocks(model: nn.Module) -> tuple[str, Sequence[nn.Module]]:
    """Name and content of the list of blocks that a transformer repeats; empty where there is none.

    It is the outermost `ModuleList` with the most parameters. The longest list would be wrong: a mixture of experts may
    have more experts in a block than blocks, and a speech encoder more convolutions than blocks.
    """
    # Not its subclasses: the parts of a parametrised weight are such a list, too.
    lists = {name: part for name, part in model.named_modules() if type(part) is nn.ModuleList}
    sizes = {
        name: sum(parameter.numel() for parameter in part.parameters())
        for name, part in lists.items()
        if not any(name.startswith(f"{other}.") for other in lists)
    }
    name = max(sizes, key=lambda name: sizes[name], default="")
    return name, list(lists[name]) if lists else []


def parameter_groups(
    model: nn.Module, optim: OptimSettings, decayed: Collection[str]
) -> list[dict[str, Any]] | None:
    """Groups of the trainable parameters by component, learning rate and weight decay.

    Args:
        model: The model.
        optim: Learning rates and weight decay.
        decayed: Names of the parameters with weight decay.

    Returns:
        Groups with `params`, `lr`, `weight_decay` and `component`, in the order of the model's parameters; None where
        no component has settings of its own.

    Raises:
        ConfigError: `layer_decay` of an encoder without blocks.
    """
    given = optim.components.given()
    if not given and optim.layer_decay == 1:
        return None
    components, scales = component_names(model), {}
    if optim.layer_decay != 1 and isinstance(model, HasComponents):
        own = layer_scales(model.components["encoder"], optim.layer_decay, "optim.layer_decay")
        scales = {f"encoder.{name}": scale for name, scale in own.items()}
    groups: dict[tuple[str, float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        component = components[name]
        settings = given.get(component, ComponentOptim())
        lr = optim.lr if settings.lr is None else settings.lr
        lr *= scales.get(name, 1.0) if component == "encoder" else 1.0
        decay = optim.weight_decay if settings.weight_decay is None else settings.weight_decay
        groups.setdefault((component, lr, decay if name in decayed else 0.0), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay, "component": component}
        for (component, lr, decay), parameters in groups.items()
    ]


def clip_groups(model: nn.Module, optim: OptimSettings) -> list[tuple[list[nn.Parameter], float]]:
    """Parameters whose gradients are clipped together, and their largest norm (0: not clipped); empty: all together."""
    own = {name: part for name, part in optim.components.given().items() if part.max_grad_norm is not None}
    if not own:
        return []
    components = component_names(model)
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            component = components[name]
            groups.setdefault(component if component in own else "", []).append(parameter)
    norms = {name: float(part.max_grad_norm or 0) for name, part in own.items()} | {"": optim.max_grad_norm}
    return [(parameters, norms[name]) for name, parameters in groups.items()]
