"""Find projectors by file name: `projectors/<name>.py` with a module attribute `PROJECTOR`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from projectors.base import Projector, ProjectorConfig, ProjectorError


@cache
def _classes() -> dict[str, type[Projector]]:
    found = {}
    for info in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if info.name == "registry":
            continue
        module = importlib.import_module(f"projectors.{info.name}")
        if hasattr(module, "PROJECTOR"):
            found[info.name] = module.PROJECTOR
    return found


def list_projectors() -> list[str]:
    """Names of all projectors."""
    return sorted(_classes())


def projector_class(name: str) -> type[Projector]:
    """The class behind a name; ProjectorError with the nearest name if there is none."""
    classes = _classes()
    if name not in classes:
        near = difflib.get_close_matches(name, classes, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(sorted(classes))}"
        raise ProjectorError(f"no projector '{name}'; {hint}")
    return classes[name]


def build_projector(name: str, encoder: Any, llm_dim: int, **options: Any) -> Projector:
    """Build a fresh projector between an encoder and an LLM.

    Args:
        name: Registry name.
        encoder: Anything with `config.dim`, `config.n_freq` and `config.frame_rate_hz`.
        llm_dim: Width of the LLM's input embeddings.
        **options: The projector's own options.

    Raises:
        ProjectorError: Unknown name or option.
    """
    ends = {
        "encoder_dim": encoder.config.dim,
        "n_freq": encoder.config.n_freq,
        "frame_rate_hz": encoder.config.frame_rate_hz,
        "llm_dim": llm_dim,
    }
    cls = projector_class(name)
    return cls(cls.config_class.from_dict({**ends, **options}))


def projector_config(values: dict[str, Any]) -> ProjectorConfig:
    """The config object from its saved dictionary (`name` picks the class)."""
    return projector_class(values["name"]).config_class.from_dict(values)


def projector_from_config(config: ProjectorConfig) -> Projector:
    """A fresh projector from its config."""
    return projector_class(config.name)(config)


def check_projector(name: str, options: dict[str, Any]) -> None:
    """Raise ProjectorError for an unknown projector or option; nothing is built."""
    ends = {"encoder_dim": 64, "n_freq": 1, "frame_rate_hz": 1.0, "llm_dim": 64}
    projector_class(name).config_class.from_dict({**ends, **options})
