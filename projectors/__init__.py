"""Projectors: audio tokens to LLM-width embeddings; one file per projector, the file name is its name."""

import alm.common.errors  # noqa: F401, I001  registers the model, which imports modules of this package: before these do
from projectors.base import Projector, ProjectorConfig, ProjectorError
from projectors.registry import build_projector, list_projectors, projector_config, projector_from_config

__all__ = [
    "Projector",
    "ProjectorConfig",
    "ProjectorError",
    "build_projector",
    "list_projectors",
    "projector_config",
    "projector_from_config",
]
