"""Find projectors by file name: `projectors/<name>.py` with a module attribute `PROJECTOR`."""

from __future__ import annotations

from typing import Any

from alm.common.plugins import Registry
from projectors.base import Projector, ProjectorConfig, ProjectorError

PROJECTORS: Registry[type[Projector]] = Registry(
    "projector",
    "PROJECTOR",
    "projectors",
    accepts=lambda found: isinstance(found, type) and issubclass(found, Projector),
    expected="<a subclass of Projector>",
)


def list_projectors() -> list[str]:
    """Names of all projectors."""
    return PROJECTORS.names()


def projector_class(name: str) -> type[Projector]:
    """The class of a name.

    Raises:
        ConfigError: There is none (names the nearest), or its config class has another name than its file.
    """
    found = PROJECTORS.get(name)
    if found.config_class.name != name:
        raise ProjectorError(
            f"projector '{name}': its config class says name = {found.config_class.name!r}, so a saved model would "
            "not find it again; make it the file's name"
        )
    return found


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
    """The config object from its saved dictionary (`name` picks the class).

    Raises:
        ConfigError: No or unknown name, unknown or missing option, wrong type or size.
    """
    if not isinstance(values.get("name"), str):
        raise ProjectorError(
            f"projector: name is {values.get('name')!r}; expected one of {', '.join(list_projectors())}"
        )
    return projector_class(values["name"]).config_class.from_dict(values)


def projector_from_config(config: ProjectorConfig) -> Projector:
    """A fresh projector from its config."""
    return projector_class(config.name)(config)


def check_projector(name: str, options: dict[str, Any]) -> None:
    """Raise ProjectorError for an unknown projector or option; nothing is built."""
    ends = {"encoder_dim": 64, "n_freq": 1, "frame_rate_hz": 1.0, "llm_dim": 64}
    projector_class(name).config_class.from_dict({**ends, **options})
